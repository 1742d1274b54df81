"""Prediction with a dense CRF behind the network."""

from __future__ import annotations

import numpy as np

from fullyconv.crf import CRFParameters, image_crf
from fullyconv.draw import false_colours
from fullyconv.predict.around import Around
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Picture
from fullyconv.predict.prediction import Prediction
from fullyconv.scores.calibration import temper

TINY = np.finfo(np.float32).tiny


class CRFSegmenter(Around):
    """A segmenter whose labels are the most probable ones of a dense CRF over the network's probabilities.

    Large images go through the network in tiles and through the CRF as a whole, which takes about
    ``(2 C + 40) * 4`` bytes per pixel. A CRF that was trained with the network (``FCN.crf``) is the one that is taken.

    Args:
        segmenter: The model.
        parameters: Of the CRF, where the network has none of its own.
    """

    def __init__(self, segmenter: Segmenter, parameters: CRFParameters | None = None) -> None:
        super().__init__(segmenter)
        learned = self.network.crf
        self.parameters = (parameters or CRFParameters()) if learned is None else learned.settings
        self.before = segmenter

    def predict_both(self, image: Picture, *, probabilities: bool = False) -> tuple[Prediction, Prediction]:
        """Predict before and after the CRF."""
        found = self.read(image)
        before, after = self._both(found.values, probabilities=probabilities)
        return before.without(found.missing), after.without(found.missing)

    def _label(self, pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool) -> Prediction:
        """Label every pixel, then let the pixels agree."""
        return self._both(pixels, probabilities=probabilities)[1]

    def _both(self, pixels: np.ndarray, *, probabilities: bool) -> tuple[Prediction, Prediction]:
        unary, seen = self.energies(pixels), false_colours(pixels)
        before = self._prediction(seen, unary, np.exp(-unary) if probabilities else None)
        marginals = self._marginals(unary, seen)
        chances = marginals
        if self.network.crf is not None and probabilities:  # the temperature was fitted behind this CRF
            chances = temper(np.log(np.maximum(marginals, TINY)), self.temperature)
        return before, self._prediction(seen, -marginals, chances if probabilities else None)

    def _marginals(self, unary: np.ndarray, seen: np.ndarray) -> np.ndarray:
        learned = self.network.crf
        crf = image_crf(seen, self.parameters) if learned is None else learned.dense(seen)
        found: np.ndarray = crf.marginals(unary, iterations=self.parameters.iterations)
        return found

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logarithms of every class's probability behind the CRF, at temperature 1; C x H x W float32."""
        marginals = self._marginals(self.energies(pixels), false_colours(pixels))
        found: np.ndarray = np.log(np.maximum(marginals, TINY), dtype=np.float32)
        return found

    def energies(self, pixels: np.ndarray) -> np.ndarray:
        """Return the -log probabilities, before the CRF, of H x W x 3 uint8 pixels, C x H x W float32."""
        return -self.before.log_probabilities(pixels)

    def _prediction(self, pixels: np.ndarray, costs: np.ndarray, chances: np.ndarray | None) -> Prediction:
        labels = costs.argmin(0).astype(np.min_scalar_type(len(self.classes) - 1))
        return Prediction(pixels, labels, self.classes, None if chances is None else chances.astype(np.float16))
