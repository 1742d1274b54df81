"""From a layer's description to the module that computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Size, nn

from fullyconv.caffe import fields, losses, modules
from fullyconv.caffe.description import Layer

Shapes = Sequence[Size]

MOST_NEIGHBOURS = 4095  # channels that a unit is normalised by


@dataclass(frozen=True)
class Kind:
    """A type of layer: how it is made, which blocks it may have, how many bottoms it takes.

    ``observes``: it looks at its bottoms without using them up (a loss), so they stay outputs.
    """

    make: Callable[[Layer, Shapes], nn.Module]
    blocks: tuple[str, ...] = ()
    least: int = 1
    most: int | None = 1
    tops: int | None = 1
    observes: bool = False


def _pair(
    layer: Layer, what: str, values: Sequence[int], sides: Sequence[int | None], default: int | None
) -> tuple[int, int]:
    """Read a number per axis from Caffe's two ways to write it: ``pad: 1`` (once or twice), or ``pad_h``, ``pad_w``."""
    if any(side is not None for side in sides):
        if values:
            raise layer.fail(f"gives both {what} and {what}_h or {what}_w", "give one form")
        values = [side if side is not None else cast("int", default) for side in sides]
    if not values and default is not None:
        values = [default]
    if len(values) not in (1, 2) or any(value is None for value in values):
        raise layer.fail(f"{what} is given {len(values)} times", f"give {what} once, or for rows and columns")
    low = 0 if what == "pad" else 1
    if min(values) < low:
        raise layer.fail(f"{what} is {min(values)}", f"{what} is at least {low}")
    return values[0], values[-1]


def _count(layer: Layer, what: str, value: int, *, least: int = 1) -> int:
    if value < least:
        raise layer.fail(f"{what} is {value}", f"{what} is at least {least}")
    return value


def _axis(layer: Layer, axis: int, shape: Size) -> int:
    if not -len(shape) <= axis < len(shape):
        raise layer.fail(f"axis {axis} of a blob of {len(shape)} axes", f"write -{len(shape)} to {len(shape) - 1}")
    return axis % len(shape)


def _convolution(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("convolution_param", fields.Convolution)
    if len(shapes[0]) != 4 or given.axis not in (1, -3):
        raise layer.fail(f"axis {given.axis} of a blob of {len(shapes[0])} axes", "only N x C x H x W is supported")
    channels, outputs = shapes[0][1], _count(layer, "num_output", given.num_output)
    groups = _count(layer, "group", given.group)
    if channels % groups or outputs % groups:
        raise layer.fail(f"{channels} channels to {outputs} in {groups} groups", "choose a group that divides both")
    kernel = _pair(
        layer,
        "kernel_size" if given.kernel_h is None else "kernel",
        given.kernel_size,
        (given.kernel_h, given.kernel_w),
        None,
    )
    stride = _pair(layer, "stride", given.stride, (given.stride_h, given.stride_w), 1)
    pad = _pair(layer, "pad", given.pad, (given.pad_h, given.pad_w), 0)
    dilation = _pair(layer, "dilation", given.dilation, (None, None), 1)
    if layer.kind == "Convolution":
        return nn.Conv2d(channels, outputs, kernel, stride, pad, dilation, groups, bias=given.bias_term)
    return nn.ConvTranspose2d(
        channels, outputs, kernel, stride, pad, groups=groups, bias=given.bias_term, dilation=dilation
    )


def _pooling(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("pooling_param", fields.Pooling)
    if given.pool == "STOCHASTIC":
        raise layer.fail("pool is STOCHASTIC", "MAX and AVE are supported")
    stride = _pair(layer, "stride", _once(given.stride), (given.stride_h, given.stride_w), 1)
    pad = _pair(layer, "pad", _once(given.pad), (given.pad_h, given.pad_w), 0)
    kernel = None
    sides = given.kernel_h, given.kernel_w
    if not given.global_pooling:
        kernel = _pair(
            layer, "kernel_size" if given.kernel_h is None else "kernel", _once(given.kernel_size), sides, None
        )
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            raise layer.fail(f"pad {pad} with a kernel of {kernel}", "the pad is smaller than the kernel")
    elif given.kernel_size is not None or any(sides) or any(pad) or stride != (1, 1):
        raise layer.fail("global_pooling with a kernel, pad or stride", "global pooling has none")
    return modules.Pooling(given.pool, kernel=kernel, stride=stride, pad=pad, ceil_mode=given.round_mode == "CEIL")


def _once(value: int | None) -> list[int]:
    return [] if value is None else [value]


def _lrn(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("lrn_param", fields.Lrn)
    if not 1 <= given.local_size <= MOST_NEIGHBOURS or given.local_size % 2 == 0:
        raise layer.fail(f"local_size is {given.local_size}", f"it is odd and at most {MOST_NEIGHBOURS}")
    if given.norm_region == "ACROSS_CHANNELS":
        return nn.LocalResponseNorm(given.local_size, given.alpha, given.beta, given.k)
    if given.k != 1:
        raise layer.fail(f"k is {given.k} within channels", "k has an effect across channels only")
    return modules.WithinChannelNorm(given.local_size, given.alpha, given.beta)


def _relu(layer: Layer, shapes: Shapes) -> nn.Module:
    slope = layer.block("relu_param", fields.Relu).negative_slope
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _dropout(layer: Layer, shapes: Shapes) -> nn.Module:
    ratio = layer.block("dropout_param", fields.Dropout).dropout_ratio
    if not 0 <= ratio < 1:
        raise layer.fail(f"dropout_ratio is {ratio}", "write 0 to below 1")
    return nn.Dropout(ratio)


def _inner_product(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("inner_product_param", fields.InnerProduct)
    axis = _axis(layer, given.axis, shapes[0])
    outputs = _count(layer, "num_output", given.num_output)
    return modules.InnerProduct(
        shapes[0][axis:].numel(), outputs, bias=given.bias_term, axis=axis, transpose=given.transpose
    )


def _crop(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("crop_param", fields.Crop)
    for offset in given.offset:
        _count(layer, "offset", offset, least=0)
    return modules.Crop(_axis(layer, given.axis, shapes[0]), given.offset)


def _eltwise(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("eltwise_param", fields.Eltwise)
    if given.coeff and (given.operation != "SUM" or len(given.coeff) != len(shapes)):
        raise layer.fail(
            f"{given.operation} of {len(shapes)} bottoms with {len(given.coeff)} coefficients",
            "a SUM may have one coefficient for each bottom",
        )
    return modules.Eltwise(given.operation, given.coeff)


def _concat(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("concat_param", fields.Concat)
    return modules.Concat(_axis(layer, _either(layer, given.axis, given.concat_dim), shapes[0]))


def _slice(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("slice_param", fields.Slice)
    parts = len(layer.tops)
    if given.slice_point and len(given.slice_point) != parts - 1:
        raise layer.fail(f"{len(given.slice_point)} slice points for {parts} tops", "give one less than tops")
    return modules.Slice(_axis(layer, _either(layer, given.axis, given.slice_dim), shapes[0]), given.slice_point, parts)


def _either(layer: Layer, axis: int | None, old: int | None) -> int:
    if axis is not None and old is not None:
        raise layer.fail("gives the axis under both names", "give axis only")
    return axis if axis is not None else old if old is not None else 1


def _scale(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("scale_param", fields.Scale)
    axis = _axis(layer, given.axis, shapes[0])
    stop = len(shapes[0]) if given.num_axes == -1 else axis + _count(layer, "num_axes", given.num_axes, least=0)
    if stop > len(shapes[0]):
        raise layer.fail(f"{given.num_axes} axes from axis {axis} of {len(shapes[0])}", "give fewer num_axes")
    own = shapes[0][axis:stop]
    bias = (shapes[1] if len(shapes) > 1 else own) if given.bias_term else None
    return modules.Scale(own if len(shapes) == 1 else None, bias=bias, axis=axis)


def _power(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("power_param", fields.Power)
    return modules.Power(given.power, given.scale, given.shift)


def _batch_norm(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("batch_norm_param", fields.BatchNorm)
    channels = shapes[0][1] if len(shapes[0]) > 1 else 1
    return modules.BatchNorm(
        channels, use_global_stats=given.use_global_stats, fraction=given.moving_average_fraction, eps=given.eps
    )


def _softmax(layer: Layer, shapes: Shapes) -> nn.Module:
    return nn.Softmax(_axis(layer, layer.block("softmax_param", fields.Softmax).axis, shapes[0]))


def _softmax_loss(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("loss_param", fields.Loss)
    axis = _axis(layer, layer.block("softmax_param", fields.Softmax).axis, shapes[0])
    normalization = given.normalization or ("BATCH_SIZE" if given.normalize is False else "VALID")
    return losses.SoftmaxWithLoss(axis, given.ignore_label, normalization)


def _accuracy(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("accuracy_param", fields.Accuracy)
    axis = _axis(layer, given.axis, shapes[0])
    return losses.Accuracy(_count(layer, "top_k", given.top_k), axis, given.ignore_label)


KINDS: dict[str, Kind] = {
    "Convolution": Kind(_convolution, ("convolution_param",)),
    "Deconvolution": Kind(_convolution, ("convolution_param",)),
    "Pooling": Kind(_pooling, ("pooling_param",)),
    "LRN": Kind(_lrn, ("lrn_param",)),
    "ReLU": Kind(_relu, ("relu_param",)),
    "Sigmoid": Kind(lambda layer, shapes: nn.Sigmoid()),
    "TanH": Kind(lambda layer, shapes: nn.Tanh()),
    "Dropout": Kind(_dropout, ("dropout_param",)),
    "InnerProduct": Kind(_inner_product, ("inner_product_param",)),
    "Flatten": Kind(lambda layer, shapes: nn.Flatten()),
    "Crop": Kind(_crop, ("crop_param",), least=2, most=2),
    "Eltwise": Kind(_eltwise, ("eltwise_param",), least=2, most=None),
    "Concat": Kind(_concat, ("concat_param",), most=None),
    "Slice": Kind(_slice, ("slice_param",), tops=None),
    "Split": Kind(lambda layer, shapes: modules.Split(len(layer.tops)), tops=None),
    "Scale": Kind(_scale, ("scale_param",), most=2),
    "Power": Kind(_power, ("power_param",)),
    "BatchNorm": Kind(_batch_norm, ("batch_norm_param",)),
    "Softmax": Kind(_softmax, ("softmax_param",)),
    "Silence": Kind(lambda layer, shapes: modules.Silence(), most=None, tops=0),
    "SoftmaxWithLoss": Kind(_softmax_loss, ("loss_param", "softmax_param"), least=2, most=2, observes=True),
    "EuclideanLoss": Kind(lambda layer, shapes: losses.EuclideanLoss(), least=2, most=2, observes=True),
    "Accuracy": Kind(_accuracy, ("accuracy_param",), least=2, most=2, observes=True),
}

# Layers that bring data; what they bring is fed to the net instead.
SOURCES = ("Input", "Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "Python")


def make_module(layer: Layer, shapes: Shapes) -> nn.Module:
    """Make the module of a layer whose bottoms have these sizes.

    Raises ``BadFile`` naming the layer, its type and line where it is of a kind, or has a field, that
    cannot be honoured.
    """
    kind = KINDS.get(layer.kind)
    if kind is None:
        raise layer.fail("this type is not supported", f"supported are {', '.join([*SOURCES, *KINDS])}")
    if len(layer.bottoms) < kind.least or (kind.most is not None and len(layer.bottoms) > kind.most):
        allowed = str(kind.least) if kind.most == kind.least else f"{kind.least} to {kind.most or 'any number'}"
        raise layer.fail(f"{len(layer.bottoms)} bottoms", f"it takes {allowed}")
    if len(layer.tops) != kind.tops and not (kind.tops is None and layer.tops):
        raise layer.fail(f"{len(layer.tops)} tops", f"it has {'one or more' if kind.tops is None else kind.tops}")
    for block in layer.blocks:
        if block not in kind.blocks:
            allowed = " or ".join(kind.blocks) or "no block"
            raise layer.fail(f"{block} has no effect on this type", f"it takes {allowed}")
    return kind.make(layer, shapes)
