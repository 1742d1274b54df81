"""A network prepared for prediction: numbers of any size in, what is found of every pixel out, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv.machine import free_memory, frozen, out_of_memory
from fullyconv.networks.fcn import FCN
from fullyconv.predict.bands import Layout, Read, flow_through, working_bytes
from fullyconv.predict.engines import Bands, Choice, Engine, Snapshot, make_engine
from fullyconv.predict.ladder import Ladder, NotFinite
from fullyconv.predict.streamed import NotStreamed
from fullyconv.tiles import Tile, plan_tiles
from fullyconv.trace import NotFollowed
from fullyconv.types import Preprocess

PREPARING = Lock()
WORKING_BYTES = 800 << 20  # that the maps of a part may take, where the machine has it; they take two thirds of that
SMALLEST_AREA = 32 * 32  # pixels of parts that are made smaller because memory has run out

Piece = tuple[slice, slice, Tensor]
"""Rows and columns of an image, and what was found there, ... x h x w."""

Labelled = tuple[slice, slice, np.ndarray, np.ndarray | None]
"""Rows and columns of a picture, their labels, h x w, and their probabilities, C x h x w float16, if asked for."""

Look = Callable[[list[Tensor], tuple[int, int]], Iterator[tuple[slice, Tensor]]]
"""Finds something of every pixel of a size from its score maps: some rows at a time, ... x rows x W.

``find_labels`` and ``find_scores`` of a ``Prepared`` do.
"""


@dataclass(frozen=True)
class Prepared:
    """A network as the predictions of one of its heads use it.

    Attributes:
        network: The network, with all its heads.
        engine: Gives its score maps, of every task one behind the other.
        ladder: Makes labels of those of the head.
        place: Which task is the head's.
    """

    network: FCN
    engine: Engine
    ladder: Ladder
    place: int = 0

    @cached_property
    def per_pixel(self) -> int:
        """The bytes of memory that its layers take per pixel of the image."""
        return working_bytes(self.network) // (2 if self.engine.precision == "bfloat16" else 1)

    @cached_property
    def bands(self) -> Bands | None:
        """The network for bands of rows; ``None`` where it cannot be computed so."""
        try:
            return self.engine.bands()
        except (NotStreamed, NotFollowed):
            return None

    @property
    def sees_all(self) -> bool:
        """Whether some operation sees the whole picture at every position."""
        return any(remark.kind == "global" for remark in self.network.remarks)

    def fitting(self, memory: int | None) -> int:
        """Return how many pixels can be computed at a time, their maps in ``memory`` bytes; ``None``: as there is."""
        if memory is None:
            memory = free_memory() // 2 if self.sees_all else min(free_memory() // 2, WORKING_BYTES)
        return max(SMALLEST_AREA, memory // self.per_pixel)

    def labels(self, maps: list[Tensor], size: tuple[int, ...]) -> Tensor:
        """Label the pixels of images of a size, N x H x W; PyTorch's threads are left asleep if they are."""
        with self._explained():
            return self.ladder.labels(self._own(maps), (size[0], size[1]), own=self.engine.name == "openvino")

    def _own(self, maps: list[Tensor]) -> list[Tensor]:
        """Choose the head's own score maps among those of all tasks."""
        count = len(self.ladder.rungs)
        return maps[self.place * count : (self.place + 1) * count]

    def find_labels(self, maps: list[Tensor], size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
        """Label the pixels of one image, h x w: a ``Look``."""
        yield slice(0, size[0]), self.labels(maps, size)[0]

    def find_scores(self, maps: list[Tensor], size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
        """Score the pixels of one image, C x rows x W: a ``Look``."""
        with self._explained():
            for rows, scores in self.ladder.bands(self._own(maps), size):
                yield rows, scores[0]

    def looked(
        self, pixels: Any, looks: Sequence[Look], area: int, *, read: Read, approximate: bool
    ) -> Iterator[tuple[int, Piece]]:
        """Return what ``looks`` find, in one pass or part by part; the network computes each part once for all of them.

        Where memory runs out, it begins again in smaller parts, where the same is found.

        Args:
            pixels: H x W x K, whatever can be sliced.
            looks: What they find; each may be that of another head.
            area: As for ``parts``.
            read: Likewise.
            approximate: Likewise.

        Yields:
            Which of them found it; where it belongs, and ... x h x w.

        Raises:
            MemoryError: Where the smallest parts take too much.
            ValueError: Where a score is NaN or infinite, or the network cannot be computed in parts.
        """
        while True:
            try:
                for tile, maps in self.parts(pixels, area, read=read, approximate=approximate):
                    size = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
                    for index, look in enumerate(looks):
                        yield from ((index, piece) for piece in cores(tile, look(maps, size)))
                return
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                area = (area or pixels.shape[0] * pixels.shape[1]) // 4
                if area < SMALLEST_AREA:
                    what = f"not enough memory for {pixels.shape[0]} x {pixels.shape[1]} pixels, even in parts"
                    raise MemoryError(f"{what}: close other programs, or cut it into parts") from None
            torch.cuda.empty_cache()  # of no effect where CUDA is not in use

    def parts(self, pixels: Any, area: int, *, read: Read, approximate: bool) -> Iterator[tuple[Tile, list[Tensor]]]:
        """Compute score maps: of the whole, in bands of rows, or in tiles with what the network sees around them.

        Args:
            pixels: H x W x K, whatever can be sliced.
            area: About how many pixels are computed at a time; 0: all.
            read: What is done to each piece.
            approximate: Whether a network that sees the whole image may be given tiles of it.

        Yields:
            A tile and the maps of all tasks.
        """
        height, width = pixels.shape[:2]
        rows, columns = self.network.plans
        bands = self.bands if area and not self.sees_all else None
        if bands is not None:
            layout = Layout.choose(bands, self.network, width, area=area)
            yield from flow_through(bands, self.network, pixels, read, layout)
            return
        if area and self.sees_all and not approximate:
            raise ValueError(self._too_wide(height, width))
        reach, align = (rows.reach, columns.reach), (rows.stride, columns.stride)
        halo = max(plan.reach + plan.stride for plan in self.network.plans)
        # A halo wider than the core would be computed nine times over.
        core = max(isqrt(area) - 2 * halo, halo) if area else max(height, width)
        for tile in plan_tiles(height, width, core=core, reach=reach, align=align):
            y, x = tile.rows, tile.columns
            yield tile, self.engine.score_maps(read(pixels[y.start : y.stop, x.start : x.stop])[None])

    def _too_wide(self, height: int, width: int) -> str:
        everywhere = [str(remark) for remark in self.network.remarks if remark.kind == "global"]
        return (
            f"{everywhere[0]} ({len(everywhere)} such operations), so an image of {height} x {width} needs one pass, "
            "for which the memory does not suffice: make it smaller, allow more (--memory), or accept "
            "--approximate, which looks at each tile as a picture of its own"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say why scores are not finite where the ladder meets such."""
        try:
            yield
        except NotFinite as error:
            raise ValueError(f"{error}: {self._culprit()}") from None

    def _culprit(self) -> str:
        """Say why scores are not finite, and what to do."""
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"its {name} holds such numbers: take an earlier model, or train again at a lower rate"
        if self.engine.precision != "float32":
            return "its weights are finite, so its sums overflow: compute in precision float32"
        return "its weights are finite, so its sums overflow: check the model's weights and its normalisation"


def cores(tile: Tile, found: Iterator[tuple[slice, Tensor]]) -> Iterator[Piece]:
    """Return of what is found in a tile, some rows at a time, that of its core."""
    y, x = tile.rows, tile.columns
    across = slice(x.core_start - x.start, x.core_stop - x.start)
    for band, values in found:
        first = max(band.start + y.start, y.core_start)
        last = min(band.stop + y.start, y.core_stop)
        if first < last:
            down = slice(first - y.start - band.start, last - y.start - band.start)
            yield slice(first, last), slice(x.core_start, x.core_stop), values[..., down, across]


class Making:
    """A network, prepared when one of its heads first predicts, and anew when something of it has changed.

    Args:
        heads: The network as each of its heads has it, the first being the network itself. It may be trained on, and
            its mode changed: what is prepared has modules of its own.
    """

    def __init__(self, *heads: FCN) -> None:
        self.heads = heads
        self._made: tuple[Snapshot, tuple[Prepared, ...]] | None = None

    def prepared(self, preprocess: Preprocess | None, choose: Callable[[], Choice]) -> tuple[Prepared, ...]:
        """Prepare the network as it is now; what changes meanwhile is noticed by the next prediction.

        Args:
            preprocess: Its normalisation; ``None`` for numbers that are normalised already.
            choose: Says what shall compute, and how.

        Returns:
            The network as each head uses it, with one engine for all.
        """
        network, made = self.heads[0], self._made
        if made is None or not made[0].holds(network):
            choice = choose()
            with PREPARING:
                snapshot, still = Snapshot(network), frozen(network)
                engine = make_engine(still, preprocess, choice)
                ladders = [Ladder(still, name) for name in still.ladders]
                ready = [Prepared(still, engine, ladder, place) for place, ladder in enumerate(ladders)]
                self._made = made = snapshot, tuple(ready)
        return made[1]
