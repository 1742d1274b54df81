"""Rows on their way through a network: what each operation keeps of its input until the rows below have come.

A picture comes in bands of rows, from the top to the bottom. An operation whose window needs rows of two bands finds
those that its next window begins with above the new ones: they were kept, or are computed again where that is cheaper
than laying both together. Where branches meet, the one that is ahead waits. What is kept grows with the picture's width
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullyconv.geometry import Window

Fill = float | Literal["reflect", "replicate"]
"""What lies beyond the first and last row: a number, or what ``functional.pad`` makes of the rows there are."""


class TooFewRows(ValueError):
    """A band is so short that some operation has no row to compute."""


@dataclass
class Flow:
    """One picture (or a strip of it) that flows through a network.

    Attributes:
        last: Whether the band that is computed now is the last one.
        kept: What each of the network's carriers keeps from band to band.
    """

    last: bool = False
    kept: dict[nn.Module, Any] = field(default_factory=dict)


def rows_of(tensor: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Return a view of some rows."""
    return tensor.narrow(axis, start, stop - start)


def stacked(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Lay pieces of a map below each other, in the order in which they lie in memory."""
    parts = [part for part in parts if part.shape[axis]]
    if len(parts) == 1:
        return parts[0]
    largest = max(parts, key=Tensor.numel)
    if axis == -2 and largest.ndim == 4 and largest.is_contiguous(memory_format=torch.channels_last):
        # PyTorch joins tensors in another order than their own several times more slowly, and they stay in it.
        lines = [part.permute(0, 2, 3, 1).contiguous() for part in parts]
        return torch.cat(lines, 1).permute(0, 3, 1, 2)
    return torch.cat(list(parts), axis)


@dataclass(frozen=True)
class Around:
    """Rows of a map that lie above and below the new ones of a band.

    Attributes:
        above: Those that came before; in the first band, rows above the picture's first that stand for nothing.
        below: Rows below the picture's last that stand for nothing; in the last band alone.

    >>> Around(2, 0) | Around(1, 1)
    Around(above=2, below=1)
    """

    above: int = 0
    below: int = 0

    def __or__(self, other: Around) -> Around:
        return Around(max(self.above, other.above), max(self.below, other.below))

    def __bool__(self) -> bool:
        return self.above > 0 or self.below > 0


class Keep(nn.Module):
    """Lays the last rows of a map above the new ones: once, for all that read the map.

    This copies the map. Where the operations before can compute some rows again for less, there is none.

    Args:
        given: What lies around the new rows already.
        around: What shall.
        axis: That of the rows, counted from the end.

    >>> keep, flow = Keep(Around(), Around(2, 0), -2), Flow()
    >>> [keep(torch.ones(1, 1, 3, 1), flow).flatten().tolist() for _ in range(2)]
    [[0.0, 0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, given: Around, around: Around, axis: int) -> None:
        super().__init__()
        self.given, self.around, self.axis = given, around, axis

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return the rows kept and the new ones."""
        axis, above = self.axis, self.around.above
        stop = rows.shape[axis] - (self.given.below if flow.last else 0)
        new = rows_of(rows, axis, self.given.above, stop)
        kept = flow.kept.get(self)
        parts = [_blank(new, axis, above) if kept is None else kept, new]
        if flow.last:
            return stacked([*parts, _blank(new, axis, self.around.below)], axis)
        found = stacked(parts, axis)
        length = found.shape[axis]
        flow.kept[self] = rows_of(found, axis, length - above, length).clone()
        return found


def _blank(like: Tensor, axis: int, count: int) -> Tensor:
    shape = list(like.shape)
    shape[axis] = count
    return like.new_zeros(shape)


class Carry(nn.Module):
    """Chooses the rows that a window moves over now, and pads the first and last of all, in place.

    What follows it moves its window over whatever it is given, without any padding above or below.

    Args:
        window: The window along rows, with its padding.
        axis: That of the rows, counted from the end.
        fill: What pads.
        lag: Rows of the result that wait for the next band, because they meet those of a slower branch.

    Attributes:
        given: What lies around the new rows of the map.
        wanted: What shall lie around the new rows of the result.
        alone: Whether others read the map with another padding, so that this one's goes into a copy.
        eager: Whether what is cut off below lies within the last band, so that nothing waits for it.

    >>> carry, flow = Carry(Window(3, pad=1), -2, 0.0), Flow()
    >>> carry.given = Around(2, 1)
    >>> carry(torch.ones(1, 1, 6, 1), flow).flatten().tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0]
    >>> flow.last = True
    >>> carry(torch.ones(1, 1, 4, 1), flow).flatten().tolist()
    [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, window: Window, axis: int, fill: Fill, *, lag: int = 0) -> None:
        super().__init__()
        self.window, self.axis, self.fill, self.lag = window, axis, fill, lag
        self.given, self.wanted = Around(), Around()
        self.alone = self.eager = False

    @property
    def idle(self) -> bool:
        """Whether it gives what it is given."""
        window = self.window
        plain = (window.extent, window.stride, window.pad, window.after, self.lag) == (1, 1, 0, 0, 0)
        return plain and self.given == self.wanted

    def made(self, rows: int) -> int:
        """Count the outputs when so many rows of a picture that goes on have come."""
        window = self.window
        cut = 0 if self.eager else min(window.after, 0)
        ready = (rows + window.pad + cut - window.extent) // window.stride + 1
        return max(0, ready - self.lag)

    def needs(self, rows: int, wanted: Around) -> Around:
        """Return what must lie around new rows of the map.

        Args:
            rows: How many of them a first band has.
            wanted: What shall lie around the new rows of the result.
        """
        window = self.window
        kept = max(rows + window.pad - self.made(rows) * window.stride, window.pad)
        if self.fill == "reflect":
            kept = max(kept, window.after - wanted.above * window.stride)
        above, below = (
            max(0, beside) + more * window.stride
            for beside, more in ((kept, wanted.above), (window.after, wanted.below))
        )
        return Around(above, below)

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return what the windows that can be computed now read."""
        window, axis, given, wanted = self.window, self.axis, self.given, self.wanted
        taken, made = flow.kept.get(self) or (0, 0)
        top = taken - given.above  # the row of the map that the tensor begins with
        taken += rows.shape[axis] - given.above - (given.below if flow.last else 0)
        total = window.size(taken) if flow.last else self.made(taken)
        if total <= made:
            raise TooFewRows(f"a band of {rows.shape[axis]} rows gives a window of {window.extent} nothing to compute")
        flow.kept[self] = taken, total
        first, stop = window.seen(made - wanted.above, total - 1)
        stop += 1
        if flow.last:  # ceil_mode reads beyond the padding, which it does not count
            stop = min(stop, taken + max(window.after, 0)) + wanted.below * window.stride
        above, below = min(-first, window.pad), min(stop - taken, window.after)
        if (above > 0 or below > 0) and self.alone:
            rows = rows.clone()
        if above > 0:
            _pad(rows_of(rows, axis, -above - top, taken - top), axis, above, self.fill)
        if below > 0:
            # The rows below are those above of the map turned upside down.
            _pad(rows_of(rows, axis, max(0, -top), taken - top + below), axis, -below, self.fill)
        return rows_of(rows, axis, first - top, stop - top)


def _pad(rows: Tensor, axis: int, count: int, fill: Fill) -> None:
    """Fill rows of a tensor, the first ``count`` or the last ``-count``, with what pads the others."""
    size, length = abs(count), rows.shape[axis]
    place = rows_of(rows, axis, 0, size) if count > 0 else rows_of(rows, axis, length - size, length)
    if fill == "replicate":
        edge = size if count > 0 else length - size - 1
        place.copy_(rows_of(rows, axis, edge, edge + 1).expand_as(place))
    elif fill == "reflect":
        first = size + 1 if count > 0 else length - 2 * size - 1
        place.copy_(rows_of(rows, axis, first, first + size).flip(axis))
    else:
        place.fill_(float(fill))


@dataclass(frozen=True)
class Enlargement:
    """How an operation makes several rows of each: transposed convolution, interpolation.

    Row ``j`` of its result, counted with what it crops, is made of the rows ``j // factor - back`` to
    ``j // factor + ahead``.

    Attributes:
        factor: Rows made of each.
        before: Rows of the result that are cropped above.
        more: Rows that the last one makes beyond ``factor``, after the crop below.
        back: Rows that are looked back to.
        ahead: Rows that must have come below.
    """

    factor: int
    before: int = 0
    more: int = 0
    back: int = 0
    ahead: int = 0


class Context(nn.Module):
    """Gives an operation that enlarges the rows around those it answers for; ``Trim`` follows it.

    Args:
        by: How it enlarges.
        axis: That of the rows, counted from the end.

    Attributes:
        given: What lies around the new rows of the map.
    """

    def __init__(self, by: Enlargement, axis: int) -> None:
        super().__init__()
        self.by, self.axis, self.given = by, axis, Around()

    def made(self, rows: int) -> int:
        """Count the rows of the result when so many of a picture that goes on have come."""
        return max(0, self.by.factor * (rows - self.by.ahead) - self.by.before)

    def needs(self, rows: int, wanted: Around) -> Around:
        """Return what must lie around the new rows of the map, however many they are; nothing may around the result."""
        del rows, wanted
        return Around(self.by.back + self.by.ahead)

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return the rows that the new ones of the result are made of."""
        by, axis = self.by, self.axis
        first, taken, start = flow.kept.get(self) or (0, 0, by.before)
        top = taken - self.given.above
        taken += rows.shape[axis] - self.given.above - (self.given.below if flow.last else 0)
        stop = by.factor * taken + by.more if flow.last else by.factor * (taken - by.ahead)
        if stop <= start:
            raise TooFewRows(f"a band of {rows.shape[axis]} rows is too short to be enlarged")
        flow.kept[self] = max(0, stop // by.factor - by.back), taken, stop
        flow.kept[self, "trim"] = start - by.factor * first, stop - by.factor * first  # type: ignore[index]
        return rows_of(rows, axis, first - top, taken - top)


class Trim(nn.Module):
    """Cuts out of an enlarged band what is complete and has not been given before.

    Args:
        context: What prepared the band.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = [context]  # a list: it is no part of this one

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return those rows."""
        context = self._context[0]
        return rows_of(rows, context.axis, *flow.kept.pop((context, "trim")))  # type: ignore[call-overload]
