"""From a layer's description to the module that computes it."""

from __future__ import annotations

import warnings

from torch import nn

from fullyconv.caffe import accuracy, activations, dialects, fields, losses, modules, reshaping, windows
from fullyconv.caffe.advice import advice
from fullyconv.caffe.description import SOURCES, Layer
from fullyconv.caffe.kind import Fillers, Kind, Shapes, axis_of, count, span

DEPTHWISE = ("ConvolutionDepthwise", "DepthwiseConvolution")  # of forks: a group for each channel


def _convolution(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("convolution_param", fields.Convolution)
    if len(shapes[0]) != 4 or given.axis not in (1, -3):
        raise layer.fail(f"axis {given.axis} of a blob of {len(shapes[0])} axes", "only N x C x H x W is supported")
    if not layer.message.messages("convolution_param") or not _has(layer, "convolution_param", "num_output"):
        raise layer.fail("has no num_output", "add num_output: …")
    channels, outputs = shapes[0][1], count(layer, "num_output", given.num_output)
    groups = count(layer, "group", given.group)
    if layer.kind in DEPTHWISE:
        groups = channels
    if channels % groups or outputs % groups:
        raise layer.fail(f"{channels} channels to {outputs} in {groups} groups", "choose a group that divides both")
    kernel, stride, pad, dilation = windows.window_of(layer, given)
    if layer.kind != "Deconvolution":
        return nn.Conv2d(channels, outputs, kernel, stride, pad, dilation, groups, bias=given.bias_term)
    return nn.ConvTranspose2d(
        channels, outputs, kernel, stride, pad, groups=groups, bias=given.bias_term, dilation=dilation
    )


def _has(layer: Layer, block: str, name: str) -> bool:
    return any(name in message.fields for message in layer.message.messages(block))


def _convolution_fillers(layer: Layer) -> Fillers:
    given = layer.block("convolution_param", fields.Convolution)
    return given.weight_filler, given.bias_filler


def _inner_product(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("inner_product_param", fields.InnerProduct)
    axis = axis_of(layer, given.axis, shapes[0])
    outputs = count(layer, "num_output", given.num_output)
    inputs = shapes[0][axis:].numel()
    return modules.InnerProduct(inputs, outputs, bias=given.bias_term, axis=axis, transpose=given.transpose)


def open_inner_product(layer: Layer) -> modules.InnerProduct:
    """Make an InnerProduct whose input's size is not known before there is one."""
    given = layer.block("inner_product_param", fields.InnerProduct)
    outputs = count(layer, "num_output", given.num_output)
    return modules.InnerProduct(None, outputs, bias=given.bias_term, axis=given.axis, transpose=given.transpose)


def _inner_product_fillers(layer: Layer) -> Fillers:
    given = layer.block("inner_product_param", fields.InnerProduct)
    return given.weight_filler, given.bias_filler


def _embed(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("embed_param", fields.Embed)
    entries, outputs = count(layer, "input_dim", given.input_dim), count(layer, "num_output", given.num_output)
    return modules.Embed(entries, outputs, bias=given.bias_term)


def _embed_fillers(layer: Layer) -> Fillers:
    given = layer.block("embed_param", fields.Embed)
    return given.weight_filler, given.bias_filler


def _eltwise(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("eltwise_param", fields.Eltwise)
    if given.coeff and (given.operation == "PROD" or len(given.coeff) != len(shapes)):
        raise layer.fail(
            f"{given.operation} of {len(shapes)} bottoms with {len(given.coeff)} coefficients",
            "a SUM may have one coefficient for each bottom",
        )
    return modules.Eltwise(given.operation, given.coeff if given.operation == "SUM" else ())


def _scale(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("scale_param", fields.Scale)
    start, stop = span(layer, given.axis, given.num_axes if len(shapes) == 1 else len(shapes[1]), shapes[0])
    own = shapes[0][start:stop]
    bias = (shapes[1] if len(shapes) > 1 else own) if given.bias_term else None
    return modules.Scale(own if len(shapes) == 1 else None, bias=bias, axis=start)


def _scale_fillers(layer: Layer) -> Fillers:
    given = layer.block("scale_param", fields.Scale)
    return (given.filler, given.bias_filler) if len(layer.bottoms) == 1 else (given.bias_filler,)


def _bias(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("bias_param", fields.Bias)
    start, stop = span(layer, given.axis, given.num_axes if len(shapes) == 1 else len(shapes[1]), shapes[0])
    return modules.Bias(shapes[0][start:stop] if len(shapes) == 1 else None, axis=start)


def _batch_norm(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("batch_norm_param", fields.BatchNorm)
    channels = shapes[0][1] if len(shapes[0]) > 1 else 1
    return modules.BatchNorm(
        channels,
        use_global_stats=given.use_global_stats,
        fraction=given.moving_average_fraction,
        eps=given.eps,
        affine=given.scale_bias,
    )


def _batch_norm_fillers(layer: Layer) -> Fillers:
    given = layer.block("batch_norm_param", fields.BatchNorm)
    return fields.Filler(), fields.Filler(), fields.Filler(), given.scale_filler, given.bias_filler


def _mvn(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("mvn_param", fields.Mvn)
    return modules.MeanVariance(across=given.across_channels, variance=given.normalize_variance, eps=given.eps)


def _softmax(layer: Layer, shapes: Shapes) -> nn.Module:
    return nn.Softmax(axis_of(layer, layer.block("softmax_param", fields.Softmax).axis, shapes[0]))


def _parameter(layer: Layer, shapes: Shapes) -> nn.Module:
    return modules.Parameter(layer.block("parameter_param", fields.Parameter).shape.dim)


def _bias_fillers(layer: Layer) -> Fillers:
    return (layer.block("bias_param", fields.Bias).filler,)


KINDS: dict[str, Kind] = {
    "Convolution": Kind(
        _convolution, ("convolution_param",), most=None, most_tops=None, each=True, fillers=_convolution_fillers
    ),
    "Deconvolution": Kind(
        _convolution, ("convolution_param",), most=None, most_tops=None, each=True, fillers=_convolution_fillers
    ),
    **dict.fromkeys(DEPTHWISE, Kind(_convolution, ("convolution_param",), fillers=_convolution_fillers)),
    "InnerProduct": Kind(_inner_product, ("inner_product_param",), fillers=_inner_product_fillers),
    "Embed": Kind(_embed, ("embed_param",), fillers=_embed_fillers),
    "Eltwise": Kind(_eltwise, ("eltwise_param",), least=2, most=None),
    "Scale": Kind(_scale, ("scale_param",), most=2, fillers=_scale_fillers),
    "Bias": Kind(_bias, ("bias_param",), most=2, fillers=_bias_fillers),
    "BatchNorm": Kind(_batch_norm, ("batch_norm_param",), fillers=_batch_norm_fillers),
    "MVN": Kind(_mvn, ("mvn_param",)),
    "Softmax": Kind(_softmax, ("softmax_param",)),
    "Parameter": Kind(_parameter, ("parameter_param",), least=0, most=0),
    # What they would write to files stays an output of the net.
    **{
        kind: Kind(lambda layer, shapes: reshaping.Silence(), (block,), most=None, tops=0, most_tops=0, observes=True)
        for kind, block in (("HDF5Output", "hdf5_output_param"), ("MatWrite", "mat_write_param"))
    },
    **windows.KINDS,
    **activations.KINDS,
    **reshaping.KINDS,
    **dialects.KINDS,
    **losses.KINDS,
    **accuracy.KINDS,
}


# Blocks that some layer of Caffe has: on another type they have no effect there.
BLOCKS = {block for kind in KINDS.values() for block in kind.blocks} | {
    f"{name}_param"
    for name in (
        "transform", "annotated_data", "data", "dense_image_data", "dummy_data", "hdf5_data", "image_data", "input",
        "memory_data", "python", "recurrent", "window_data",
    )
}  # fmt: skip


def kind_of(layer: Layer) -> Kind:
    """Return what a layer's type is; raises ``BadFile`` with advice where the package does not know it."""
    if layer.kind in KINDS:
        return KINDS[layer.kind]
    if dialects.is_spatial_dropout(layer):
        return dialects.SPATIAL_DROPOUT
    raise layer.fail("this type is not supported", advice(layer.kind, [*SOURCES, *KINDS]))


def make_module(layer: Layer, shapes: Shapes) -> nn.Module:
    """Make the module of a layer whose bottoms have these sizes.

    A block that belongs to another type has no effect, as in Caffe, and is warned of. Raises ``BadFile`` naming the
    layer, its type and line where it is of a kind, or has a field, that cannot be honoured.
    """
    kind = kind_of(layer)
    if len(layer.bottoms) < kind.least or (kind.most is not None and len(layer.bottoms) > kind.most):
        raise layer.fail(f"{len(layer.bottoms)} bottoms", f"it takes {_allowed(kind.least, kind.most)}")
    most = len(layer.bottoms) if kind.each else kind.most_tops
    if len(layer.tops) < (len(layer.bottoms) if kind.each else kind.tops) or (
        most is not None and len(layer.tops) > most
    ):
        raise layer.fail(
            f"{len(layer.tops)} tops", f"it has {'one for each bottom' if kind.each else _allowed(kind.tops, most)}"
        )
    for block in layer.blocks:
        if block not in BLOCKS:
            raise layer.fail(f"{block} is no block of Caffe's", f"it takes {' or '.join(kind.blocks) or 'no block'}")
        if block not in kind.blocks:
            warnings.warn(f"{layer.fail(f'{block} has no effect on this type', 'remove it')}", stacklevel=2)
    return kind.make(layer, shapes)


def _allowed(least: int, most: int | None) -> str:
    return str(least) if most == least else f"{least} to {most or 'any number'}"
