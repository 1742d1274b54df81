"""PASCAL VOC with the extra masks of SBDD: the papers' trainings of FCN on VGG-16.

The data set is a folder whose ``train`` split is SBDD's (8,498 images) and whose ``val`` split is
seg11valid (736 images); 12 epochs are the reference's 100,000 updates of one image. ``VGG`` is a
file of VGG-16's ImageNet weights in convolutional form, named as in ``fullyconv.networks.trunks.vgg``
(``trunk.block1.conv1_1.weight``, …), for the reference's input: BGR, 0..255, mean subtracted.
Without it nothing is learned: zero scores over untrained features pass little on. Expected scores are the
reference's mean IU on seg11valid.
"""

from fullyconv.facts import VOC
from fullyconv.train.chain import Chain
from fullyconv.train.recipe import Recipe

HEAVY_32S = Recipe(
    network="voc-fcn32s",
    classes=VOC.classes,
    preprocess=VOC.preprocess,
    crop=None,
    scale=(1.0, 1.0),
    flip=False,
    colour=0.0,
    epochs=12,
    batch=1,
    optimizer="caffe-sgd",
    learning_rate=1e-10,
    momentum=0.99,
    weight_decay=5e-4,
    normalization="batch",
    schedule="fixed",
    warmup=0.0,
    precision="fp32",
)
"""Heavy learning: whole images one by one, unnormalised loss, momentum 0.99 (PAMI paper; reference voc-fcn32s).

``fullyconv train voc-fcn32s --data VOC --out RUN --set start_from=VGG``: 63.6.
"""

HEAVY_16S = HEAVY_32S.model_copy(update={"network": "voc-fcn16s", "learning_rate": 1e-12})
"""The second stage, a hundredth of the rate: ``fullyconv train voc-fcn16s … --set start_from=RUN32S/model``: 65.0."""

HEAVY_8S = HEAVY_32S.model_copy(update={"network": "voc-fcn8s", "learning_rate": 1e-14})
"""The third stage, a hundredth again: ``fullyconv train voc-fcn8s … --set start_from=RUN16S/model``: 65.5."""

STAGED = Chain({"fcn32s": HEAVY_32S, "fcn16s": HEAVY_16S, "fcn8s": HEAVY_8S})
"""The three in one command: ``fullyconv train voc-staged --data VOC --out RUN --set start_from=VGG``: 63.6, 65.0, 65.5.

``--set fcn16s.epochs=6`` changes one stage, ``--set epochs=6`` all of them.
"""

AT_ONCE = HEAVY_32S.model_copy(update={"network": "voc-fcn8s-atonce", "epochs": 36})
"""All streams from the start, three times as long (the skips' maps are scaled down).

``fullyconv train voc-fcn8s-atonce --data VOC --out RUN --set start_from=VGG``: 65.4.
"""

MAX_16S = HEAVY_16S.model_copy(update={"network": "voc-fcn16s-max"})
"""Skips fused by the larger score instead of the sum, which "made learning difficult due to gradient switching" (CVPR,
section 4.2): ``fullyconv train voc-fcn16s-max … --set start_from=RUN32S/model``, beside ``voc-fcn16s`` from there.
"""

MAX_8S = HEAVY_8S.model_copy(update={"network": "voc-fcn8s-max"})
"""The stage after it: ``fullyconv train voc-fcn8s-max … --set start_from=RUN16SMAX/model``."""

POOLS = {
    f"voc-fcn-{pool}": HEAVY_32S.model_copy(update={"network": f"voc-fcn-{pool}"})
    for pool in ("pool5", "pool4", "pool3")
}
"""One pool scored alone, at stride 32, 16 and 8: fine maps without coarse ones name little (50.0, 22.4 and 9.2, PAMI).

``fullyconv train voc-fcn-pool4 --data VOC --out RUN --set start_from=VGG``.
"""

ACCUMULATED = HEAVY_32S.model_copy(
    update={
        "epochs": 175,
        "accumulate": 20,
        "learning_rate": 1e-4,
        "momentum": 0.9,
        "normalization": "valid",
    }
)
"""The CVPR paper's minibatches: 20 images per update, each with its mean loss, momentum 0.9, 175 epochs.

``fullyconv train voc-fcn32s-accumulated --data VOC --out RUN --set start_from=VGG``: 59.4 (paper, table 2).
"""

LEARNED_16S = ACCUMULATED.model_copy(update={"network": "voc-fcn16s-learned", "learning_rate": 1e-6})
"""FCN-16s as the CVPR paper trained it: upsampling between maps is learned, at a hundredth of the rate.

``fullyconv train voc-fcn16s-learned … --set start_from=RUN32S/model`` (of ``voc-fcn32s-accumulated``): 62.4 (table 2).
"""

LEARNED_8S = ACCUMULATED.model_copy(update={"network": "voc-fcn8s-learned", "learning_rate": 1e-8})
"""The stage after it: ``fullyconv train voc-fcn8s-learned … --set start_from=RUN16SLEARNED/model``: 62.7 (table 2)."""

GOOGLENET = ACCUMULATED.model_copy(update={"network": "voc-fcn-googlenet", "learning_rate": 5e-5})
"""FCN-GoogLeNet, likewise, at the paper's rate for it (section 4.3).

``fullyconv train voc-fcn-googlenet --data VOC --out RUN --set start_from=GOOGLENET``: 42.5 (paper, table 1).
"""

FIXED = ACCUMULATED.model_copy(update={"network": "voc-fcn32s-fixed", "train_only": "scores"})
"""FCN-32s-fixed: only the last layer's 86,037 parameters train.

``fullyconv train voc-fcn32s-fixed --data VOC --out RUN --set start_from=VGG``: 45.4 (paper, table 2).
"""

ALEXNET = ACCUMULATED.model_copy(update={"network": "voc-fcn-alexnet", "epochs": 235, "bias_multipliers": "scores"})
"""FCN-AlexNet on CaffeNet: 20 images per update, 100,000 updates (reference voc-fcn-alexnet).

``fullyconv train voc-fcn-alexnet --data VOC --out RUN --set start_from=CAFFENET``: 48.0.
"""

PATCHWISE = ACCUMULATED.model_copy(update={"sampling": 0.5, "shift": 32})
"""Patchwise training as loss sampling: half of the loss terms of twice as many images, shifted below the stride.

``fullyconv train voc-fcn32s-patchwise --data VOC --out RUN --set start_from=VGG``: as ``voc-fcn32s-accumulated``,
in more time (paper, section 4.4).
"""
