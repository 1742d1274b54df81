"""What a type of layer is to this package, and what the makers of all types need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Size, nn

from fullyconv.caffe.description import Layer
from fullyconv.caffe.fields import Filler

Shapes = Sequence[Size]
Fillers = tuple[Filler, ...]


def _no_fillers(layer: Layer) -> Fillers:
    return ()


@dataclass(frozen=True)
class Kind:
    """A type of layer: how it is made, which blocks it may have, how many bottoms and tops it takes.

    ``most`` and ``most_tops`` of ``None`` are any number. ``observes``: it looks at its bottoms without using them up
    (a loss), so they stay outputs. ``each``: with several bottoms it does the same to each. ``fillers`` reads how its
    blobs start, in their order; what it does not name starts at 0.
    """

    make: Callable[[Layer, Shapes], nn.Module]
    blocks: tuple[str, ...] = ()
    least: int = 1
    most: int | None = 1
    tops: int = 1
    most_tops: int | None = 1
    observes: bool = False
    each: bool = False
    fillers: Callable[[Layer], Fillers] = _no_fillers


def pair(
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


def once(value: int | None) -> list[int]:
    """Write a number that may be absent as ``pair`` takes it."""
    return [] if value is None else [value]


def count(layer: Layer, what: str, value: int, *, least: int = 1) -> int:
    """Check that a number is at least ``least``."""
    if value < least:
        raise layer.fail(f"{what} is {value}", f"{what} is at least {least}")
    return value


def axis_of(layer: Layer, axis: int, shape: Sequence[int]) -> int:
    """Return an axis counted from the front; raises ``BadFile`` where the blob has no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise layer.fail(f"axis {axis} of a blob of {len(shape)} axes", f"write -{len(shape)} to {len(shape) - 1}")
    return axis % len(shape)


def span(layer: Layer, axis: int, num_axes: int, shape: Sequence[int]) -> tuple[int, int]:
    """Return where ``num_axes`` axes (-1: all there are) from ``axis`` on start and stop."""
    start = axis_of(layer, axis, shape)
    stop = len(shape) if num_axes == -1 else start + count(layer, "num_axes", num_axes, least=0)
    if stop > len(shape):
        raise layer.fail(f"{num_axes} axes from axis {start} of {len(shape)}", "give fewer num_axes")
    return start, stop
