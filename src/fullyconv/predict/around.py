"""What stands around a segmenter and predicts with its network in another way."""

from __future__ import annotations

import numpy as np

from fullyconv.draw import false_colours
from fullyconv.predict.image import Segmenter


class Around(Segmenter):
    """A segmenter with all that another one has: network, classes, normalisation, device, engine, folder.

    Args:
        segmenter: The other one.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(
            segmenter.network,
            classes=segmenter.classes,
            preprocess=segmenter.preprocess,
            device=segmenter.device,
            precision=segmenter.precision,
            engine=segmenter.engine,
        )
        self.look_as(segmenter)
        self.temperature, self.head = segmenter.temperature, segmenter.head
        self.making, self.place = segmenter.making, segmenter.place

    def labels(self, pixels: np.ndarray) -> np.ndarray:
        """Label N x H x W x K pictures of one size, each as ``predict`` does; N x H x W."""
        return np.stack([self._label(each, false_colours(each), probabilities=False).labels for each in pixels])
