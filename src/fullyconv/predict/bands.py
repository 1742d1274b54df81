"""Pictures of any size through a network in bands of rows: exact, and in memory that grows with the width alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv.geometry import size
from fullyconv.machine import frozen
from fullyconv.networks.alignment import AxisPlan
from fullyconv.networks.fcn import FCN
from fullyconv.predict.carry import Flow
from fullyconv.predict.engines import Bands
from fullyconv.predict.streamed import cuts
from fullyconv.tiles import Span, Tile, plan_axis

HEIGHTS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Rows that a band may have, about; more than these give nothing."""
STARTING = 64
"""Rows that take as long as starting a band: measured, 0.050 s per megapixel and 64 / rows of that more."""

WAITING_ROWS, FEW_UNITS = 256, 0.1
"""Strips side by side wait for each other with their score maps: no higher ones where these have more units a pixel."""

Read = Callable[[Any], np.ndarray]
"""Brings a piece of the picture, h x w x K, to what the engine takes."""


@dataclass(frozen=True)
class Layout:
    """How a picture is cut.

    Attributes:
        rows: Of a band, at most.
        first: Of the first band, at least.
        least: The fewest of the last one.
        columns: That a strip keeps; strips overlap by what the network sees.
    """

    rows: int
    first: int
    least: int
    columns: int

    @classmethod
    def choose(cls, bands: Bands, network: FCN, width: int, *, area: int) -> Layout:
        """Choose the height of bands and the width of strips that fit and take the least time.

        The lower a band, the more often its operations are started; the narrower a strip, the more is computed twice.

        Args:
            bands: The network in bands.
            network: The same.
            width: Of the picture.
            area: Pixels of which all that a band computes fits into memory.
        """
        columns = network.plans[1]
        align, margin = bands.align, network.plans[0].padding(1)
        least = _up(margin[1] + 1, align)  # the last band has a row of the picture, too
        first = _up(max(bands.first, margin[0] + 1), align)
        halo = _up(columns.reach, columns.stride)
        found: list[tuple[float, Layout]] = []
        units = sum(
            1 / (down.scale * across.scale)
            for down, across in zip(*(each.lines for each in network.plans), strict=True)
        )
        for rows in {_up(max(number, least), align) for number in HEIGHTS}:
            most = area // max(first, rows + least)
            if width > most and rows > WAITING_ROWS and units > FEW_UNITS:
                continue
            core = width if width <= most else max(most - 2 * halo, min(halo, most)) // columns.stride * columns.stride
            core = max(core, min(width, columns.stride))
            twice = 1.0 if core == width else (core + 2 * halo) / core
            # Where the reach alone asks for more memory than there is, the least of it is worth more than time.
            beyond = max(1.0, max(first, rows + least) * min(width, core + 2 * halo) / area)
            found.append((beyond**2 * twice * (1 + STARTING / rows), cls(rows, first, least, core)))
        return min(found, key=lambda each: each[0])[1]

    def cuts(self, length: int, align: int) -> list[tuple[int, int]]:
        """Cut the rows of a padded picture into bands of one height, about.

        >>> Layout(rows=1024, first=64, least=32, columns=2048).cuts(2500, 32)
        [(0, 864), (864, 1728), (1728, 2500)]
        """
        number = -(-max(1, length - self.least) // self.rows)
        step = max(_up(-(-length // number), align), _up(self.least, align))
        return cuts(length, max(self.first, step), step, self.least)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


class _Strip:
    """One strip of columns on its way through the network, with the rows of its maps that are still needed."""

    def __init__(self, columns: Span, plans: tuple[AxisPlan, AxisPlan], bands: Bands, tasks: int) -> None:
        self.columns, self._plan, self._bands = columns, plans[0], bands
        self._sides = plans[1].padding(columns.stop - columns.start)
        self._flow = Flow()
        self._tasks = tasks
        self._strides = [int(line.scale) for line in self._plan.lines] * tasks
        self._maps: list[Tensor | None] = [None] * len(self._strides)
        self._starts = [0] * len(self._strides)

    def push(self, read: Callable[[], np.ndarray], above: int, below: int, *, last: bool) -> None:
        """Compute what new rows allow, ``above`` and ``below`` which zeros are; nobody else holds what is read."""
        self._flow.last = last
        for index, new in enumerate(self._bands.maps(read()[None], self._flow, (*self._sides, above, below))):
            kept = self._maps[index]
            self._maps[index] = new if kept is None or not kept.shape[2] else torch.cat([kept, new], 2)

    def ready(self, span: Span) -> bool:
        """Return whether all units are there that a picture of just these rows has."""
        return all(
            kept is not None and unit - start + count <= kept.shape[2]
            for kept, start, (unit, count) in zip(self._maps, self._starts, self._units(span), strict=True)
        )

    def window(self, span: Span) -> list[Tensor]:
        """Return the maps that a picture of just these rows has."""
        return [
            kept[:, :, unit - start : unit - start + count]
            for kept, start, (unit, count) in zip(self._maps, self._starts, self._units(span), strict=True)
            if kept is not None
        ]

    def forget(self, row: int) -> None:
        """Drop the units of rows before ``row``."""
        for index, (kept, stride) in enumerate(zip(self._maps, self._strides, strict=True)):
            if kept is not None and (gone := row // stride - self._starts[index]) > 0:
                self._maps[index], self._starts[index] = kept[:, :, gone:].clone(), row // stride

    def _units(self, span: Span) -> list[tuple[int, int]]:
        counts = map_sizes(self._plan, span.stop - span.start) * self._tasks
        return [(span.start // stride, count) for stride, count in zip(self._strides, counts, strict=True)]


def flow_through(
    bands: Bands, network: FCN, pixels: Any, read: Read, layout: Layout
) -> Iterator[tuple[Tile, list[Tensor]]]:
    """Compute a picture's score maps, from the top to the bottom.

    Args:
        bands: The network in bands.
        network: The same.
        pixels: H x W x K, whatever can be sliced; rows are read once, in order (of several strips: band by band).
        read: What is done to each piece.
        layout: How the picture is cut.

    Yields:
        A tile and its maps: those of a picture of just the tile's size, but seen in the whole picture. What makes
        labels of maps can do so tile by tile, and keeps the cores.
    """
    height, width = pixels.shape[:2]
    rows, columns = network.plans
    spans = plan_axis(width, core=layout.columns, reach=columns.reach, align=columns.stride)
    strips = [_Strip(span, network.plans, bands, len(network.ladders)) for span in spans]
    margin, after = rows.padding(height)
    end = margin + height + after
    parts = layout.cuts(end, bands.align)
    core = max(stop - start for start, stop in parts)
    waiting = deque(plan_axis(height, core=core, reach=head_reach(rows), align=rows.stride))
    for start, stop in parts:
        top, bottom = max(start - margin, 0), min(stop - margin, height)
        zeros = margin if start == 0 else 0, after if stop == end else 0
        for strip in strips:
            area = slice(top, bottom), slice(strip.columns.start, strip.columns.stop)
            strip.push(partial(_read, read, pixels, area), *zeros, last=stop == end)
        while waiting and all(strip.ready(waiting[0]) for strip in strips):
            span = waiting.popleft()
            for strip in strips:
                yield Tile(span, strip.columns), strip.window(span)
                strip.forget(waiting[0].start if waiting else span.start)


def _read(read: Read, pixels: Any, area: tuple[slice, slice]) -> np.ndarray:
    return read(pixels[area])


def head_reach(plan: AxisPlan) -> int:
    """Return how many pixels of the maps around it the head looks at: less than two units of the coarsest."""
    return 2 * ceil(plan.lines[0].scale)


def map_sizes(plan: AxisPlan, length: int) -> list[int]:
    """Count the units of each map along an axis of ``length`` pixels, coarse to fine.

    >>> from fullyconv.networks import build
    >>> map_sizes(build("fcn8s-resnet18", 2).plans[0], 65)
    [3, 5, 9]
    """
    before, after = plan.padding(length)
    return [size(path, length + before + after - 2 * plan.margin) for path in plan.taps]


def working_bytes(network: FCN) -> int:
    """Measure what a network's layers take per pixel of the image, by small ones.

    Thrice the widest layer's input and output: the maps that wait for their fusion, and the convolutions' own copies.

    >>> from fullyconv.networks import build
    >>> working_bytes(build("fcn8s-resnet18", 2).eval())
    384
    """
    widest = _widest(frozen(network))  # hooks of our own, where others may be predicting
    sides = [max(64, smallest) for smallest in network.smallest_input]
    rows, columns = (plan.stride for plan in network.plans)
    most = widest(sides[0], sides[1])
    # Of n numbers for each of (h + p) (w + q) pixels, p and q of them padding: what counts in a large image is n.
    taller = (widest(sides[0] + rows, sides[1]) - most) / rows
    wider = (widest(sides[0], sides[1] + columns) - most) / columns
    return ceil(3 * 4 * taller * wider / most)


def _widest(network: FCN) -> Callable[[int, int], int]:
    """Return what counts the numbers that the widest layer reads and makes of an image of some size."""

    def count(height: int, width: int) -> int:
        most = 0

        def note(_: torch.nn.Module, given: Sequence[object], result: object) -> None:
            nonlocal most
            most = max(most, sum(t.numel() for t in (*given, result) if isinstance(t, Tensor)))

        hooks = [module.register_forward_hook(note) for module in network.modules() if not list(module.children())]
        try:
            with torch.inference_mode():
                network(next(network.parameters()).new_zeros(1, network.in_channels, height, width))
        finally:
            for hook in hooks:
                hook.remove()
        return most

    return count
