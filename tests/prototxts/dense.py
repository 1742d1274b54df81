"""Segmenters and other nets that give no one class per picture, each with the sizes that must come of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from prototxts.heads import as_v1
from prototxts.layers import Prototxt, Sizes
from prototxts.nets import Body

INPUT = 'input: "data" input_dim: 1 input_dim: %d input_dim: %d input_dim: %d\n'
LEVELS = (64, 128, 256, 512, 512)


def _input(channels: int, height: int, width: int) -> str:
    return INPUT % (channels, height, width)


def _python_data(layer: str, module: str, split: str = "train") -> str:
    return (
        f'layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{ module: "{module}" '
        f"layer: \"{layer}\" param_str: \"{{\\'split\\': \\'{split}\\', \\'seed\\': 1337}}\" }} }}\n"
    )


def _loss(top: str, fields: str = "ignore_label: 255 normalize: false") -> str:
    return (
        f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{top}" bottom: "label" top: "loss" '
        f"loss_param {{ {fields} }} }}\n"
    )


# FCN: a trunk whose first convolution pads by 100, scores of its last map, upsampled, cropped on the picture


def fcn_vgg(body: Body, stride: int, *, offsets: bool = True) -> None:
    for block, (outputs, depth) in enumerate(zip(LEVELS, (2, 2, 3, 3, 3), strict=True), start=1):
        for index in range(depth):
            pad = 100 if block == 1 and index == 0 else 1
            body.conv_relu(outputs, 3, f"pad: {pad} stride: 1", name=f"conv{block}_{index + 1}")
        body.pool(name=f"pool{block}")
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        body.conv_relu(4096, kernel, "pad: 0", name=name)
        body.add("Dropout", "dropout_ratio: 0.5", name="=")
    body.conv(21 / body.width, name="score_fr")
    for pool, offset in (("pool4", 5), ("pool3", 9)):
        if {"pool4": 32, "pool3": 16}[pool] > stride:
            up = _up(body, 2)
            body.conv(21 / body.width, on=pool)
            body.add("Crop", _offset(offset, offsets), on=f"{body.top} {up}")
            body.add("Eltwise", "operation: SUM", on=f"{up} {body.top}")
    up = _up(body, stride)
    body.add("Crop", _offset({32: 19, 16: 27, 8: 31}[stride], offsets), on=f"{up} data", name="score")


def _offset(offset: int, given: bool) -> str:
    return f"axis: 2 offset: {offset}" if given else ""


def _up(body: Body, factor: int, classes: int = 21) -> str:
    fields = f"num_output: {classes} bias_term: false kernel_size: {2 * factor} stride: {factor}"
    return body.add("Deconvolution", fields, beside="param { lr_mult: 0 decay_mult: 0 }")


def edges(body: Body) -> None:
    """HED: a side output of each stage, upsampled and cropped, and all of them fused."""
    sides = []
    for level, outputs in enumerate(LEVELS[:3]):
        body.conv_relu(outputs, 3, f"pad: {1 if level else 35}", name=f"conv{level}")
        stem = body.top
        body.conv(1 / body.width, name=f"dsn{level}", on=stem)
        if level:
            fields = f"kernel_size: {2 * 2**level} stride: {2**level} num_output: 1"
            body.add("Deconvolution", fields)
        sides.append(body.add("Crop", "", on=f"{body.top} data", name=f"crop{level}"))
        body.pool(on=stem)
    fused = body.add("Concat", "concat_dim: 1", on=" ".join(sides))
    body.conv(1 / body.width, 1, on=fused, name="fuse")
    body.add("Sigmoid", name="edges")


def unet(body: Body) -> None:
    copies = []
    for outputs in LEVELS[:3]:
        body.conv_relu(outputs, 3)
        copies.append(body.conv_relu(outputs, 3))
        body.pool()
    body.conv_relu(512, 3)
    body.conv_relu(512, 3)
    body.add("Dropout", "dropout_ratio: 0.5", name="=")
    for outputs, copy in zip(LEVELS[2::-1], reversed(copies), strict=True):
        width = max(round(outputs * body.width), 1)
        up = body.add("Deconvolution", f"num_output: {width} pad: 0 kernel_size: 2 stride: 2")
        body.add("ReLU", name="=")
        body.add("Crop", "axis: 2 offset: 4", on=f"{copy} {up}")
        body.add("Concat", "axis: 1", on=f"{up} {body.top}")
        body.conv_relu(outputs, 3)
        body.conv_relu(outputs, 3)
    body.conv(2 / body.width, name="score")


def super_resolution(body: Body) -> None:
    body.conv(56, 5, "pad: 2")
    body.add("PReLU", name="=")
    body.conv(12)
    body.add("PReLU", 'channel_shared: true filler { type: "constant" value: 0.1 }')
    body.add("Deconvolution", "num_output: 1 kernel_size: 9 stride: 3 pad: 4", name="score")


def residual_resolution(body: Body) -> None:
    for outputs in (64, 64, 64, 1 / body.width):
        body.conv_relu(outputs, 3, "pad: 1 stride: 1")
    body.add("Eltwise", "operation: SUM coeff: 1 coeff: 1", on=f"{body.top} data", name="score")


def pose(body: Body) -> None:
    """Stages that see the features and the beliefs of the stage before, as CPM and OpenPose have them."""
    for outputs in (64, 128):
        body.conv_relu(outputs, 3, "pad: 1")
        body.pool()
    features = body.top
    beliefs = [body.conv(branch / body.width, 3, "pad: 1", on=features) for branch in (38, 19)]
    for _ in range(2):
        body.add("Concat", "axis: 1", on=" ".join([*beliefs, features]))
        joined = body.top
        beliefs = []
        for branch in (38, 19):
            body.conv_relu(128, 7, "pad: 3", on=joined)
            beliefs.append(body.conv(branch / body.width))
    body.add("Concat", on=" ".join(beliefs), name="score")


def colours(body: Body) -> None:
    for outputs, fields in ((64, "pad: 1 stride: 2"), (128, "pad: 1 stride: 2"), (512, "pad: 2 dilation: 2")):
        body.conv_relu(outputs, 3, fields)
        body.add("BatchNorm", beside="param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }")
    body.add("Deconvolution", f"num_output: {max(round(256 * body.width), 1)} kernel_size: 4 pad: 1 stride: 2")
    body.conv(313 / body.width)
    body.add("Scale", 'bias_term: false filler { type: "constant" value: 2.606 }', beside="param { lr_mult: 0 }")
    body.add("Softmax")
    body.conv(2 / body.width, name="score")


def generator(body: Body) -> None:
    body.inner(max(round(256 * body.width), 1) * 16)
    body.add("Reshape", f"shape {{ dim: 0 dim: {max(round(256 * body.width), 1)} dim: 4 dim: 4 }}")
    for outputs in (128, 3 / body.width):
        body.add("BatchNorm")
        body.add("Scale", "bias_term: true")
        body.add("ReLU", name="=")
        body.add("Deconvolution", f"num_output: {max(round(outputs * body.width), 1)} kernel_size: 4 stride: 2 pad: 1")
    body.add("TanH", name="score")


def attention(body: Body) -> None:
    features = body.conv_relu(32, 3, "pad: 1")
    body.conv(1 / body.width)
    body.add("Reshape", "shape { dim: 0 dim: -1 }")
    body.add("Softmax")
    body.add("Reshape", "shape { dim: 0 dim: 1 dim: 12 dim: 16 }")
    weights = body.add("Tile", f"axis: 1 tiles: {max(round(32 * body.width), 1)}")
    body.add("Eltwise", "operation: PROD", on=f"{features} {weights}")
    body.add("Reduction", "operation: SUM axis: 2")
    body.inner(7, name="score")


def normalised(body: Body) -> None:
    """Divide by the length of each item with layers of Caffe's own."""
    flat = body.add("Flatten")
    body.add("Reduction", "operation: SUMSQ axis: 1")
    body.add("Power", "power: -0.5 shift: 1e-6")
    body.add("Scale", "axis: 0", on=f"{flat} {body.top}", name="score")


# The segmenters of forks


def segnet(body: Body) -> None:
    body.add("LRN", "local_size: 5 alpha: 0.0001 beta: 0.75")
    masks = []
    for index, outputs in enumerate((64, 128, 256)):
        body.conv(outputs, 3, "pad: 1")
        body.add("BN", 'scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.001 }',
                 name="=")  # fmt: skip
        body.add("ReLU", name="=")
        body.add("Pooling", "pool: MAX kernel_size: 2 stride: 2", more=f'top: "mask{index}" ')
        masks.append(f"mask{index}")
    for mask, outputs in zip(reversed(masks), (128, 64, 64), strict=True):
        body.add("Upsample", "scale: 2", on=f"{body.top} {mask}")
        body.conv(outputs, 3, "pad: 1")
        body.add("BN", "bn_mode: INFERENCE", name="=")
    body.conv(11 / body.width, name="score")


def deconvnet(body: Body) -> None:
    body.conv_relu(64, 3, "pad: 1")
    body.add("Pooling", "kernel_size: 2 stride: 2", more='top: "mask" ')
    body.conv_relu(256, 7)
    body.add("Deconvolution", f"num_output: {max(round(64 * body.width), 1)} kernel_size: 7")
    body.add("Unpooling", "unpool: MAX kernel_size: 2 stride: 2 unpool_size: 224", on=f"{body.top} mask")
    body.conv(21 / body.width, name="score")


def deeplab(body: Body, rates: tuple[int, ...]) -> None:
    for block, outputs in enumerate(LEVELS):
        body.conv_relu(outputs, 3, "pad: 2 hole: 2" if block == 4 else "pad: 1")
        body.pool(3, 2 if block < 3 else 1, "pad: 1")
    start, found = body.top, []
    for rate in rates:
        body.conv_relu(1024, 3, f"pad: {rate} hole: {rate}" if rate > 6 else f"pad: {rate} dilation: {rate}", on=start)
        body.add("Dropout", "dropout_ratio: 0.5", name="=")
        body.conv_relu(1024)
        found.append(body.conv(21 / body.width))
    if len(found) > 1:
        body.add("Eltwise", "operation: SUM", on=" ".join(found))
    body.add("Interp", "zoom_factor: 8", name="score")


def pspnet(body: Body) -> None:
    for outputs, fields in ((64, "pad: 1 stride: 2"), (128, "pad: 1 stride: 2"), (256, "pad: 2 dilation: 2")):
        body.conv(outputs, 3, f"bias_term: false {fields}")
        body.add("BN", "slope_filler { value: 1 } bias_filler { value: 0 } frozen: true momentum: 0.95", name="=")
        body.add("ReLU", name="=")
    start, tops = body.top, [body.top]
    for kernel in (24, 12, 8, 4):
        body.pool(kernel, kernel, "pool: AVE", on=start)
        body.conv_relu(64)
        tops.append(body.add("Interp", "height: 24 width: 24"))
    body.add("Concat", on=" ".join(tops))
    body.conv(19 / body.width)
    body.add("Interp", "zoom_factor: 4", name="score")


def enet(body: Body) -> None:
    left = body.conv(13, 3, "pad: 1 stride: 2")
    body.add("Pooling", "kernel_size: 2 stride: 2", on="data", more='top: "mask0" ')
    body.add("Concat", on=f"{left} {body.top}")
    body.add("BN", "bn_mode: INFERENCE scale_filler { value: 1 } shift_filler { value: 0.001 }", name="=")
    start = body.add("PReLU", name="=")
    body.conv(4, 2, "stride: 2 bias_term: false")
    body.conv(16, 1, "bias_term: false")
    body.add("Python", "module: 'spatial_dropout' layer: 'SpatialDropoutLayer' "
             "param_str: \"{'phase': 'TRAIN', 'p': '0.01'}\"")  # fmt: skip
    narrow = body.top
    body.add("Pooling", "kernel_size: 2 stride: 2", on=start, more='top: "mask1" ')
    body.conv(16)
    body.add("Eltwise", "operation: SUM", on=f"{narrow} {body.top}")
    body.add("Upsample", "scale: 2", on=f"{body.top} mask1")
    body.add("Deconvolution", "num_output: 19 kernel_size: 2 stride: 2", name="score")


# VGG-16's with 21 scores, and a bank of 21 x 21 windows of 64 x 64 for the upsampling
FCN32S = 134_346_581 + 21**2 * 64**2
# name: (group, architecture; channels, height and width in; sizes of outputs; parameters)
NETS: dict[str, tuple[str, Callable[[Body], None], Sizes, dict[str, Sizes], int | None]] = {
    "voc-fcn32s": ("FCN", partial(fcn_vgg, stride=32), (3, 500, 375), {"score": (1, 21, 500, 375)}, FCN32S),
    "voc-fcn16s": ("FCN", partial(fcn_vgg, stride=16), (3, 500, 375), {"score": (1, 21, 500, 375)}, None),
    "voc-fcn8s": ("FCN", partial(fcn_vgg, stride=8), (3, 500, 375), {"score": (1, 21, 500, 375)}, None),
    "hed": ("dense nets", edges, (3, 60, 80), {"edges": (1, 1, 60, 80)}, None),
    "unet": ("dense nets", unet, (1, 188, 188), {"score": (1, 2, 100, 100)}, None),
    "fsrcnn": ("dense nets", super_resolution, (1, 20, 30), {"score": (1, 1, 58, 88)}, None),
    "vdsr": ("dense nets", residual_resolution, (1, 20, 30), {"score": (1, 1, 20, 30)}, None),
    "openpose": ("dense nets", pose, (3, 64, 48), {"score": (1, 57, 16, 12)}, None),
    "colorization": ("dense nets", colours, (1, 64, 64), {"score": (1, 2, 32, 32)}, None),
    "dcgan": ("dense nets", generator, (100, 1, 1), {"score": (1, 3, 16, 16)}, None),
    "attention": ("dense nets", attention, (3, 12, 16), {"score": (1, 7)}, None),
    "normalised": ("dense nets", normalised, (8, 3, 3), {"score": (1, 72)}, None),
    "segnet": ("segmenters of forks", segnet, (3, 64, 96), {"score": (1, 11, 64, 96)}, None),
    "deconvnet": ("segmenters of forks", deconvnet, (3, 224, 224), {"score": (1, 21, 224, 224)}, None),
    "deeplab-largefov": ("segmenters of forks", partial(deeplab, rates=(12,)), (3, 65, 81),
                         {"score": (1, 21, 65, 81)}, None),
    "deeplab-aspp": ("segmenters of forks", partial(deeplab, rates=(6, 12, 18, 24)), (3, 65, 65),
                     {"score": (1, 21, 65, 65)}, None),
    "pspnet": ("segmenters of forks", pspnet, (3, 96, 96), {"score": (1, 19, 93, 93)}, None),
    "enet": ("segmenters of forks", enet, (3, 64, 96), {"score": (1, 19, 64, 96)}, None),
}  # fmt: skip


def dense_nets() -> Iterator[Prototxt]:
    """Write every net under the heads that fit it."""
    for name, (group, architecture, size, tops, parameters) in NETS.items():
        body = Body()
        architecture(body)
        text = _input(*size) + body.text
        yield Prototxt(group, name, text, tops, "", parameters)
        if not re.search("BatchNorm|Scale|Reduction|Tile|Unpooling|Python", text):
            yield Prototxt(group, f"{name}, V1", as_v1(text), tops, "", parameters)
        if len(tops.get("score", ())) != 4 or size[0] != 3:
            continue
        feeds = {"data": (1, *size), "label": (1, 1, *tops["score"][2:])}
        for kind, data in SEGMENTED.items():
            text = data + body.text + _loss("score")
            yield Prototxt(group, f"{name}, {kind}", text, {"loss": ()}, "", None, {}, feeds)


SEGMENTED = {
    "voc_layers": _python_data("VOCSegDataLayer", "voc_layers"),
    "HDF5": 'layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "x" } }\n',
    "DenseImageData": 'layer { name: "data" type: "DenseImageData" top: "data" top: "label" '
    'dense_image_data_param { source: "x" batch_size: 1 shuffle: true } }\n',
    "ImageSegData": 'layer { name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim" '
    'image_data_param { source: "x" batch_size: 1 label_type: PIXEL } }\nlayer { name: "none" type: "Silence" '
    'bottom: "data_dim" }\n',
}
