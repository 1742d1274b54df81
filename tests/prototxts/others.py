"""Nets of one page: pairs and triplets, regressions, autoencoders, V0's form; and files that must be refused."""

from __future__ import annotations

from collections.abc import Iterator

from prototxts.layers import Prototxt, Sizes
from prototxts.nets import Body

SIAMESE = """
name: "mnist_siamese"
layer { name: "pair_data" type: "Data" top: "pair_data" top: "sim" include { phase: %s }
  transform_param { scale: 0.00390625 } data_param { source: "leveldb" batch_size: 4 } }
layer { name: "slice_pair" type: "Slice" bottom: "pair_data" top: "data" top: "data_p"
  slice_param { slice_dim: 1 slice_point: 1 } }
"""
TRIPLET = """
input: "anchor" input: "positive" input: "negative" input_shape { dim: 4 dim: 8 }
layer { name: "d1" type: "Eltwise" bottom: "anchor" bottom: "positive" top: "d1" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "d2" type: "Eltwise" bottom: "anchor" bottom: "negative" top: "d2" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "s1" type: "Reduction" bottom: "d1" top: "s1" reduction_param { operation: SUMSQ axis: 1 } }
layer { name: "s2" type: "Reduction" bottom: "d2" top: "s2" reduction_param { operation: SUMSQ axis: 1 } }
layer { name: "gap" type: "Eltwise" bottom: "s1" bottom: "s2" top: "gap" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "margin" type: "Power" bottom: "gap" top: "margin" power_param { shift: 1 } }
layer { name: "hinge" type: "ReLU" bottom: "margin" top: "margin" }
layer { name: "loss" type: "Reduction" bottom: "margin" top: "loss" loss_weight: 1 reduction_param { operation: MEAN } }
"""
LOGISTIC = """
name: "LogReg"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "examples/hdf5_classification/data/train.txt" batch_size: 10 } }
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "examples/hdf5_classification/data/test.txt" batch_size: 10 } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" param { lr_mult: 1 decay_mult: 1 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc1" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc1" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
LINEAR = """
layer { type: 'DummyData' name: 'x' top: 'x'
  dummy_data_param { shape: { dim: 10 dim: 3 dim: 2 } data_filler: { type: 'gaussian' } } }
layer { type: 'DummyData' name: 'y' top: 'y'
  dummy_data_param { shape: { dim: 10 dim: 3 dim: 2 } data_filler: { type: 'gaussian' } } }
layer { type: 'InnerProduct' name: 'ipx' top: 'ipx' bottom: 'x'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { type: 'InnerProduct' name: 'ipy' top: 'ipy' bottom: 'y'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { %s name: 'loss' top: 'loss' bottom: 'ipx' bottom: 'ipy' loss_weight: 1 }
"""
TWO_TASKS = """
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { source: "x" batch_size: 2
  new_height: 32 new_width: 32 } }
layer { name: "attributes" type: "HDF5Data" top: "attributes" hdf5_data_param { source: "y" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "class" type: "InnerProduct" bottom: "conv" top: "class" inner_product_param { num_output: 5 } }
layer { name: "signs" type: "InnerProduct" bottom: "conv" top: "signs" inner_product_param { num_output: 6 } }
layer { name: "loss_c" type: "SoftmaxWithLoss" bottom: "class" bottom: "label" top: "loss_c" loss_weight: 0.5 }
layer { name: "loss_a" type: "SigmoidCrossEntropyLoss" bottom: "signs" bottom: "attributes" top: "loss_a" }
layer { name: "hinge" type: "HingeLoss" bottom: "class" bottom: "label" top: "hinge" hinge_loss_param { norm: L2 } }
layer { name: "info" type: "Silence" bottom: "signs" }
"""
V0 = """
name: "caffenet of V0"
input: "data" input_dim: 2 input_dim: 3 input_dim: 67 input_dim: 67
layers { layer { name: "conv1" type: "conv" num_output: 8 kernelsize: 11 stride: 4 blobs_lr: 1. blobs_lr: 2.
    weight_decay: 1. weight_decay: 0. weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" } }
  bottom: "data" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 5 alpha: 0.0001 beta: 0.75 } bottom: "pool1" top: "norm1" }
layers { layer { name: "pad2" type: "padding" pad: 2 } bottom: "norm1" top: "pad2" }
layers { layer { name: "conv2" type: "conv" num_output: 16 group: 2 kernelsize: 5 biasterm: true } bottom: "pad2"
  top: "conv2" }
layers { layer { name: "fc6" type: "innerproduct" num_output: 20 } bottom: "conv2" top: "fc6" }
layers { layer { name: "drop6" type: "dropout" dropout_ratio: 0.5 } bottom: "fc6" top: "fc6" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc6" top: "prob" }
"""
WORDS = """
input: "words" input_shape { dim: 4 dim: 7 }
layer { name: "embed" type: "Embed" bottom: "words" top: "embed" embed_param { num_output: 12 input_dim: 50 } }
layer { name: "turn" type: "Permute" bottom: "embed" top: "turn" permute_param { order: 0 order: 2 order: 1 } }
layer { name: "mean" type: "Reduction" bottom: "turn" top: "mean" reduction_param { operation: MEAN axis: 2 } }
layer { name: "class" type: "InnerProduct" bottom: "mean" top: "class" inner_product_param { num_output: 3 } }
layer { name: "best" type: "ArgMax" bottom: "class" top: "best" }
"""


def _autoencoder() -> Prototxt:
    body = Body("flatdata")
    for index, outputs in enumerate((1000, 500, 250, 30, 250, 500, 1000, 784)):
        body.add("InnerProduct", f'num_output: {outputs} weight_filler {{ type: "gaussian" std: 1 sparse: 15 }}',
                 beside="param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 1 decay_mult: 0 }")  # fmt: skip
        if index not in (3, 7):
            body.add("Sigmoid", name="=")
    data = "".join(
        f'layer {{ name: "data" type: "Data" top: "data" include {{ {rule} }} transform_param {{ scale: 0.00392 }} '
        f'data_param {{ source: "lmdb" batch_size: 100 backend: LMDB }} }}\n'
        for rule in ("phase: TRAIN", "phase: TEST stage: 'test-on-train'", "phase: TEST stage: 'test-on-test'")
    )
    last = body.top
    body.add("SigmoidCrossEntropyLoss", on=f"{last} flatdata", name="cross_entropy", beside="loss_weight: 1 ")
    body.add("Sigmoid", on=last)
    body.add("EuclideanLoss", on=f"{body.top} flatdata", name="l2", beside="loss_weight: 0 ")
    text = data + 'layer { name: "flatdata" type: "Flatten" bottom: "data" top: "flatdata" }\n' + body.text
    options = {"stage": "test-on-test"}
    return Prototxt("small nets", "mnist_autoencoder", text, {"cross_entropy": (), "l2": ()}, "", None, options,
                    {"data": (2, 1, 28, 28)})  # fmt: skip


def _twins(phase: str) -> Prototxt:
    texts = []
    for suffix in ("", "_p"):
        body = Body(f"data{suffix}")
        names = [f'param {{ name: "w{index}" }} param {{ name: "b{index}" }}' for index in range(3)]
        body.add("Convolution", "num_output: 20 kernel_size: 5", name=f"conv1{suffix}", beside=names[0])
        body.pool(name=f"pool1{suffix}")
        body.add("InnerProduct", "num_output: 500", name=f"ip1{suffix}", beside=names[1])
        body.add("ReLU", name="=")
        body.add("InnerProduct", "num_output: 2", name=f"feat{suffix}", beside=names[2])
        texts.append(body.text)
    loss = 'layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim" top: "loss" }\n'
    feeds: dict[str, Sizes] = {"pair_data": (4, 2, 28, 28), "sim": (4,)}
    return Prototxt("small nets", f"mnist_siamese, {phase}", SIAMESE % phase + "".join(texts) + loss, {"loss": ()}, "",
                    None, {"phase": phase}, feeds)  # fmt: skip


def small_nets() -> Iterator[Prototxt]:
    """Return nets of one page."""
    yield _autoencoder()
    yield from map(_twins, ("TRAIN", "TEST"))
    yield Prototxt("small nets", "triplets", TRIPLET, {"loss": ()})
    rows: dict[str, Sizes] = {"data": (10, 4), "label": (10,)}
    yield Prototxt("small nets", "logistic, TRAIN", LOGISTIC, {"loss": ()}, "", None, {"phase": "TRAIN"}, rows)
    yield Prototxt("small nets", "logistic, TEST", LOGISTIC, {"loss": (), "accuracy": ()}, "", None, {}, rows)
    yield Prototxt("small nets", "linear", LINEAR % "type: 'EuclideanLoss'", {"loss": ()})
    feeds: dict[str, Sizes] = {"label": (2,), "attributes": (2, 6)}
    losses: dict[str, Sizes] = {"loss_c": (), "loss_a": (), "hinge": ()}
    yield Prototxt("small nets", "two tasks", TWO_TASKS, losses, "", None, {}, feeds)
    yield Prototxt("small nets", "V0", V0, {"prob": (2, 20)})
    yield Prototxt("small nets", "words", WORDS, {"best": (4, 1, 1)})


REFUSED = {
    "pyloss": (LINEAR % "type: 'Python' python_param { module: 'pyloss' layer: 'EuclideanLossLayer' }", "Python code"),
    "lrcn": ('input: "x" input_shape { dim: 5 dim: 2 dim: 3 } input: "cont" input_shape { dim: 5 dim: 2 }\n'
             'layer { name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "l" recurrent_param { num_output: 4 } }',
             "recurrent layers are not run here"),
    "faster_rcnn": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 60 input_dim: 80 input: "rois" '
                    'input_dim: 1 input_dim: 5 input_dim: 1 input_dim: 1\nlayer { name: "p" type: "ROIPooling" '
                    'bottom: "data" bottom: "rois" top: "p" roi_pooling_param { pooled_w: 7 pooled_h: 7 '
                    "spatial_scale: 0.0625 } }", "detection is not run here"),
    "ssd": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 60 input_dim: 80\nlayer { name: "n" type: "Normalize" '
            'bottom: "data" top: "n" norm_param { across_spatial: false scale_filler { value: 20 } '
            'channel_shared: false } }\nlayer { name: "b" type: "PriorBox" bottom: "n" bottom: "data" top: "b" '
            "prior_box_param { min_size: 30 } }", "detection is not run here"),
    "crf-rnn": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 60 input_dim: 80\nlayers { name: "i" '
                'type: MULTI_STAGE_MEANFIELD bottom: "data" bottom: "data" bottom: "data" top: "i" '
                "multi_stage_meanfield_param { num_iterations: 5 } }", r"fullyconv\.crf\.dense_crf"),
    "transformer": ('input: "data" input_dim: 1 input_dim: 3 input_dim: 60 input_dim: 80\nlayer { name: "t" '
                    'type: "SpatialTransformer" bottom: "data" bottom: "data" top: "t" }', "no layer of Caffe's own"),
    "filter": ('input: "x" input_shape { dim: 4 dim: 3 } input: "s" input_shape { dim: 4 }\nlayer { name: "f" '
               'type: "Filter" bottom: "x" bottom: "s" top: "f" }', "depends on the values it sees"),
    "volumes": ('input: "x" input_shape { dim: 1 dim: 3 dim: 16 dim: 32 dim: 32 }\nlayer { name: "c" '
                'type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }',
                "only N x C x H x W"),
    "solver": ('net: "train_val.prototxt" base_lr: 0.01 max_iter: 100', "describes 0 layers|not supported"),
    "misspelt": ('input: "x" input_shape { dim: 4 dim: 3 }\nlayer { name: "r" type: "Relu" bottom: "x" top: "r" }',
                 "did you mean ReLU"),
}  # fmt: skip


def refused() -> Iterator[Prototxt]:
    """Return files that are refused, each with words of the sentence."""
    for name, (text, words) in REFUSED.items():
        yield Prototxt("refused nets", name, text, refused=words)
