"""Layers that move, cut, join or count values: their fields, their modules, and how these are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fullyconv.caffe.description import Layer
from fullyconv.caffe.fields import Shape
from fullyconv.caffe.kind import Kind, Shapes, axis_of, count, span

EMPTY = Shape()
Operation = Literal["SUM", "ASUM", "SUMSQ", "MEAN"]


@dataclass(frozen=True)
class _Crop:
    """``crop_param``."""

    axis: int = 2
    offset: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Concat:
    """``concat_param``; ``concat_dim`` is the old name of ``axis``."""

    axis: int | None = None
    concat_dim: int | None = None


@dataclass(frozen=True)
class SliceFields:
    """``slice_param``; ``slice_dim`` is the old name of ``axis``."""

    axis: int | None = None
    slice_dim: int | None = None
    slice_point: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Flatten:
    """``flatten_param``."""

    axis: int = 1
    end_axis: int = -1


@dataclass(frozen=True)
class _Reshape:
    """``reshape_param``."""

    shape: Shape = EMPTY
    axis: int = 0
    num_axes: int = -1


@dataclass(frozen=True)
class _Permute:
    """``permute_param``."""

    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Reduction:
    """``reduction_param``."""

    operation: Annotated[Operation, 1] = "SUM"
    axis: int = 0
    coeff: float = 1


@dataclass(frozen=True)
class _Tile:
    """``tile_param``."""

    tiles: int
    axis: int = 1


@dataclass(frozen=True)
class _ArgMax:
    """``argmax_param``."""

    out_max_val: bool = False
    top_k: int = 1
    axis: int | None = None


class Crop(nn.Module):
    """The part of a blob, from ``offsets`` on, that is as large as a second blob; axes before ``axis`` stay whole."""

    def __init__(self, axis: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.axis, self.offsets = axis, tuple(offsets)

    def extra_repr(self) -> str:
        """Describe the layer in ``print(net)``."""
        return f"axis={self.axis}, offsets={self.offsets}"

    def forward(self, bottom: Tensor, reference: Tensor) -> Tensor:
        """Crop; raises ``ValueError`` where the blob is too small."""
        axes = range(self.axis, bottom.ndim)
        offsets = self.offsets * len(axes) if len(self.offsets) == 1 else self.offsets or (0,) * len(axes)
        if len(offsets) != len(axes):
            raise ValueError(f"{len(offsets)} offsets for {len(axes)} axes")
        for axis, offset in zip(axes, offsets, strict=True):
            size = reference.shape[axis]
            if offset + size > bottom.shape[axis]:
                raise ValueError(f"{offset} + {size} units of axis {axis}, which has {bottom.shape[axis]}")
            bottom = bottom.narrow(axis, offset, size)
        return bottom


class Concat(nn.Module):
    """The bottoms one after the other along ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Join the bottoms."""
        return torch.cat(bottoms, self.axis)


class Slice(nn.Module):
    """One bottom cut along ``axis`` at ``points``, or into ``parts`` of one size."""

    def __init__(self, axis: int, points: Sequence[int], parts: int) -> None:
        super().__init__()
        self.axis, self.points, self.parts = axis, tuple(points), parts

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Cut; raises ``ValueError`` where the parts would be empty or unequal."""
        length = bottom.shape[self.axis]
        if self.points:
            cuts = (0, *self.points, length)
            sizes = [after - before for before, after in pairwise(cuts)]
        else:
            sizes = [length // self.parts] * self.parts
        if min(sizes) < 1 or sum(sizes) != length:
            raise ValueError(f"{length} units along axis {self.axis} do not cut into {self.parts} at {self.points}")
        return torch.split(bottom, sizes, self.axis)


class Split(nn.Module):
    """One bottom under several names."""

    def __init__(self, tops: int) -> None:
        super().__init__()
        self.tops = tops

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Repeat the bottom."""
        return (bottom,) * self.tops


class Silence(nn.Module):
    """Takes bottoms so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return nothing."""
        return ()


class Reshape(nn.Module):
    """The axes ``start`` to ``stop`` in other sizes: 0 keeps the size of that axis, -1 is what is left."""

    def __init__(self, sizes: Sequence[int], start: int, stop: int) -> None:
        super().__init__()
        self.sizes, self.start, self.stop = tuple(sizes), start, stop

    def forward(self, bottom: Tensor) -> Tensor:
        """Reshape; raises ``ValueError`` where the numbers of values differ."""
        shape = tuple(bottom.shape)
        sizes = [
            size or (shape[self.start + place] if self.start + place < len(shape) else 0)
            for place, size in enumerate(self.sizes)
        ]
        if -1 in sizes:
            known, there = -prod(sizes), prod(shape[self.start : self.stop])
            if known < 1 or there % known:
                raise ValueError(f"{there} values do not fill {self.sizes}")
            sizes[sizes.index(-1)] = there // known
        wanted = (*shape[: self.start], *sizes, *shape[self.stop :])
        if prod(wanted) != prod(shape):
            raise ValueError(f"a blob of {shape} as {wanted}")
        return bottom.reshape(wanted)


class Permute(nn.Module):
    """The axes in another order; those not named follow in theirs."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, bottom: Tensor) -> Tensor:
        """Permute a blob of as many axes."""
        return bottom.permute(self.order)


class Reduction(nn.Module):
    """All axes from ``axis`` on become one number, times ``factor``."""

    def __init__(self, operation: Operation, axis: int, factor: float) -> None:
        super().__init__()
        self.operation, self.axis, self.factor = operation, axis, factor

    def forward(self, bottom: Tensor) -> Tensor:
        """Reduce a blob."""
        flat = bottom.reshape(*bottom.shape[: self.axis], -1)
        if self.operation == "ASUM":
            flat = flat.abs()
        elif self.operation == "SUMSQ":
            flat = flat**2
        return self.factor * (flat.mean(-1) if self.operation == "MEAN" else flat.sum(-1))


class Tile(nn.Module):
    """Copies of a blob one after the other along ``axis``."""

    def __init__(self, axis: int, tiles: int) -> None:
        super().__init__()
        self.axis, self.tiles = axis, tiles

    def forward(self, bottom: Tensor) -> Tensor:
        """Repeat a blob."""
        return bottom.repeat([self.tiles if axis == self.axis % bottom.ndim else 1 for axis in range(bottom.ndim)])


class ArgMax(nn.Module):
    """Where the largest values are, the largest first, ties the last first; or, ``values``, the values themselves.

    Along ``axis``; without one over everything of an item: N x 1 x k (x 1), and with ``values`` N x 2 x k (x 1), the
    places and then the values.
    """

    def __init__(self, axis: int | None, top_k: int, *, values: bool) -> None:
        super().__init__()
        self.axis, self.top_k, self.values = axis, top_k, values

    def forward(self, bottom: Tensor) -> Tensor:
        """Return places as numbers of the blob's own type; raises ``ValueError`` for fewer values than wanted."""
        flat = bottom.flatten(1).unsqueeze(1) if self.axis is None else bottom
        axis = 2 if self.axis is None else self.axis
        if self.top_k > flat.shape[axis]:
            raise ValueError(f"the {self.top_k} largest of {flat.shape[axis]} values")
        # A stable order of the blob turned round has the last of equal values first.
        best, places = flat.flip(axis).sort(dim=axis, descending=True, stable=True)
        best = best.narrow(axis, 0, self.top_k)
        places = (flat.shape[axis] - 1 - places.narrow(axis, 0, self.top_k)).to(bottom.dtype)
        if self.axis is not None:
            return best if self.values else places
        both = torch.cat([places, best], 1) if self.values else places
        return both.reshape(*both.shape, *[1] * max(bottom.ndim - 3, 0))


def _crop(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("crop_param", _Crop)
    for offset in given.offset:
        count(layer, "offset", offset, least=0)
    return Crop(axis_of(layer, given.axis, shapes[0]), given.offset)


def _concat(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("concat_param", _Concat)
    return Concat(axis_of(layer, _either(layer, given.axis, given.concat_dim), shapes[0]))


def _slice(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("slice_param", SliceFields)
    parts = len(layer.tops)
    if given.slice_point and len(given.slice_point) != parts - 1:
        raise layer.fail(f"{len(given.slice_point)} slice points for {parts} tops", "give one less than tops")
    return Slice(axis_of(layer, _either(layer, given.axis, given.slice_dim), shapes[0]), given.slice_point, parts)


def _either(layer: Layer, axis: int | None, old: int | None) -> int:
    if axis is not None and old is not None:
        raise layer.fail("gives the axis under both names", "give axis only")
    return axis if axis is not None else old if old is not None else 1


def _flatten(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("flatten_param", _Flatten)
    first, last = (axis_of(layer, axis, shapes[0]) for axis in (given.axis, given.end_axis))
    if first > last:
        raise layer.fail(f"axis {first} after end_axis {last}", "write the first axis first")
    return nn.Flatten(first, last)


def _reshape(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("reshape_param", _Reshape)
    if min(given.shape.dim, default=0) < -1 or given.shape.dim.count(-1) > 1:
        raise layer.fail(f"sizes {given.shape.dim}", "one size at most may be -1, the others are 0 or more")
    # A negative axis counts from behind the last one: -1 is where a new axis would be added.
    axis = given.axis if given.axis >= 0 else len(shapes[0]) + 1 + given.axis
    if not 0 <= axis <= len(shapes[0]):
        raise layer.fail(f"axis {given.axis} of a blob of {len(shapes[0])} axes", f"write 0 to {len(shapes[0])}")
    if axis == len(shapes[0]):
        return Reshape(given.shape.dim, axis, axis)
    return Reshape(given.shape.dim, *span(layer, axis, given.num_axes, shapes[0]))


def _permute(layer: Layer, shapes: Shapes) -> nn.Module:
    order = layer.block("permute_param", _Permute).order
    axes = range(len(shapes[0]))
    if len(set(order)) != len(order) or not set(order) <= set(axes):
        raise layer.fail(f"order {order} of {len(axes)} axes", "name each axis once at most")
    return Permute([*order, *(axis for axis in axes if axis not in order)])


def _reduction(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("reduction_param", _Reduction)
    return Reduction(given.operation, axis_of(layer, given.axis, shapes[0]), given.coeff)


def _tile(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("tile_param", _Tile)
    return Tile(axis_of(layer, given.axis, shapes[0]), count(layer, "tiles", given.tiles))


def _argmax(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("argmax_param", _ArgMax)
    axis = None if given.axis is None else axis_of(layer, given.axis, shapes[0])
    return ArgMax(axis, count(layer, "top_k", given.top_k), values=given.out_max_val)


KINDS: dict[str, Kind] = {
    "Crop": Kind(_crop, ("crop_param",), least=2, most=2),
    "Concat": Kind(_concat, ("concat_param",), most=None),
    "Slice": Kind(_slice, ("slice_param",), most_tops=None),
    "Split": Kind(lambda layer, shapes: Split(len(layer.tops)), most_tops=None),
    "Silence": Kind(lambda layer, shapes: Silence(), most=None, tops=0, most_tops=0),
    "Flatten": Kind(_flatten, ("flatten_param",)),
    "Reshape": Kind(_reshape, ("reshape_param",)),
    "Permute": Kind(_permute, ("permute_param",)),
    "Reduction": Kind(_reduction, ("reduction_param",)),
    "Tile": Kind(_tile, ("tile_param",)),
    "ArgMax": Kind(_argmax, ("argmax_param",)),
}
