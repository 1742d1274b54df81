"""Cutting an image into tiles whose cores cover each pixel exactly once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One tile along one axis: read ``start..stop``, keep ``core_start..core_stop`` (half open)."""

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True)
class Tile:
    """A rectangle to read and, inside it, the rectangle to keep."""

    rows: Span
    columns: Span


def plan_axis(length: int, *, core: int, reach: int, align: int) -> list[Span]:
    """Cut an axis into cores, each read with what the network sees around it: tiled then equals whole.

    Args:
        length: Pixels of the axis.
        core: Pixels that a tile keeps, rounded up to ``align``; the last core is what remains.
        reach: Pixels that the network sees beyond a unit's centre (from its receptive field), rounded up likewise.
        align: The network's total stride. Tiles start at multiples of it, so that its units fall on the same
            pixels as in the whole image.

    Returns:
        The tiles in order; their cores cover each pixel once.

    Raises:
        ValueError: For lengths below 1 or a negative reach.

    >>> plan_axis(10, core=6, reach=1, align=2)
    [Span(start=0, stop=8, core_start=0, core_stop=6), Span(start=4, stop=10, core_start=6, core_stop=10)]
    """
    if min(length, core, align) < 1 or reach < 0:
        raise ValueError(
            f"length, core and align must be positive and reach not negative: {length}, {core}, {align}, {reach}"
        )
    step = -(-core // align) * align  # rounded up to whole strides
    halo = -(-reach // align) * align
    spans = []
    for begin in range(0, length, step):
        end = min(begin + step, length)
        spans.append(Span(max(begin - halo, 0), min(end + halo, length), begin, end))
    return spans


def plan_tiles(height: int, width: int, *, core: int, reach: tuple[int, int], align: tuple[int, int]) -> list[Tile]:
    """Cut an image into tiles, row by row; see ``plan_axis``.

    Args:
        height: Rows of the image.
        width: Its columns.
        core: Side of what a tile keeps.
        reach: Vertical and horizontal.
        align: Vertical and horizontal.

    Returns:
        The tiles; their cores cover each pixel once.

    >>> len(plan_tiles(100, 50, core=32, reach=(16, 16), align=(8, 8)))
    8
    """
    rows = plan_axis(height, core=core, reach=reach[0], align=align[0])
    columns = plan_axis(width, core=core, reach=reach[1], align=align[1])
    return [Tile(row, column) for row in rows for column in columns]
