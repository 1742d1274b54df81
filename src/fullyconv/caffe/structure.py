"""What a net computes, layer by layer, in a form in which equal nets are equal.

Every blob becomes a number that stands for how it comes about; two nets numbered by one ``Numbering``
compute the same scores from the same weights where their outputs have the same numbers. Layers that
change nothing while predicting (Dropout, Split) leave no trace, nor do the names of layers without
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import nn

from fullyconv.caffe.build import KINDS
from fullyconv.caffe.description import Layer
from fullyconv.caffe.modules import Concat, Crop, Eltwise, Pooling, Scale
from fullyconv.caffe.net import Net

Traits = tuple[Hashable, ...]

INPUT = "input"
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


TRAITS: dict[type[nn.Module], Callable[[Any, str], Traits]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _deconvolution,
    Pooling: _pooling,
    nn.LocalResponseNorm: _norm,
    Crop: _crop,
    Eltwise: _eltwise,
    Scale: _scale,
    Concat: lambda module, name: ("Concat", module.axis),
    nn.ReLU: lambda module, name: ("ReLU",),
}


def traits(layer: Layer, module: nn.Module) -> Traits:
    """Give what a layer computes, but for the values of its weights; layers of other kinds differ by name."""
    describe = TRAITS.get(type(module))
    return (layer.kind, layer.name) if describe is None else describe(module, layer.name)


class Numbering:
    """Numbers blobs by how they come about."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._inputs: set[int] = set()

    def _number(self, expression: Hashable) -> int:
        return self._numbers.setdefault(expression, len(self._numbers))

    def outputs(self, net: Net) -> set[int]:
        """Number the blobs of a net that nothing but losses uses, by what they are."""
        fed = [name for name in net.inputs if _is_used(net, name)]
        blobs = {}
        for name in fed:
            # One input may have any name, several must be told apart.
            blobs[name] = self._number((INPUT, name if len(fed) > 1 else "data", net.inputs[name][1:2]))
            self._inputs.add(blobs[name])
        used: set[str] = set()
        tops: set[str] = set()
        for layer in net.described:
            if KINDS[layer.kind].observes or not layer.tops:
                continue
            number = self._layer(layer, net.module(layer), [blobs[bottom] for bottom in layer.bottoms])
            used.update(layer.bottoms)
            for index, top in enumerate(layer.tops):
                blobs[top] = number if len(layer.tops) == 1 or layer.kind == "Split" else self._number((number, index))
            used.difference_update(layer.tops)
            tops.update(layer.tops)
        return {blobs[top] for top in tops - used}

    def _layer(self, layer: Layer, module: nn.Module, bottoms: list[int]) -> int:
        if layer.kind in SILENT:
            return bottoms[0]
        if isinstance(module, Crop):  # of the second bottom it takes the size, which all inputs share
            reference = INPUT if bottoms[1] in self._inputs else bottoms[1]
            return self._number((*traits(layer, module), bottoms[0], reference))
        if isinstance(module, Eltwise) and not module.coefficients:
            bottoms = sorted(bottoms)
        number = self._number((*traits(layer, module), *bottoms))
        if isinstance(module, Concat) and self._inputs.issuperset(bottoms):
            self._inputs.add(number)
        return number


def _is_used(net: Net, name: str) -> bool:
    """Tell whether an input feeds more than losses."""
    return any(name in layer.bottoms and not KINDS[layer.kind].observes for layer in net.described)


def differences(net: Net, other: Net) -> list[str]:
    """Name the layers with weights in which ``net`` is not ``other``, each with what was found and expected."""
    found = {layer.name: traits(layer, net.module(layer)) for layer in net.described if net.blobs(layer)}
    expected = {layer.name: traits(layer, other.module(layer)) for layer in other.described if other.blobs(layer)}
    return [
        f"{name} is {found.get(name, 'absent')}, not {expected.get(name, 'there')}"
        for name in [*expected, *(name for name in found if name not in expected)]
        if found.get(name) != expected.get(name)
    ]
