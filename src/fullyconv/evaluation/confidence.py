"""Whether a model's probabilities mean what they say, over a data set, and what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullyconv.data.bounds import spread_order
from fullyconv.data.pairs import Pair
from fullyconv.evaluation.scoring import Progress
from fullyconv.predict.image import Segmenter
from fullyconv.scores.calibration import Calibration, count_calibration, fit_temperature, temper

MOST = 60  # pictures that a temperature is fitted on
LEAST_FITTED = 2  # of one picture there is no other to measure the temperature on
NUMBERS = 40_000_000  # of all pixels' classes that are held for it


def calibrate(segmenter: Segmenter, pairs: Sequence[Pair], *, progress: Progress | None = None) -> Calibration:
    """Count how often the model is right, by how certain it is.

    Args:
        segmenter: The model, with whatever sharpens its probabilities (views, CRF).
        pairs: Images with their masks.
        progress: Called with (done, total) after each pair.

    Returns:
        Counts over all labelled pixels.

    Raises:
        BadFile: For a pair that cannot be read.
    """
    found = Calibration()
    for done, pair in enumerate(pairs, start=1):
        sample = segmenter.sample(pair)
        probabilities = segmenter.predict(sample.image, probabilities=True).probabilities
        if probabilities is None:
            raise ValueError("the model gives no probabilities")
        found += count_calibration(probabilities, sample.labels)
        if progress is not None:
            progress(done, len(pairs))
    return found


@dataclass(frozen=True)
class Fit:
    """A temperature and what it does.

    Attributes:
        temperature: Fitted on all pictures; 1 where those it was not fitted on gain nothing by it.
        before: The calibration of the probabilities as the network gives them.
        after: That with a temperature, each picture with the one that was fitted on the others of its half.
        pictures: How many there were.
    """

    temperature: float
    before: Calibration
    after: Calibration
    pictures: int

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "temperature": self.temperature,
            "pictures": self.pictures,
            "before": self.before.document(),
            "after": self.after.document(),
        }


def fit(segmenter: Segmenter, pairs: Sequence[Pair], *, progress: Progress | None = None) -> Fit:
    """Fit the temperature of a model's probabilities, and measure it on pictures that it was not fitted on.

    Args:
        segmenter: The model; it stays as it is.
        pairs: Images with their masks that it was not trained on; of many those at even distances.
        progress: Called with (done, total) after each pair.

    Returns:
        The temperature; errors before and after, each half of the pictures with the temperature of the other half.

    Raises:
        BadFile: For a pair that cannot be read.
    """
    chosen = [pairs[place] for place in spread_order(len(pairs))[:MOST]]
    each = max(100, NUMBERS // max(1, len(chosen) * len(segmenter.classes)))
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for done, pair in enumerate(chosen, start=1):
        sample = segmenter.sample(pair)
        labelled = np.flatnonzero((sample.labels >= 0).ravel())
        drawn = np.random.default_rng(done).permutation(labelled)[:each]
        logarithms = segmenter.log_probabilities(sample.image).reshape(len(segmenter.classes), -1)
        seen.append((logarithms[:, drawn], sample.labels.ravel()[drawn]))
        if progress is not None:
            progress(done, len(chosen))
    before, after = Calibration(), Calibration()
    halves = seen[::2], seen[1::2]
    for own, other in (halves, halves[::-1]):
        temperature = _fitted(other or own)  # of a single picture there is no other half
        for logarithms, truth in own:
            before += count_calibration(temper(logarithms, 1.0)[..., None], truth[:, None])
            after += count_calibration(temper(logarithms, temperature)[..., None], truth[:, None])
    if len(seen) < LEAST_FITTED or after.error >= before.error:  # too few, or too different: it would not hold
        return Fit(1.0, before, before, len(seen))
    return Fit(_fitted(seen), before, after, len(seen))


def _fitted(seen: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    if not seen:
        return 1.0
    return fit_temperature(np.concatenate([each for each, _ in seen], 1), np.concatenate([each for _, each in seen]))
