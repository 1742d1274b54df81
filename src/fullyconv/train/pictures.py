"""What is particular to training on pictures: the loss of their pixels, and what a validation looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fullyconv.data.dataset import Reader, read_sample
from fullyconv.data.pairs import Pair
from fullyconv.draw import colourise, false_colours
from fullyconv.evaluation.scoring import Evaluation, Progress, evaluate_heads, merge
from fullyconv.files import without_nan
from fullyconv.losses import Normalization, hardest_terms, pixel_loss, sample_terms, upsampled_loss
from fullyconv.predict.image import Segmenter
from fullyconv.train.job import Validation
from fullyconv.train.team import ALONE, Team
from fullyconv.upsample import LastStep

FIGURES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu", "per_class_iu")
PICTURED = 4  # validation images shown in TensorBoard


@dataclass(frozen=True)
class PixelLoss:
    """The loss of a batch of pictures, whose expectation does not depend on how many of its terms are sampled.

    ``keep`` is the probability of a term, for all pixels or by class; ``sampling`` that on the whole. Of what is kept,
    the ``hardest`` share counts. ``overlap``, a loss of regions, is added.
    """

    normalization: Normalization = "valid"
    sampling: float = 1.0
    keep: float | Tensor = 1.0
    weights: Tensor | None = None
    step: LastStep | None = None
    hardest: float = 1.0
    overlap: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, scores: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of scores against N x H x W labels, a scalar.

        Scores are N x C x H x W or, with a ``step`` to the image, what that is taken from.
        """
        kept = sample_terms(labels, probability=self.keep, generator=generator)
        whole = None
        if self.hardest < 1 or self.overlap is not None:  # these look at every pixel's scores
            whole = scores if self.step is None else self.step(scores, (labels.shape[1], labels.shape[2]))
        if whole is not None and self.hardest < 1:
            kept = hardest_terms(whole, kept, share=self.hardest)
        loss = self._cross_entropy(scores, kept)
        return loss if whole is None or self.overlap is None else loss + self.overlap(whole, labels)

    def _cross_entropy(self, scores: Tensor, kept: Tensor) -> Tensor:
        if self.step is None:
            loss = pixel_loss(scores, kept, weights=self.weights, normalization=self.normalization)
        else:
            loss = upsampled_loss(scores, kept, self.step, weights=self.weights, normalization=self.normalization)
        # What is divided by the labelled pixels is divided by those that were kept.
        return loss if self.normalization == "valid" else loss / self.sampling


@dataclass(frozen=True)
class Judge:
    """Validates the network of ``segmenter`` on pairs, as it is whenever it is asked; the best has most mean IU.

    Each process of the ``team`` scores other pairs; the counts are added. ``further`` are the pairs of further heads,
    of the same pictures: their figures begin with their names, and the best model is the best of the first head.
    """

    segmenter: Segmenter
    pairs: Sequence[Pair]
    read: Reader = read_sample
    team: Team = ALONE
    further: Mapping[str, Sequence[Pair]] = field(default_factory=dict)

    def __call__(self) -> Validation:
        """Score every pair and show the first few."""
        models = [self.segmenter, *(self.segmenter.heads[name] for name in self.further)]
        found = evaluate_together(models, [self.pairs, *self.further.values()], self.team, read=self.read)
        figures = {
            (f"{name}_" if name else "") + key: getattr(own.scores, key)
            for name, own in zip(("", *self.further), found, strict=True)
            for key in FIGURES
        }
        picture = self._picture() if self.team.first else None
        score = found[0].scores.mean_iu
        return Validation(score, without_nan(figures), picture, "validation: image, truth, prediction")

    def _picture(self) -> np.ndarray:
        """Put image, truth and prediction side by side, one row per pair, all as large as the smallest."""
        rows, classes = [], self.segmenter.classes
        for pair in self.pairs[:PICTURED]:
            sample = self.read(pair, classes)
            guess = self.segmenter.predict(sample.image).labels
            painted = [false_colours(sample.image), colourise(sample.labels, classes), colourise(guess, classes)]
            rows.append(np.concatenate(painted, axis=1))
        height, width = min(row.shape[0] for row in rows), min(row.shape[1] for row in rows)
        return np.concatenate([row[:height, :width] for row in rows])


def evaluate_together(
    models: Sequence[Segmenter],
    pairs: Sequence[Sequence[Pair]],
    team: Team,
    *,
    groups: Sequence[str] = (),
    progress: Progress | None = None,
    read: Reader = read_sample,
) -> list[Evaluation]:
    """Score pictures as ``evaluate_heads`` does, each process of a team every so-manieth; all get the same evaluations.

    Raises:
        BadFile: For a pair that cannot be read, in the first process; ``Elsewhere`` in the others.
    """
    own = [each[team.rank :: team.size] for each in pairs]
    found = team.each(lambda: evaluate_heads(models, own, progress=progress, read=read))
    return [merge(parts, each, groups) for parts, each in zip(zip(*found, strict=True), pairs, strict=True)]
