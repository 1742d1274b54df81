"""What a net computes, layer by layer, in a form in which equal nets are equal.

Every blob becomes a number that stands for how it comes about; two nets numbered by one ``Numbering``
compute the same scores from the same weights where their outputs have the same numbers. Layers that
change nothing while predicting (Dropout, Split) leave no trace, nor do the names of layers without
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import isqrt
from typing import Any

from torch import nn

from fullyconv.caffe.activations import Powers
from fullyconv.caffe.build import kind_of
from fullyconv.caffe.description import Layer
from fullyconv.caffe.dialects import Unpool
from fullyconv.caffe.modules import BatchNorm, Eltwise, InnerProduct, Pooling, Scale
from fullyconv.caffe.net import Net
from fullyconv.caffe.reshaping import Concat, Crop

Traits = tuple[Hashable, ...]

INPUT = "input"
AVERAGE = "average of all positions"
SILENT = ("Dropout", "Split")


def _convolution(module: nn.Conv2d, name: str) -> Traits:
    numbers = (module.stride, module.padding, module.dilation, module.groups, module.bias is not None)
    return ("Convolution", name, tuple(module.weight.shape), *numbers)


def _deconvolution(module: nn.ConvTranspose2d, name: str) -> Traits:
    # Dense or grouped, the bank may hold the same upsampling.
    wide = (module.in_channels, module.out_channels)
    numbers = (module.kernel_size, module.stride, module.padding, module.dilation, module.bias is not None)
    return ("Deconvolution", name, wide, *numbers)


def _pooling(module: Pooling, name: str) -> Traits:
    ceil_mode = module.ceil_mode or module.stride == (1, 1)  # over every position ceil and floor agree
    return ("Pooling", module.kind, module.kernel, module.stride, module.pad, ceil_mode)


def _norm(module: nn.LocalResponseNorm, name: str) -> Traits:
    return ("LRN", module.size, module.alpha, module.beta, module.k)


def _crop(module: Crop, name: str) -> Traits:
    return ("Crop", module.axis, module.offsets * 2 if len(module.offsets) == 1 else module.offsets or (0, 0))


def _eltwise(module: Eltwise, name: str) -> Traits:
    return ("Eltwise", module.operation, module.coefficients)


def _scale(module: Scale, name: str) -> Traits:
    shape = None if module.weight is None else tuple(module.weight.shape)
    return ("Scale", name, shape, module.axis, module.bias is not None)


def _batch_norm(module: BatchNorm, name: str) -> Traits:
    return ("BatchNorm", name, len(module.mean), module.eps, module.use_global_stats, module.weight is not None)


def _unpool(module: Unpool, name: str) -> Traits:
    return ("Upsample", module.size, module.scale, module.cut)


TRAITS: dict[type[nn.Module], Callable[[Any, str], Traits]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _deconvolution,
    Pooling: _pooling,
    nn.LocalResponseNorm: _norm,
    Crop: _crop,
    Eltwise: _eltwise,
    Scale: _scale,
    Concat: lambda module, name: ("Concat", module.axis),
    BatchNorm: _batch_norm,
    Unpool: _unpool,
    nn.ReLU: lambda module, name: ("ReLU",),
    Powers: lambda module, name: ("Power", module.power, module.scale, module.shift),
    nn.Hardtanh: lambda module, name: ("Clip", module.min_val, module.max_val),
}


def traits(net: Net, layer: Layer) -> Traits:
    """Return what a layer computes, but for the values of its weights; layers of other kinds differ by name."""
    module = net.module(layer)
    if isinstance(module, InnerProduct) and module.axis == 1 and not module.transpose:
        # A matrix over a C x h x w map is one position of an h x w convolution (paper, section 3.1).
        shape = (module.outputs, *_window(module, net.bottom_sizes[layer]))
        return ("Convolution", layer.name, shape, (1, 1), (0, 0), (1, 1), 1, module.bias is not None)
    if isinstance(module, Pooling) and _averages_all(module, net.bottom_sizes[layer]):
        return (AVERAGE, max(net.bottom_sizes[layer][2:]) > 1)
    describe = TRAITS.get(type(module))
    return (layer.kind, layer.name) if describe is None else describe(module, layer.name)


def _window(module: InnerProduct, size: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of what a matrix sees: of a map of unknown size, the square its weights say."""
    _, channels, height, width = (*size, 1, 1)[:4]
    if module.weight is not None and module.weight.shape[1] != channels * height * width:
        height = width = isqrt(module.weight.shape[1] // channels)
    return channels, height, width


def _averages_all(module: Pooling, size: tuple[int, ...]) -> bool:
    return module.kind == "AVE" and not any(module.pad) and module.kernel in (None, size[2:])


class Numbering:
    """Numbers blobs by how they come about."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._expressions: list[Hashable] = []
        self._inputs: set[int] = set()

    def _number(self, expression: Hashable) -> int:
        if expression not in self._numbers:
            self._numbers[expression] = len(self._expressions)
            self._expressions.append(expression)
        return self._numbers[expression]

    def outputs(self, net: Net) -> set[int]:
        """Number the blobs of a net that nothing but losses and a last Softmax uses, by what they are."""
        fed = [name for name in net.inputs if _is_used(net, name)]
        blobs = {}
        for name in fed:
            # One input may have any name, several must be told apart.
            blobs[name] = self._number((INPUT, name if len(fed) > 1 else "data", net.inputs[name][1:2]))
            self._inputs.add(blobs[name])
        used: set[str] = set()
        tops: set[str] = set()
        for layer in net.described:
            if kind_of(layer).observes or not layer.tops:
                continue
            number = self._layer(net, layer, [blobs[bottom] for bottom in layer.bottoms])
            used.update(layer.bottoms)
            for index, top in enumerate(layer.tops):
                blobs[top] = number if len(layer.tops) == 1 or layer.kind == "Split" else self._number((number, index))
            used.difference_update(layer.tops)
            tops.update(layer.tops)
        return {self._before_softmax(blobs[top]) for top in tops - used}

    def _before_softmax(self, number: int) -> int:
        expression = self._expressions[number]
        return expression[-1] if isinstance(expression, tuple) and expression[0] == "Softmax" else number

    def _average(self, number: int) -> int:
        """Number the average of a map's positions: a 1 x 1 convolution may as well come after it."""
        expression = self._expressions[number]
        if isinstance(expression, tuple) and expression[0] == "Convolution" and _is_pointwise(expression):
            return self._number((*expression[:-1], self._average(expression[-1])))
        return self._number((AVERAGE, number))

    def _layer(self, net: Net, layer: Layer, bottoms: list[int]) -> int:
        module, what = net.module(layer), traits(net, layer)
        if layer.kind in SILENT or what == (AVERAGE, False):
            return bottoms[0]
        if what == (AVERAGE, True):
            return self._average(bottoms[0])
        if isinstance(module, Crop):  # of the second bottom it takes the size, which all inputs share
            reference = INPUT if bottoms[1] in self._inputs else bottoms[1]
            return self._number((*what, bottoms[0], reference))
        if isinstance(module, Eltwise) and not module.coefficients:
            bottoms = sorted(bottoms)
        number = self._number((*what, *bottoms))
        if isinstance(module, Concat) and self._inputs.issuperset(bottoms):
            self._inputs.add(number)
        return number


def _is_pointwise(convolution: tuple[Any, ...]) -> bool:
    _, _, shape, stride, pad, *_ = convolution
    return (shape[2:], stride, pad) == ((1, 1), (1, 1), (0, 0))


def _is_used(net: Net, name: str) -> bool:
    """Return whether an input feeds more than losses."""
    return any(name in layer.bottoms and not kind_of(layer).observes for layer in net.described)


def differences(net: Net, other: Net) -> list[str]:
    """Name the layers with weights in which ``net`` is not ``other``, each with what was found and expected."""
    found = {layer.name: traits(net, layer) for layer in net.described if net.blobs(layer)}
    expected = {layer.name: traits(other, layer) for layer in other.described if other.blobs(layer)}
    return [
        f"{name} is {found.get(name, 'absent')}, not {expected.get(name, 'there')}"
        for name in [*expected, *(name for name in found if name not in expected)]
        if found.get(name) != expected.get(name)
    ]
