"""Steps of a network whose strides were removed: windows with their taps spread out, and what sees a whole map.

Below, ``lattice`` is the product of the strides removed before a step, along rows and columns. The units of a map
that lie ``lattice`` apart, from one of the first on, are a phase: the map that the strided network has on a shifted
image. Nothing may pass from one phase to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from fullyconv.geometry import Window

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
"""What comes before and after the rows, and before and after the columns."""
Windows = tuple[Window, Window]
"""What is moved over the rows and the columns."""
MOST_TAPS = 64  # of a window, beyond which two passes over the map are quicker than one


def times(first: Pair, second: Pair) -> Pair:
    """Multiply per axis."""
    return first[0] * second[0], first[1] * second[1]


def sides_of(windows: Windows, lattice: Pair = (1, 1)) -> Sides:
    """Return the border that a window needs to be moved by one unit over every phase.

    In ceil mode there is room for a partial window at the end, unless it would start in the padding.
    """
    sides = []
    for window, step in zip(windows, lattice, strict=True):
        partial = min(window.stride - 1, window.extent - 1 - window.after)
        sides.append((window.pad * step, (window.after + partial * window.ceil_mode) * step))
    return sides[0], sides[1]


def growth(windows: Windows, lattice: Pair) -> Pair:
    """Return how many rows and columns a window moved by one unit adds to a map."""
    sides = sides_of(windows, lattice)
    rows, columns = (
        sum(ends) - step * (window.extent - 1) for ends, step, window in zip(sides, lattice, windows, strict=True)
    )
    return rows, columns


class Border(nn.Module):
    """Puts a border around every phase of a map, or cuts one off where a side is negative.

    ``sides`` are in units of the map, ``axes`` those of its rows and columns, ``mode`` that of ``functional.pad``.
    """

    def __init__(
        self, sides: Sides, *, axes: Pair = (-2, -1), lattice: Pair = (1, 1), mode: str = "constant", value: float = 0.0
    ) -> None:
        super().__init__()
        self.sides, self.axes, self.lattice, self.mode, self.value = sides, axes, lattice, mode, value

    def forward(self, features: Tensor) -> Tensor:
        """Pad a map."""
        if self.mode == "constant":
            return functional.pad(features, self._amounts(), value=self.value)
        for axis, ends, lattice in zip(self.axes, self.sides, self.lattice, strict=True):
            index = _mirrored(features.shape[axis], ends, lattice, self.mode == "reflect")
            features = features.index_select(axis, index.to(features.device))
        return features

    def _amounts(self) -> list[int]:
        amounts = [0] * (-2 * min(self.axes))
        for axis, ends in zip(self.axes, self.sides, strict=True):
            amounts[-2 * axis - 2 : -2 * axis] = ends
        return amounts


def _mirrored(units: int, ends: Pair, lattice: int, reflects: bool) -> Tensor:
    """Return the unit that each place of a padded axis shows: one of its own phase."""
    place = torch.arange(-ends[0], units + ends[1])
    phase, number = place % lattice, place.div(lattice, rounding_mode="floor")
    last = (units - 1 - phase).div(lattice, rounding_mode="floor")
    if reflects:
        number = last - (last - number.abs()).abs()
    shown = phase + lattice * number.clamp(min=0).minimum(last)
    if units < lattice * (1 + max(ends) // lattice * reflects):
        raise ValueError(f"a map of {units} units is too small to be padded by reflection: enlarge the image")
    return shown


class Average(nn.Module):
    """An average pool moved by one unit, its taps spread out; partial windows average over what is there."""

    def __init__(self, windows: Windows, lattice: Pair, *, pads_count: bool, divisor: int | None) -> None:
        super().__init__()
        self.windows, self.lattice, self.pads_count, self.divisor = windows, lattice, pads_count, divisor

    def forward(self, features: Tensor) -> Tensor:
        """Average N x C x H x W."""
        padded = Border(sides_of(self.windows, self.lattice))(features)
        divisor = self.divisor or self._taps()
        if divisor is not None:
            return self._sum(padded, 1 / divisor)
        return self._sum(padded) / self._sum(weights_of(self.windows, features, self.lattice, self.pads_count))

    def _taps(self) -> int | None:
        """Return how many units each window averages, if all do the same number."""
        rows, columns = self.windows
        whole = all(self.pads_count or not (each.pad or each.after) for each in self.windows)
        return rows.kernel * columns.kernel if whole and not (rows.ceil_mode or columns.ceil_mode) else None

    def _sum(self, padded: Tensor, weight: float = 1.0) -> Tensor:
        """Sum over the taps: each channel by a convolution, a large window along one axis after the other."""
        (rows, columns), channels = (window.kernel for window in self.windows), padded.shape[-3]
        for kernel in [(rows, columns)] if rows * columns <= MOST_TAPS else [(rows, 1), (1, columns)]:
            taps = torch.full((channels, 1, *kernel), weight, dtype=padded.dtype, device=padded.device)
            padded, weight = functional.conv2d(padded, taps, dilation=self.lattice, groups=channels), 1.0
        return padded


def weights_of(windows: Windows, features: Tensor, lattice: Pair, pads_count: bool) -> Tensor:
    """Return what each unit of a padded map counts in an average: what sticks out in ceil mode nothing."""
    ones = torch.ones_like(features[:1, :1])
    pads = [(window.pad * step, window.after * step) for window, step in zip(windows, lattice, strict=True)]
    padded = Border((pads[0], pads[1]), value=float(pads_count))(ones)
    (_, bottom), (_, right) = sides_of(windows, lattice)
    return cast("Tensor", Border(((0, bottom - pads[0][1]), (0, right - pads[1][1])))(padded))


class Applied(nn.Module):
    """One recorded operation as a module: of ``inputs``, which stand for themselves in its arguments."""

    def __init__(self, target: Any, args: Any, kwargs: Any, inputs: Sequence[fx.Node]) -> None:
        super().__init__()
        order = {node: _Slot(index) for index, node in enumerate(inputs)}
        self.target = target
        self.args, self.kwargs = (
            fx.node.map_arg(given, lambda node: cast("fx.Node", order[node])) for given in (args, kwargs)
        )

    def forward(self, *inputs: Tensor) -> Any:
        """Apply it."""

        def filled(given: Any) -> Any:
            return tree_map(lambda each: inputs[each.index] if isinstance(each, _Slot) else each, given)

        first, *rest = filled(self.args)
        target = getattr(first, self.target) if isinstance(self.target, str) else None
        return (
            self.target(first, *rest, **filled(self.kwargs)) if target is None else target(*rest, **filled(self.kwargs))
        )


@dataclass(frozen=True)
class _Slot:
    index: int


class EachPhase(nn.Module):
    """Applies an operation that sees a whole map to each phase of it.

    A result that is a map is put together again; of vectors there is one for each phase, in the axis of the batch.
    """

    def __init__(self, operation: nn.Module, *, axes: Pair, lattice: Pair, gives_map: bool) -> None:
        super().__init__()
        self.operation, self.axes, self.lattice, self.gives_map = operation, axes, lattice, gives_map

    def forward(self, features: Tensor, *others: Tensor) -> Tensor:
        """Apply it to every phase of a map."""
        if any(features.shape[axis] < step for axis, step in zip(self.axes, self.lattice, strict=True)):
            raise ValueError(f"a map of {tuple(features.shape)} is too small to have all phases: enlarge the image")
        places = [
            self._place((row, column), features.ndim)
            for row in range(self.lattice[0])
            for column in range(self.lattice[1])
        ]
        results: list[Tensor] = [self.operation(features[place], *others) for place in places]
        if not self.gives_map:
            return torch.cat(results)
        made = results[0].new_empty(features.shape)
        for place, result in zip(places, results, strict=True):
            made[place] = result
        return made

    def _place(self, phase: Pair, dims: int) -> tuple[slice, ...]:
        place = [slice(None)] * dims
        for axis, start, step in zip(self.axes, phase, self.lattice, strict=True):
            place[axis] = slice(start, None, step)
        return tuple(place)


class Laid(nn.Module):
    """Lays what was found of each phase (``EachPhase``) on a map: every unit gets the value of its phase."""

    def __init__(self, *, axes: Pair, lattice: Pair) -> None:
        super().__init__()
        self.axes, self.lattice = axes, lattice

    def forward(self, values: Tensor, features: Tensor) -> Tensor:
        """Lay values of one row and column on the map ``features``."""
        if values.ndim != features.ndim or any(values.shape[axis] != 1 for axis in self.axes):
            raise ValueError(f"values of {tuple(values.shape)} are not one for each phase of {tuple(features.shape)}")
        high, wide = self.lattice
        each = values.view(high, wide, -1, *values.shape[1:])
        sizes = [torch.arange(features.shape[axis], device=values.device) for axis in self.axes]
        laid = each[sizes[0][:, None] % high, sizes[1] % wide]  # H x W x N x …
        for axis, place in zip(self.axes, (0, 1), strict=True):
            laid = laid.transpose(axis, place)  # the axes of length 1 go where rows and columns were
        return laid[0, 0]
