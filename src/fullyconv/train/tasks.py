"""Training for two tasks at once: the SIFT Flow nets, whose losses are summed (reference, siftflow-fcn*)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from fullyconv.data.pairs import Pair
from fullyconv.networks.heads import TwoHeads
from fullyconv.predict.image import Segmenter
from fullyconv.train.form import FusedScores
from fullyconv.train.job import Validation
from fullyconv.train.pictures import Judge, PixelLoss

SECOND = "geometric"  # what the second task is called in a document of scores


class FusedTasks(FusedScores):
    """A network with two heads in the form in which it trains: the fused scores of both."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Score N x K x H x W pixels up to the finest map that is scored."""
        return tuple(cast("TwoHeads", self.network).both(image))


@dataclass(frozen=True)
class SummedLoss:
    """The sum of two tasks' losses, weight 1 each."""

    losses: tuple[PixelLoss, PixelLoss]

    def __call__(self, scores: Sequence[Tensor], labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of each task's scores against N x 2 x H x W labels."""
        first, second = (
            loss(each, labels[:, task], generator)
            for task, (loss, each) in enumerate(zip(self.losses, scores, strict=True))
        )
        return first + second


@dataclass(frozen=True)
class BothJudges:
    """Validates both tasks; the best is the best of the first."""

    semantic: Judge
    geometric: Judge

    def __call__(self) -> Validation:
        """Score every pair for both tasks."""
        found, other = self.semantic(), self.geometric()
        figures = {**found.figures, **{f"geometric_{key}": value for key, value in other.figures.items()}}
        return replace(found, figures=figures)


def second_segmenter(segmenter: Segmenter, pairs: Sequence[Pair]) -> Segmenter:
    """Make a segmenter of the second task of a network with two heads, which it shares.

    Args:
        segmenter: Of the first task; its network is a ``TwoHeads``.
        pairs: Of the second task: they bring its classes.
    """
    return Segmenter(
        cast("TwoHeads", segmenter.network).geometric_network(),
        classes=pairs[0].classes or segmenter.classes,
        preprocess=segmenter.preprocess,
        device=segmenter.device,
        precision=segmenter.precision,
        engine="pytorch",
    )


def for_tasks(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Part pairs with a second task into those of the first and those of the second."""
    return [replace(pair, second=None) for pair in pairs], [pair.second for pair in pairs if pair.second is not None]
