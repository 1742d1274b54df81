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
    """Cut an axis into cores of ``core`` pixels (rounded up to ``align``), each read with ``reach`` around it.

    Tiles start at multiples of ``align``, the network's total stride, so that its units fall on the
    same pixels as in the whole image; with ``reach`` from the receptive field, tiled equals whole.
    """
    if min(length, core, align) < 1 or reach < 0:
        raise ValueError(
            f"length, core and align must be positive and reach not negative: {length}, {core}, {align}, {reach}"
        )
    step = -(-core // align) * align
    halo = -(-reach // align) * align
    spans = []
    for begin in range(0, length, step):
        end = min(begin + step, length)
        spans.append(Span(max(begin - halo, 0), min(end + halo, length), begin, end))
    return spans


def plan_tiles(height: int, width: int, *, core: int, reach: tuple[int, int], align: tuple[int, int]) -> list[Tile]:
    """Cut an image into tiles, row by row; ``reach`` and ``align`` are (vertical, horizontal)."""
    rows = plan_axis(height, core=core, reach=reach[0], align=align[0])
    columns = plan_axis(width, core=core, reach=reach[1], align=align[1])
    return [Tile(row, column) for row in rows for column in columns]
