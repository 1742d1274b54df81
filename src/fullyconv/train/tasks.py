"""Training for several tasks at once, whose losses are summed: SIFT Flow's nets, pictures with several masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fullyconv.networks.heads import ManyHeads
from fullyconv.train.form import FusedScores
from fullyconv.train.pictures import PixelLoss


class FusedTasks(FusedScores):
    """A network of several heads in the form in which it trains: the fused scores of all."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Score N x K x H x W pixels up to the finest map that is scored."""
        return cast("ManyHeads", self.network).every(image)


@dataclass(frozen=True)
class SummedLoss:
    """The weighted sum of the losses of several tasks.

    Attributes:
        losses: That of each task, the first task's first.
        weights: What each is multiplied by; none: 1 each.
    """

    losses: tuple[PixelLoss, ...]
    weights: tuple[float, ...] = ()

    def __call__(self, scores: Sequence[Tensor], labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of each task's scores against N x T x H x W labels, summed."""
        weights = self.weights or (1.0,) * len(self.losses)
        parts = [
            weight * loss(each, labels[:, task], generator)
            for task, (weight, loss, each) in enumerate(zip(weights, self.losses, scores, strict=True))
        ]
        return torch.stack(parts).sum()
