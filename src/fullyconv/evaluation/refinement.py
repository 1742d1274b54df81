"""What a CRF does to a model's scores: before and after in one pass over a data set, and the search for its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from fullyconv.crf import CRFParameters, image_crf
from fullyconv.data.pairs import Pair
from fullyconv.evaluation.scoring import Evaluation, Progress, Tally
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.scores.boundary import CONVENTION, BoundaryCounts, count_boundaries
from fullyconv.scores.metrics import confusion, score
from fullyconv.types import ClassSet, Sample

GRID = {
    "smoothness_weight": (0.0, 3.0),
    "appearance_weight": (3.0, 6.0, 10.0),
    "appearance_sxy": (30.0, 60.0, 100.0),
    "appearance_srgb": (5.0, 10.0, 20.0),
}
RANGES = {
    "smoothness_weight": (0.3, 10.0),
    "smoothness_sxy": (1.0, 5.0),
    "appearance_weight": (0.3, 20.0),
    "appearance_sxy": (10.0, 120.0),
    "appearance_srgb": (3.0, 30.0),
}


@dataclass(frozen=True)
class Scored:
    """A data set's scores with those of its boundaries."""

    evaluation: Evaluation
    boundaries: BoundaryCounts

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            **self.evaluation.document(),
            "trimap_iu": {str(width): value for width, value in self.boundaries.trimap_iu.items()},
            "boundary_f": self.boundaries.f_score,
            "per_class_boundary_f": self.boundaries.f_scores,
            "boundary_convention": CONVENTION,
        }


@dataclass(frozen=True)
class Comparison:
    """The same images without and with the CRF."""

    parameters: CRFParameters
    before: Scored
    after: Scored

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {"crf": asdict(self.parameters), "before": self.before.document(), "after": self.after.document()}


def compare(
    segmenter: CRFSegmenter,
    pairs: Sequence[Pair],
    *,
    groups: Sequence[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Score every pair before and after the CRF, as ``evaluate``; raises ``BadFile`` for a pair that cannot be read."""
    tallies = [_Tally(segmenter.classes, groups), _Tally(segmenter.classes, groups)]
    for done, pair in enumerate(pairs, start=1):
        sample = segmenter.sample(pair)
        for tally, prediction in zip(tallies, segmenter.predict_both(sample.image), strict=True):
            tally.add(sample.name, sample.labels, prediction.labels)
        if progress is not None:
            progress(done, len(pairs))
    return Comparison(segmenter.parameters, *(tally.scored() for tally in tallies))


class _Tally(Tally):
    """Adds up the counts of one side of a comparison, those of boundaries, too."""

    def __init__(self, classes: ClassSet, groups: Sequence[str]) -> None:
        super().__init__(classes, groups)
        self._boundaries: BoundaryCounts | None = None

    def add(self, name: str, truth: np.ndarray, guess: np.ndarray) -> None:
        super().add(name, truth, guess)
        found = count_boundaries(truth, guess, classes=len(self.classes))
        self._boundaries = found if self._boundaries is None else self._boundaries + found

    def scored(self) -> Scored:
        if self._boundaries is None:
            raise ValueError("nothing to compare: name a split with pairs")
        return Scored(self.evaluation(), self._boundaries)


@dataclass(frozen=True)
class Trial:
    """Parameters that were tried and the mean IU they gave."""

    parameters: CRFParameters
    mean_iu: float


def grid_candidates(base: CRFParameters) -> list[CRFParameters]:
    """List every combination of a few values for weights and bandwidths."""
    return [_changed(base, dict(zip(GRID, values, strict=True))) for values in product(*GRID.values())]


def random_candidates(base: CRFParameters, *, count: int, seed: int) -> list[CRFParameters]:
    """Draw parameters, each evenly on a logarithmic axis over its usual range; the first is ``base``."""
    rng = np.random.default_rng(seed)
    drawn = [
        _changed(base, {name: _rounded(rng.uniform(*np.log(limits))) for name, limits in RANGES.items()})
        for _ in range(count - 1)
    ]
    return [base, *drawn][:count]


def _changed(base: CRFParameters, values: dict[str, float]) -> CRFParameters:
    return CRFParameters(**(asdict(base) | values))


def _rounded(logarithm: float) -> float:
    return float(f"{np.exp(logarithm):.3g}")


def tune(
    segmenter: CRFSegmenter,
    pairs: Sequence[Pair],
    candidates: Sequence[CRFParameters],
    *,
    progress: Progress | None = None,
) -> tuple[float, list[Trial]]:
    """Score every candidate on the pairs; gives the mean IU without a CRF, and the trials, best first.

    The network sees each picture once; its energies are kept, 2 C bytes per pixel.
    """
    known = list(_energies(segmenter, pairs))
    classes = len(segmenter.classes)
    plain = sum(confusion(sample.labels, unary.argmin(0), classes=classes) for sample, unary in known)
    trials = []
    for done, candidate in enumerate(candidates, start=1):
        counts = np.zeros((classes, classes), np.int64)
        for sample, unary in known:
            crf = image_crf(sample.image, candidate)
            labels = crf.marginals(unary.astype(np.float32), iterations=candidate.iterations).argmax(0)
            counts += confusion(sample.labels, labels, classes=classes)
        trials.append(Trial(candidate, score(counts).mean_iu))
        if progress is not None:
            progress(done, len(candidates))
    return score(np.asarray(plain)).mean_iu, sorted(trials, key=lambda trial: -trial.mean_iu)


def _energies(segmenter: CRFSegmenter, pairs: Sequence[Pair]) -> Iterator[tuple[Sample, np.ndarray]]:
    for pair in pairs:
        sample = segmenter.sample(pair)
        # Beyond float16's range an energy is infinite; long before, its label is out of the question.
        yield sample, np.minimum(segmenter.energies(sample.image), 1e4).astype(np.float16)
