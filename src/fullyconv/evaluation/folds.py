"""Cross-validation: the scores of several parts, each by a model that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fullyconv.evaluation.scoring import Evaluation

FOLDS = "folds.json"


@dataclass(frozen=True)
class Folds:
    """The evaluations of all parts, at least two.

    >>> from fullyconv.types import ClassSet
    >>> classes = ClassSet(("a", "b"))
    >>> parts = [Evaluation(classes, np.array([[hits, 10 - hits], [0, 0]]), 0, {}) for hits in (6, 8)]
    >>> [round(value, 3) for value in Folds(tuple(parts)).mean("pixel_accuracy")]
    [0.7, 0.141]
    """

    parts: tuple[Evaluation, ...]

    def mean(self, figure: str) -> tuple[float, float]:
        """Return the mean of a score over the parts, and its standard deviation (of a sample: K - 1 below)."""
        values = [getattr(part.scores, figure) for part in self.parts]
        return float(np.mean(values)), float(np.std(values, ddof=1))

    @property
    def together(self) -> Evaluation:
        """The counts of all parts added up: every picture once."""
        first = self.parts[0]
        return Evaluation(
            first.classes,
            np.sum([part.counts for part in self.parts], axis=0),
            sum(part.void_pixels for part in self.parts),
            {name: value for part in self.parts for name, value in part.image_iu.items()},
            tuple(counted for part in self.parts for counted in part.margins),
            tuple(group for part in self.parts for group in part.groups),
        )

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        keys = ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu")
        means = {key: self.mean(key) for key in keys}
        return {
            "mean": {key: mean for key, (mean, _) in means.items()},
            "standard_deviation": {key: apart for key, (_, apart) in means.items()},
            "together": self.together.document(),
            "parts": [part.document() for part in self.parts],
        }
