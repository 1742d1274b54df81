"""Score a model over a data set at native resolution: one confusion matrix, then the paper's four metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fullyconv.data.dataset import read_sample
from fullyconv.data.pairs import Pair
from fullyconv.predict.image import Segmenter
from fullyconv.scores.metrics import CONVENTION, Scores, confusion, score
from fullyconv.types import ClassSet

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Evaluation:
    """The counts of a data set and all that follows from them."""

    classes: ClassSet
    counts: np.ndarray  # C x C int64, rows = truth
    void_pixels: int
    image_iu: dict[str, float]  # mean IU of each image by itself, by name

    @property
    def scores(self) -> Scores:
        """The scores of the whole set."""
        return score(self.counts)

    @property
    def absent(self) -> list[str]:
        """The classes that no pixel of the truth has."""
        return [name for name, row in zip(self.classes.names, self.counts, strict=True) if row.sum() == 0]

    @property
    def void_share(self) -> float:
        """The share of pixels that are not scored."""
        total = self.void_pixels + int(self.counts.sum())
        return self.void_pixels / total if total else 0.0

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; per-class figures in the order of ``classes``."""
        return {
            **asdict(self.scores),
            "classes": list(self.classes.names),
            "images": len(self.image_iu),
            "void_share": self.void_share,
            "absent_classes": self.absent,
            "convention": CONVENTION,
            "confusion": self.counts.tolist(),
            "image_mean_iu": self.image_iu,
        }


def evaluate(segmenter: Segmenter, pairs: Sequence[Pair], *, progress: Progress | None = None) -> Evaluation:
    """Predict every pair and count; raises ``BadFile`` for a pair that cannot be read."""
    classes = segmenter.classes
    counts = np.zeros((len(classes), len(classes)), np.int64)
    void, image_iu = 0, {}
    for done, pair in enumerate(pairs, start=1):
        sample = read_sample(pair, classes)
        image_counts = confusion(sample.labels, segmenter.predict(sample.image).labels, classes=len(classes))
        counts += image_counts
        void += sample.labels.size - int(image_counts.sum())
        image_iu[pair.name] = score(image_counts).mean_iu
        if progress is not None:
            progress(done, len(pairs))
    return Evaluation(classes, counts, void, image_iu)
