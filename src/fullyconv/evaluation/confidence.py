"""Whether a model's probabilities mean what they say, over a data set."""

from __future__ import annotations

from collections.abc import Sequence

from fullyconv.data.dataset import read_sample
from fullyconv.data.pairs import Pair
from fullyconv.evaluation.scoring import Progress
from fullyconv.predict.image import Segmenter
from fullyconv.scores.calibration import Calibration, count_calibration


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
        sample = read_sample(pair, segmenter.classes)
        probabilities = segmenter.predict(sample.image, probabilities=True).probabilities
        if probabilities is None:
            raise ValueError("the model gives no probabilities")
        found += count_calibration(probabilities, sample.labels)
        if progress is not None:
            progress(done, len(pairs))
    return found
