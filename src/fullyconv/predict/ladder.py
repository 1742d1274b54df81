"""From score maps to labels in one pass: skip fusion, upsampling, crop and argmax without C x H x W scores.

Two facts make it fast. Every output pixel reads 2 x 2 units, so a cell of f x f pixels shares them; and where the
weights of the upsampling are not negative and the same for all classes (bilinear interpolation), a class that another
one matches at all four corners of a cell can win nowhere inside. Cells with one winner are filled, the others compare
only the classes that are left (in a trained network's predictions about two).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fullyconv.networks.fcn import FCN
from fullyconv.predict.rungs import Pair, Rung, Units
from fullyconv.upsample import Upsample, gpu_rows

BAND_ROWS = 64
NOT_FINITE = "the network's scores are not finite (NaN or infinity)"


class NotFinite(ValueError):
    """Scores are NaN or infinite (or so large that their sums are)."""


def label_type(classes: int) -> torch.dtype:
    """Return the smallest unsigned integer type that holds the labels of so many classes.

    >>> label_type(256), label_type(257)
    (torch.uint8, torch.uint16)
    """
    return next(kind for kind in (torch.uint8, torch.uint16, torch.uint32) if classes <= torch.iinfo(kind).max + 1)


class Ladder:
    """The head of an FCN made ready for prediction: from its score maps to labels, on the CPU by compiled loops.

    Labels are those of ``network.upsampled(network.fused(maps), size).argmax(1)``, except where float32 rounding
    decides between scores. The weights are read once: make another ladder when they have changed. It is safe to use
    from several threads. The first call compiles for some seconds on a machine; the machine code is kept on disk
    where numba keeps such (``NUMBA_CACHE_DIR``, ``__pycache__`` or the user's cache), then it takes about 0.3 s.

    Args:
        network: Its plans and upsampling are used, not its trunk.
        ladder: Which of the network's ladders (``FCN.ladders``).

    Raises:
        ValueError: For upsampling whose pixels read more than 2 x 2 units (no network of this package).

    >>> from fullyconv.networks import build
    >>> network = build("fcn8s-resnet18", 3).eval()
    >>> with torch.inference_mode():
    ...     labels = Ladder(network).labels(network.score_maps(torch.zeros(1, 3, 20, 33)), (20, 33))
    >>> labels.shape, labels.dtype
    (torch.Size([1, 20, 33]), torch.uint8)
    """

    def __init__(self, network: FCN, ladder: str = "upsamplers") -> None:
        steps = cast("list[Upsample]", list(network.ladders[ladder]))
        rows, columns = (plan.stages for plan in network.plans)
        self.rungs = [Rung((row, column), step) for row, column, step in zip(rows, columns, steps, strict=True)]
        self.classes, self._fusion = steps[-1].channels, network.fusion
        self._shapes = lru_cache(maxsize=256)(self._fused_sizes)

    def labels(self, maps: Sequence[Tensor], size: Pair, *, own: bool = False) -> Tensor:
        """Label every pixel.

        Args:
            maps: N x C x h x w each, coarse to fine (``FCN.score_maps``); fastest in float32 and channels-last.
            size: Height and width of the image.
            own: Whether threads are others than PyTorch's (``fullyconv.threads.side_by_side``).

        Returns:
            N x H x W, the smallest unsigned integer type that holds the classes.

        Raises:
            NotFinite: If a fused score is NaN or infinite.
            ValueError: For maps that do not belong to an image of that size.
        """
        shapes = self._check(maps, size)
        labels = torch.empty(len(maps[0]), *size, dtype=label_type(self.classes), device=maps[0].device)
        if labels.device.type != "cpu":
            height = gpu_rows(len(labels) * self.classes * size[1], BAND_ROWS)
            for rows, scores in self.bands(maps, size, rows=height):
                labels[:, rows] = scores.argmax(1).to(labels.dtype)
            return labels
        if self._fusion != "sum":  # the compiled loops add
            maps, shapes = [self._fused(maps)], shapes[-1:]
        with torch.inference_mode():
            flat = [scores.detach().float().permute(0, 2, 3, 1).contiguous().numpy() for scores in maps]
            self._climb(flat, shapes, labels, own=own)
        return labels

    def _climb(self, maps: Sequence[np.ndarray], shapes: Sequence[Pair], labels: Tensor, *, own: bool) -> None:
        """Fuse N x h x w x C maps, whose sums have ``shapes`` rows and columns, and label the pixels."""
        first, *finer = maps
        units = Units(len(labels), self.classes, shapes[0], own=own)
        writing = units.lay(first)
        for rung, fine, shape in zip(self.rungs, finer, shapes[1:], strict=False):
            units.write(writing, repeats=rung.repeats)
            coarse, units = units, Units(len(labels), self.classes, shape, own=own)
            writing = units.fuse(coarse, fine, rung)
        last = self.rungs[-1]
        winners, finite = units.write_last(writing, repeats=last.repeats, growth=last.growth)
        if not finite:
            raise NotFinite(NOT_FINITE)
        units.label(winners, last, labels.numpy())

    def bands(self, maps: Sequence[Tensor], size: Pair, *, rows: int = BAND_ROWS) -> Iterator[tuple[slice, Tensor]]:
        """Score every pixel, some rows of the image at a time.

        Args:
            maps: N x C x h x w each, coarse to fine (``FCN.score_maps``).
            size: Height and width of the image.
            rows: How many at a time.

        Returns:
            Which rows, and their scores, N x C x rows x W float32 (before the softmax); computed when asked for.

        Raises:
            NotFinite: If a fused score is NaN or infinite.
            ValueError: For maps that do not belong to an image of that size.
        """
        self._check(maps, size)
        fused = self._fused(maps)
        return (
            (slice(start, min(start + rows, size[0])), _some_rows(self.rungs[-1], fused, start, rows, size))
            for start in range(0, size[0], rows)
        )

    @torch.inference_mode()
    def _fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps to N x C x h x w; raises ``NotFinite``."""
        fused, *finer = [scores.float() for scores in maps]
        for rung, fine in zip(self.rungs, finer, strict=False):
            kept = rung.size((fused.shape[2], fused.shape[3]), (fine.shape[2], fine.shape[3]))
            met = fine.narrow(2, rung.met[0], kept[0]).narrow(3, rung.met[1], kept[1])
            fused = rung.upsample(fused, rung.kept, kept)
            fused = fused + met if self._fusion == "sum" else torch.maximum(fused, met)
        if not bool((fused.abs() * self.rungs[-1].growth).isfinite().all()):
            raise NotFinite(NOT_FINITE)
        return fused

    def _check(self, maps: Sequence[Tensor], size: Pair) -> list[Pair]:
        """Refuse maps that do not fit each other or the image; returns the sizes of the fused maps."""
        batch = {tuple(scores.shape[:2]) for scores in maps}
        if len(maps) != len(self.rungs) or batch != {(len(maps[0]), self.classes)}:
            shapes = ", ".join(str(tuple(scores.shape)) for scores in maps)
            raise ValueError(f"this ladder takes {len(self.rungs)} maps of N x {self.classes} x h x w, not {shapes}")
        return self._shapes(tuple((scores.shape[2], scores.shape[3]) for scores in maps), (size[0], size[1]))

    def _fused_sizes(self, units: tuple[Pair, ...], size: Pair) -> list[Pair]:
        fused = [*units[:1]]
        for rung, finer in zip(self.rungs, [*units[1:], size], strict=True):
            fused.append(rung.size(fused[-1], finer))
            rung.upsample.check(fused[-2], rung.kept, fused[-1])
            if any(met + count > there for met, count, there in zip(rung.met, fused[-1], finer, strict=True)):
                raise ValueError(f"maps of {[*units]} are not those of one image: {fused[-1]} units meet {finer}")
        return fused[:-1]


@torch.inference_mode()
def _some_rows(last: Rung, fused: Tensor, start: int, rows: int, size: Pair) -> Tensor:
    """Upsample fused scores to some rows of the image, from no more units than reach them."""
    stop, factor, offset = min(start + rows, size[0]), last.factor[0], last.kept[0]
    # One more on either side than is read, so that a repeated edge of this part is not seen.
    first = min(max((start + offset) // factor - 2, 0), fused.shape[2] - 1)
    units = min((stop - 1 + offset) // factor + 3, fused.shape[2]) - first
    part = fused.narrow(2, first, max(units, 1))
    scores: Tensor = last.upsample(part, (start + offset - first * factor, last.kept[1]), (stop - start, size[1]))
    return scores
