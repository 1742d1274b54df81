"""Rows on their way through a network: what each operation keeps of its input until the rows below have come.

A picture comes in bands of rows, from the top to the bottom. An operation whose window needs rows of two bands keeps
the rows that its next window begins with; where branches meet, the one that is ahead waits. So every row of every map
is computed once, and what is kept grows with the picture's width alone.
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


class Carry(nn.Module):
    """Prepares the rows that a window moves over: those kept, the new ones, and what pads the first and last of all.

    What follows it moves its window over whatever it is given, without any padding above or below.

    Laying kept and new rows together copies a whole map. Where the operation before can repeat a row or two instead,
    its carrier lets it repeat its last ``again`` results in the next band; this one keeps nothing, for its first
    ``given`` rows are those.

    Args:
        window: The window along rows, with its padding.
        axis: That of the rows, counted from the end.
        fill: What pads.

    >>> carry, flow = Carry(Window(3, pad=1), -2, 0.0), Flow()
    >>> carry(torch.ones(1, 1, 4, 1), flow).flatten().tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0]
    >>> flow.last = True
    >>> carry(torch.ones(1, 1, 1, 1), flow).flatten().tolist()
    [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, window: Window, axis: int, fill: Fill) -> None:
        super().__init__()
        self.window, self.axis, self.fill = window, axis, fill
        self.given = self.again = 0

    def made(self, rows: int) -> int:
        """Count the outputs when so many rows of a picture that goes on have come."""
        window = self.window
        return max(0, (rows + window.pad + min(window.after, 0) - window.extent) // window.stride + 1)

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return what the windows that can be computed now read."""
        window, axis = self.window, self.axis
        before = flow.kept.get(self)
        kept, skip, taken, made, begin = before or (self._above(rows), max(0, -window.pad), 0, 0, 0)
        taken += rows.shape[axis] - (self.given if before else 0)
        found = stacked([*kept, rows], axis)
        if skip:
            found = rows_of(found, axis, min(skip, found.shape[axis]), found.shape[axis])
        total = window.size(taken) if flow.last else self.made(taken)
        if total <= made:
            raise TooFewRows(f"a band of {rows.shape[axis]} rows gives a window of {window.extent} nothing to compute")
        wanted = (total - begin - 1) * window.stride + window.extent
        length = found.shape[axis]
        if flow.last:
            below = min(wanted - length, window.after)  # what ceil_mode reads beyond the padding it does not count
            return self._below(found, below) if below > 0 else rows_of(found, axis, 0, min(wanted, length))
        following = total - self.again
        start = (following - begin) * window.stride
        rest = [] if self.given or start >= length else [rows_of(found, axis, start, length).clone()]
        flow.kept[self] = rest, max(0, start - length), taken, total, following
        return found if wanted == length else rows_of(found, axis, 0, wanted)

    def _above(self, rows: Tensor) -> list[Tensor]:
        return [self._padding(rows, self.window.pad, above=True)] if self.window.pad > 0 else []

    def _below(self, found: Tensor, count: int) -> Tensor:
        return stacked([found, self._padding(found, count, above=False)], self.axis)

    def _padding(self, rows: Tensor, count: int, *, above: bool) -> Tensor:
        """Make ``count`` rows that lie above the first or below the last."""
        axis, length = self.axis, rows.shape[self.axis]
        edge = rows_of(rows, axis, 0, 1) if above else rows_of(rows, axis, length - 1, length)
        if self.fill == "replicate":
            return torch.cat([edge] * count, axis)
        if self.fill == "reflect":
            first = 1 if above else length - 1 - count
            return rows_of(rows, axis, first, first + count).flip(axis)
        repeats = [1] * rows.ndim
        repeats[axis] = count
        return torch.full_like(edge, float(self.fill)).repeat(repeats)


class Delay(nn.Module):
    """Lets a branch wait for a slower one that it meets.

    Args:
        lag: By how many rows it is ahead, until the last band.
        axis: That of the rows, counted from the end.

    >>> delay, flow = Delay(1, -2), Flow()
    >>> delay(torch.ones(1, 1, 4, 1), flow).shape
    torch.Size([1, 1, 3, 1])
    """

    def __init__(self, lag: int, axis: int) -> None:
        super().__init__()
        self.lag, self.axis = lag, axis

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return the rows that the other branch has come to."""
        kept = flow.kept.get(self)
        found = rows if kept is None else stacked([kept, rows], self.axis)
        if flow.last:
            return found
        ready = found.shape[self.axis] - self.lag
        if ready < 1:
            raise TooFewRows(f"a band of {rows.shape[self.axis]} rows does not pass where branches meet")
        flow.kept[self] = rows_of(found, self.axis, ready, found.shape[self.axis]).clone()
        return rows_of(found, self.axis, 0, ready)


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
    """

    def __init__(self, by: Enlargement, axis: int) -> None:
        super().__init__()
        self.by, self.axis = by, axis

    def made(self, rows: int) -> int:
        """Count the rows of the result when so many of a picture that goes on have come."""
        return max(0, self.by.factor * (rows - self.by.ahead) - self.by.before)

    def forward(self, rows: Tensor, flow: Flow) -> Tensor:
        """Return the rows kept and the new ones."""
        by, axis = self.by, self.axis
        kept, first, taken, start = flow.kept.get(self) or ([], 0, 0, by.before)
        taken += rows.shape[axis]
        found = stacked([*kept, rows], axis)
        stop = by.factor * taken + by.more if flow.last else by.factor * (taken - by.ahead)
        if stop <= start:
            raise TooFewRows(f"a band of {rows.shape[axis]} rows is too short to be enlarged")
        following = max(0, stop // by.factor - by.back)
        rest = [] if flow.last else [rows_of(found, axis, following - first, found.shape[axis]).clone()]
        flow.kept[self] = rest, following, taken, stop
        flow.kept[self, "trim"] = start - by.factor * first, stop - by.factor * first  # type: ignore[index]
        return found


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
