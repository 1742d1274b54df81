"""Whole nets in the words of the repositories of Caffe's years, written from the papers and Caffe's documentation.

A ``Body`` writes layers one after the other; ``HEADS`` are the ways in which files bring data to them, and each
architecture below is written under every head that fits it, with the tails that such files have.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

LEARN = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
GAUSS = 'weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 0.1 }'


class Body:
    """Layers as text, each on the top of the one before unless told otherwise."""

    def __init__(self, top: str = "data", width: float = 1) -> None:
        self.top, self.width, self.text, self.count = top, width, "", 0

    def add(
        self, kind: str, fields: str = "", *, on: str = "", name: str = "", beside: str = "", more: str = ""
    ) -> str:
        """Write a layer; ``fields`` of its block, ``more`` bottoms and tops; a name of ``=`` works in place."""
        self.count += 1
        bottom, label = on or self.top, name if name not in ("", "=") else f"{kind.lower()}{self.count}"
        top = bottom if name == "=" else label
        bottoms = "".join(f' bottom: "{each}"' for each in bottom.split())
        block = f" {BLOCKS.get(kind) or kind.lower() + '_param'} {{ {fields} }}" if fields else ""
        self.text += f'layer {{ name: "{label}" type: "{kind}"{bottoms} top: "{top}" {more}{beside}{block} }}\n'
        self.top = top
        return top

    def conv(self, outputs: float, kernel: int = 1, fields: str = "", *, on: str = "", name: str = "") -> str:
        """Write a convolution."""
        outputs = max(round(outputs * self.width), 1)
        fields = f"num_output: {outputs} kernel_size: {kernel} {fields} {GAUSS}"
        return self.add("Convolution", fields, on=on, name=name, beside=LEARN)

    def conv_relu(self, outputs: float, kernel: int = 1, fields: str = "", *, on: str = "", name: str = "") -> str:
        """Write a convolution and the rectifier in its place."""
        self.conv(outputs, kernel, fields, on=on, name=name)
        return self.add("ReLU", name="=")

    def conv_norm(
        self, outputs: float, kernel: int = 1, fields: str = "", *, on: str = "", name: str = "", relu: bool = True
    ) -> str:
        """Write a convolution without a bias, BatchNorm, Scale and a rectifier in its place."""
        self.conv(outputs, kernel, f"bias_term: false {fields}", on=on, name=name)
        self.add("BatchNorm", "use_global_stats: true", name="=")
        self.add("Scale", "bias_term: true", name="=")
        return self.add("ReLU", name="=") if relu else self.top

    def pool(self, kernel: int = 2, stride: int = 2, fields: str = "", *, on: str = "", name: str = "") -> str:
        """Write a pooling layer, of maxima unless ``fields`` says otherwise."""
        return self.add("Pooling", f"kernel_size: {kernel} stride: {stride} {fields}", on=on, name=name)

    def inner(self, outputs: int, *, on: str = "", name: str = "") -> str:
        """Write a matrix; the last one of a classifier keeps its width."""
        return self.add("InnerProduct", f"num_output: {outputs} {GAUSS}", on=on, name=name, beside=LEARN)

    def hidden(self, outputs: int, ratio: float = 0.5, *, name: str = "") -> str:
        """Write a hidden layer of a classifier: matrix, rectifier, dropout."""
        self.inner(max(round(outputs * self.width), 1), name=name)
        self.add("ReLU", name="=")
        return self.add("Dropout", f"dropout_ratio: {ratio}", name="=")


BLOCKS = {
    "InnerProduct": "inner_product_param", "BatchNorm": "batch_norm_param", "SoftmaxWithLoss": "loss_param",
    "Deconvolution": "convolution_param", "SigmoidCrossEntropyLoss": "loss_param", "Python": "python_param",
    "HingeLoss": "hinge_loss_param", "ContrastiveLoss": "contrastive_loss_param", "LSTM": "recurrent_param",
    "ROIPooling": "roi_pooling_param", "PriorBox": "prior_box_param", "Normalize": "norm_param",
    "MultiStageMeanfield": "multi_stage_meanfield_param",
}  # fmt: skip


# Classifiers: each leaves its class scores as the top


def lenet(body: Body, classes: int = 10) -> None:
    body.conv(20, 5, name="conv1")
    body.pool()
    body.conv(50, 5, name="conv2")
    body.pool()
    body.inner(500, name="ip1")
    body.add("ReLU", name="=")
    body.inner(classes, name="ip2")


def cifar_quick(body: Body, classes: int = 10) -> None:
    body.conv(32, 5, "pad: 2 stride: 1", name="conv1")
    body.pool(3)
    body.add("ReLU", name="=")
    for outputs in (32, 64):
        body.conv_relu(outputs, 5, "pad: 2")
        body.pool(3, 2, "pool: AVE")
    body.inner(64)
    body.inner(classes)


def cifar_full(body: Body, classes: int = 10) -> None:
    body.conv(32, 5, "pad: 2")
    body.pool(3)
    body.add("ReLU", name="=")
    body.add("LRN", "local_size: 3 alpha: 5e-05 beta: 0.75 norm_region: WITHIN_CHANNEL")
    body.conv_relu(32, 5, "pad: 2")
    body.pool(3, 2, "pool: AVE")
    body.add("LRN", "local_size: 3 alpha: 5e-05 beta: 0.75 norm_region: WITHIN_CHANNEL")
    body.conv_relu(64, 5, "pad: 2")
    body.pool(3, 2, "pool: AVE")
    body.inner(classes)


def cifar_sigmoid_norm(body: Body, classes: int = 10) -> None:
    for outputs in (32, 32, 64):
        body.conv(outputs, 5, "pad: 2 bias_term: false")
        body.pool(3)
        body.add("BatchNorm", beside="param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }")
        body.add("Sigmoid")
    body.inner(classes)


def alexnet(body: Body, classes: int = 1000, *, pool_first: bool = False) -> None:
    norm = "local_size: 5 alpha: 0.0001 beta: 0.75"
    for outputs, kernel, fields in ((96, 11, "stride: 4"), (256, 5, "pad: 2 group: 2")):
        body.conv_relu(outputs, kernel, fields)
        for kind in ("pool", "norm") if pool_first else ("norm", "pool"):
            _ = body.pool(3) if kind == "pool" else body.add("LRN", norm)
    body.conv_relu(384, 3, "pad: 1")
    body.conv_relu(384, 3, "pad: 1 group: 2")
    body.conv_relu(256, 3, "pad: 1 group: 2")
    body.pool(3)
    body.hidden(4096, name="fc6")
    body.hidden(4096, name="fc7")
    body.inner(classes, name="fc8")


def caffenet(body: Body, classes: int = 1000) -> None:
    alexnet(body, classes, pool_first=True)


def vgg(body: Body, classes: int = 1000, *, depths: tuple[int, ...] = (2, 2, 3, 3, 3)) -> None:
    for block, depth in enumerate(depths, start=1):
        for index in range(depth):
            body.conv_relu(min(64 * 2 ** (block - 1), 512), 3, "pad: 1", name=f"conv{block}_{index + 1}")
        body.pool(name=f"pool{block}")
    body.hidden(4096, name="fc6")
    body.hidden(4096, name="fc7")
    body.inner(classes, name="fc8")


def vgg19(body: Body, classes: int = 1000) -> None:
    vgg(body, classes, depths=(2, 2, 4, 4, 4))


def vgg_s(body: Body, classes: int = 1000) -> None:
    body.conv_relu(96, 7, "stride: 2")
    body.add("LRN", "local_size: 5 alpha: 0.0005 beta: 0.75 k: 2")
    body.pool(3, 3)
    body.conv_relu(256, 5)
    body.pool(2, 2)
    for _ in range(3):
        body.conv_relu(512, 3, "pad: 1")
    body.pool(3, 3)
    body.hidden(4096)
    body.hidden(4096)
    body.inner(classes)


def network_in_network(body: Body, classes: int = 1000) -> None:
    for outputs, kernel, fields in ((96, 11, "stride: 4"), (256, 5, "pad: 2 stride: 1"), (384, 3, "pad: 1 stride: 1")):
        body.conv_relu(outputs, kernel, fields)
        body.conv_relu(outputs)
        body.conv_relu(outputs)
        body.pool(3)
    body.add("Dropout", "dropout_ratio: 0.5", name="=")
    body.conv_relu(1024, 3, "pad: 1")
    body.conv_relu(1024)
    body.conv_relu(classes / body.width)
    body.pool(6, 1, "pool: AVE")


INCEPTIONS = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None, (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128), None, (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def googlenet(body: Body, classes: int = 1000) -> None:
    body.conv_relu(64, 7, "pad: 3 stride: 2")
    body.pool(3)
    body.add("LRN", "local_size: 5 alpha: 0.0001 beta: 0.75")
    body.conv_relu(64)
    body.conv_relu(192, 3, "pad: 1")
    body.add("LRN", "local_size: 5 alpha: 0.0001 beta: 0.75")
    body.pool(3)
    for widths in INCEPTIONS:
        if widths is None:
            body.pool(3)
            continue
        one, narrow3, three, narrow5, five, pooled = widths
        start = body.top
        tops = [body.conv_relu(one, on=start)]
        body.conv_relu(narrow3, on=start)
        tops.append(body.conv_relu(three, 3, "pad: 1"))
        body.conv_relu(narrow5, on=start)
        tops.append(body.conv_relu(five, 5, "pad: 2"))
        body.pool(3, 1, "pad: 1", on=start)
        tops.append(body.conv_relu(pooled))
        body.add("Concat", on=" ".join(tops))
    body.pool(7, 1, "pool: AVE")
    body.add("Dropout", "dropout_ratio: 0.4", name="=")
    body.inner(classes)


def resnet50(body: Body, classes: int = 1000) -> None:
    body.conv_norm(64, 7, "pad: 3 stride: 2")
    body.pool(3)
    for stage, depth in enumerate((3, 4, 6, 3)):
        for index in range(depth):
            start, width, stride = body.top, 64 * 2**stage, f"stride: {2 if stage and not index else 1}"
            across = start if index else body.conv_norm(4 * width, 1, stride, relu=False)
            body.conv_norm(width, 1, stride, on=start)
            body.conv_norm(width, 3, "pad: 1")
            body.conv_norm(4 * width, relu=False)
            body.add("Eltwise", on=f"{across} {body.top}")
            body.add("ReLU", name="=")
    body.pool(7, 1, "pool: AVE")
    body.inner(classes)


def densenet121(body: Body, classes: int = 1000) -> None:
    body.conv_norm(64, 7, "pad: 3 stride: 2")
    body.pool(3, 2, "pad: 1 ceil_mode: false")
    channels = 64
    for block, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            start = body.top
            _norm_relu(body)
            body.conv_norm(128)
            body.conv(32, 3, "pad: 1 bias_term: false")
            body.add("Concat", on=f"{start} {body.top}")
        channels += 32 * depth
        _norm_relu(body)
        if block < 3:
            channels //= 2
            body.conv(channels, 1, "bias_term: false")
            body.pool(2, 2, "pool: AVE ceil_mode: false")
    body.add("Pooling", "pool: AVE global_pooling: true")
    body.conv(classes / body.width, name="fc6")


def _norm_relu(body: Body) -> None:
    body.add("BatchNorm", "eps: 1e-5")
    body.add("Scale", "filler { value: 1 } bias_term: true bias_filler { value: 0 }", name="=")
    body.add("ReLU", name="=")


def squeezenet(body: Body, classes: int = 1000, *, newer: bool = False) -> None:
    body.conv_relu(64 if newer else 96, 3 if newer else 7, "stride: 2")
    pools = (3, 5) if newer else (4, 8)
    body.pool(3)
    for index, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        start = body.conv_relu(squeezed)
        tops = [body.conv_relu(4 * squeezed, on=start), body.conv_relu(4 * squeezed, 3, "pad: 1", on=start)]
        body.add("Concat", on=" ".join(tops))
        if index in pools:
            body.pool(3)
    body.add("Dropout", "dropout_ratio: 0.5", name="=")
    body.conv_relu(classes / body.width, 1, "" if newer else "pad: 1")
    body.add("Pooling", "pool: AVE global_pooling: true")


def squeezenet_newer(body: Body, classes: int = 1000) -> None:
    squeezenet(body, classes, newer=True)


def mobilenet(body: Body, classes: int = 1000) -> None:
    body.conv_norm(32, 3, "pad: 1 stride: 2")
    widths = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    for index, (before, after) in enumerate(pairwise(widths)):
        before = max(round(before * body.width), 1)
        stride = 2 if index in (1, 3, 5, 11) else 1
        body.conv_norm(before / body.width, 3, f"pad: 1 stride: {stride} group: {before} engine: CAFFE")
        body.conv_norm(after)
    body.add("Pooling", "pool: AVE global_pooling: true")
    body.conv(classes / body.width)


def factorised(body: Body, classes: int = 1000) -> None:
    """Inception 3's kind of cell: windows of 1 x 7 and 7 x 1, pools without padding beside strides."""
    for fields in ("stride: 2", "", "pad: 1"):
        body.conv_norm(32, 3, fields)
    start = body.top
    body.add("Convolution", f"num_output: 24 kernel_h: 1 kernel_w: 7 pad_h: 0 pad_w: 3 {GAUSS}")
    left = body.add("Convolution", f"num_output: 24 kernel_h: 7 kernel_w: 1 pad_h: 3 pad_w: 0 {GAUSS}")
    body.pool(3, 1, "pool: AVE pad: 1", on=start)
    body.add("Concat", "axis: 1", on=f"{left} {body.top}")
    body.add("Pooling", "pool: AVE global_pooling: true")
    body.inner(classes)


def squeeze_and_excite(body: Body, classes: int = 1000) -> None:
    start = body.conv_norm(64, 3, "stride: 2")
    body.add("Pooling", "pool: AVE global_pooling: true")
    body.conv_relu(4)
    body.conv(64)
    body.add("Sigmoid")
    body.add("Flatten")
    body.add("Scale", "axis: 0", on=f"{start} {body.top}")
    body.add("Eltwise", "operation: SUM", on=f"{start} {body.top}")
    body.add("Pooling", "pool: AVE global_pooling: true")
    body.inner(classes)


def largest_of_halves(body: Body, classes: int = 1000) -> None:
    """LightCNN's kind of activation: a map cut in two, the larger of both."""
    for outputs in (48, 96):
        body.conv(outputs, 5, "pad: 2")
        one = body.add("Slice", "slice_dim: 1", more=f'top: "other{outputs}" ')
        body.add("Eltwise", "operation: MAX", on=f"{one} other{outputs}")
        body.pool()
    body.inner(256)
    body.add("PReLU", name="=")
    body.add("Dropout", "dropout_ratio: 0.7", name="=")
    body.inner(classes)


# name: (architecture, channels, side, classes, published parameters)
CLASSIFIERS: dict[str, tuple[Callable[..., None], int, int, int, int | None]] = {
    "lenet": (lenet, 1, 28, 10, 431_080),
    "cifar10_quick": (cifar_quick, 3, 32, 10, 145_578),
    "cifar10_full": (cifar_full, 3, 32, 10, 89_578),
    "cifar10_full_sigmoid_bn": (cifar_sigmoid_norm, 3, 32, 10, None),
    "alexnet": (alexnet, 3, 227, 1000, 60_965_224),
    "caffenet": (caffenet, 3, 227, 1000, 60_965_224),
    "rcnn_ilsvrc13": (caffenet, 3, 227, 200, None),
    "vgg16": (vgg, 3, 224, 1000, 138_357_544),
    "vgg19": (vgg19, 3, 224, 1000, 143_667_240),
    "vgg_cnn_s": (vgg_s, 3, 224, 1000, None),
    "nin": (network_in_network, 3, 224, 1000, None),
    "googlenet": (googlenet, 3, 224, 1000, 6_998_552),
    "resnet50": (resnet50, 3, 224, 1000, 25_557_032),
    "densenet121": (densenet121, 3, 224, 1000, 7_978_856),
    "squeezenet": (squeezenet, 3, 227, 1000, 1_248_424),
    "squeezenet1.1": (squeezenet_newer, 3, 227, 1000, 1_235_496),
    "mobilenet": (mobilenet, 3, 224, 1000, 4_231_976),
    "inception": (factorised, 3, 149, 1000, None),
    "senet": (squeeze_and_excite, 3, 65, 1000, None),
    "lightcnn": (largest_of_halves, 1, 32, 1000, None),
}
