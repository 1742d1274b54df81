"""From score maps to labels: fusion, upsampling and the largest score, without the scores of every pixel at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fullyconv.networks.fcn import FCN

BAND_ROWS = 64


class Ladder:
    """What an FCN does with its score maps.

    Args:
        network: A network in evaluation mode that nobody else changes (``fullyconv.machine.frozen``).
    """

    def __init__(self, network: FCN) -> None:
        self.network = network
        self.kind = torch.from_numpy(np.empty(0, np.min_scalar_type(network.classes - 1))).dtype

    def labels(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Label every pixel.

        Args:
            maps: N x C x h x w each, coarse to fine.
            size: H and W of the image.

        Returns:
            N x H x W, the smallest unsigned integers that hold the classes.
        """
        return self._scores(maps, size).max(1).indices.to(self.kind)

    def bands(
        self, maps: Sequence[Tensor], size: tuple[int, int], *, rows: int = BAND_ROWS
    ) -> Iterator[tuple[slice, Tensor]]:
        """Score every pixel, some rows at a time.

        Args:
            maps: N x C x h x w each, coarse to fine.
            size: H and W of the image.
            rows: How many rows at a time, at most.

        Yields:
            Which rows, and their N x C x rows x W float32 scores.
        """
        scores = self._scores(maps, size)
        for top in range(0, size[0], rows):
            yield slice(top, min(top + rows, size[0])), scores[:, :, top : top + rows]

    def check_finite(self, maps: Sequence[Tensor], size: tuple[int, int]) -> bool:
        """Return whether every pixel's scores will be finite numbers."""
        # Fixed kernels average what they upsample, so nothing overflows there.
        with torch.inference_mode():
            fixed = self.network.upsampling == "fixed"
            scores = self.network.fused(maps) if fixed else self.network.upsampled(self.network.fused(maps), size)
            return bool(torch.stack(scores.aminmax()).isfinite().all())

    @torch.inference_mode()
    def _scores(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return self.network.upsampled(self.network.fused(maps), size)
