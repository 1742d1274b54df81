"""How certain a model is of each pixel: entropy, and how far several looks at a picture lie apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.machine import twin
from fullyconv.predict.around import Around
from fullyconv.predict.image import Segmenter
from fullyconv.predict.prediction import Prediction, Uncertainty
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.scores.calibration import temper

SAMPLES = 8  # of dropout
VIEWS = Views(flip=True, scales=(0.75, 1.0, 1.25))
DROPOUTS = (nn.Dropout, nn.Dropout2d)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of C x … probabilities over that of C classes that are all alike, 0..1.

    >>> entropy(np.array([[0.5, 0.9], [0.5, 0.1]])).round(2).tolist()
    [1.0, 0.47]
    """
    count = len(probabilities)
    if count == 1:
        return np.zeros(probabilities.shape[1:], probabilities.dtype)
    terms = probabilities * np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.asarray(np.clip(-terms.sum(0) / np.log(count), 0, 1))


class Doubter(Around):
    """A segmenter that looks at each picture several times, to tell how certain it is.

    Where its network has dropout (``torch.nn.Dropout``, ``Dropout2d``), that stays on for 8 looks (Gal and Ghahramani
    2016; Kendall et al. 2015 for segmentation); else the looks are 6 views, mirrored and at 0.75 and 1.25 of the size.
    The same picture gives the same numbers.

    Args:
        segmenter: The model.

    >>> from fullyconv.networks import build
    >>> from fullyconv.types import ClassSet, Preprocess
    >>> model = Segmenter(build("fcn8s-resnet18", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess())
    >>> found = Doubter(model).doubt(np.zeros((8, 9, 3), np.uint8))
    >>> found.entropy.shape, float(found.entropy.min()), float(found.spread.max()) < 1e-6
    ((8, 9), 1.0, True)
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self._plain = segmenter
        self.drops = any(isinstance(module, DROPOUTS) and module.p > 0 for module in self.network.modules())
        if self.drops:
            self.network = twin(self.network)
            for name, module in list(self.network.named_modules()):
                if isinstance(module, DROPOUTS):
                    self.network.set_submodule(name, _Dropping(module))
            self.engine = "pytorch"  # another would leave it out

    @property
    def how(self) -> str:
        """Say what the looks are."""
        return f"{SAMPLES} dropout samples" if self.drops else "6 views, mirrored and resized"

    def _label(self, pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool) -> Prediction:
        """Label every pixel as the model does, and say how certain it is."""
        found: Prediction = self._plain.predict(pixels, probabilities=probabilities)
        return replace(found, image=seen, uncertainty=self.doubt(pixels))

    def doubt(self, pixels: np.ndarray) -> Uncertainty:
        """Look at H x W x 3 uint8 pixels several times.

        Returns:
            What the looks, at the model's temperature, say of every pixel.
        """
        total = np.zeros((len(self.classes), *pixels.shape[:2]), np.float32)
        within, count = np.zeros(pixels.shape[:2], np.float32), 0
        for look in self._looks(pixels):
            total += look
            within += entropy(look)
            count += 1
        whole = entropy(total / count)
        return Uncertainty(whole, np.maximum(whole - within / count, 0))

    def _looks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        if not self.drops:
            for found in ViewsSegmenter(self._plain, VIEWS).each(pixels):
                yield temper(np.log(np.maximum(found, np.finfo(np.float32).tiny)), self.temperature)
            return
        self.prepared()  # which may try the network, and so draw random numbers
        for sample in range(SAMPLES):
            with torch.random.fork_rng():
                torch.manual_seed(sample)
                yield temper(self.log_probabilities(pixels), self.temperature)


class _Dropping(nn.Module):
    """Dropout that stays on, whatever the mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.p, self.whole = float(getattr(module, "p")), isinstance(module, nn.Dropout2d)  # noqa: B009 (either has it)

    def forward(self, features: Tensor) -> Tensor:
        """Drop numbers, or whole channels, of N x C x h x w."""
        drop = functional.dropout2d if self.whole else functional.dropout
        return drop(features, self.p, training=True)
