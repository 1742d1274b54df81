"""Test-time augmentation: the probabilities of several views of a picture, mirrored and resized, averaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from fullyconv.machine import free_memory
from fullyconv.predict.around import Around
from fullyconv.predict.image import Segmenter
from fullyconv.predict.prediction import Prediction
from fullyconv.scores.calibration import temper

HELD = 8  # bytes of each pixel and class of a view: scores, and what is made of them, in float32


@dataclass(frozen=True)
class Views:
    """The views that a picture is labelled by; each costs as much as labelling a picture of its size.

    Attributes:
        flip: Whether each is looked at mirrored, too.
        scales: The sizes, as multiples of the picture's.

    Raises:
        ValueError: For no scale, or one that is not from 1/16 to 16.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales or not all(1 / 16 <= scale <= 16 for scale in self.scales):
            raise ValueError(f"views have scales from 1/16 to 16, for example 0.75, 1 and 1.25, not {self.scales}")

    @classmethod
    def read(cls, words: str) -> Views:
        """Read ``flip,scales=0.75,1,1.25``: either part may be left out.

        >>> Views.read("flip"), Views.read("scales=0.5,1,flip")
        (Views(flip=True, scales=(1.0,)), Views(flip=True, scales=(0.5, 1.0)))
        """
        parts = [part.strip() for part in words.split(",")]
        numbers = [part.removeprefix("scales=") for part in parts if part != "flip"]
        try:
            scales = tuple(map(float, numbers)) or (1.0,)
        except ValueError:
            scales = ()
        if not scales or (numbers and "scales=" not in words):
            raise ValueError(f"--tta {words}: write flip, scales=0.75,1,1.25, or both: flip,scales=0.75,1,1.25")
        return cls("flip" in parts, scales)


class ViewsSegmenter(Around):
    """A segmenter whose probabilities are the mean over several views of a picture.

    Args:
        segmenter: The model.
        views: What it looks at.

    >>> from fullyconv.networks import build
    >>> from fullyconv.types import ClassSet, Preprocess
    >>> model = Segmenter(build("fcn8s-resnet18", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess())
    >>> ViewsSegmenter(model, Views(flip=True)).predict(np.zeros((5, 7, 3), np.uint8)).labels.shape
    (5, 7)
    """

    def __init__(self, segmenter: Segmenter, views: Views) -> None:
        super().__init__(segmenter)
        self.views = views

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Average the classes' probabilities over the views; C x H x W float32, their logarithms."""
        total, count = np.zeros((len(self.classes), *pixels.shape[:2]), np.float32), 0
        for found in self.each(pixels):
            total += found
            count += 1
        return np.log(np.maximum(total / count, np.finfo(np.float32).tiny), dtype=np.float32)

    def each(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Return the classes' probabilities by each view, laid over the picture; C x H x W float32 each."""
        height, width = pixels.shape[:2]
        self._check_room(height, width)
        for view, mirrored in self._shown(pixels):
            found = torch.from_numpy(super().log_probabilities(view)).exp_()
            if found.shape[1:] != (height, width):
                found = functional.interpolate(found[None], size=(height, width), mode="bilinear")[0]
            yield (found.flip(2) if mirrored else found).numpy()

    def _check_room(self, height: int, width: int) -> None:
        """Refuse views whose probabilities do not fit beside their logarithms, before the machine begins to swap."""
        most = max(self.views.scales)
        needed, free = HELD * len(self.classes) * height * width * most**2, free_memory()
        if most > 1 and needed > free:
            size, room = f"{most:g} times {width} x {height} pixels", f"{free / 2**30:.1f}"
            what = f"{size} take {needed / 2**30:.1f} GiB for {len(self.classes)} classes, and {room} are free"
            raise ValueError(f"{what}: leave that scale (--tta), or --uncertainty, out")

    def _shown(self, pixels: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
        for scale in self.views.scales:
            size = tuple(max(1, round(length * scale)) for length in pixels.shape[:2])
            view = pixels
            if size != pixels.shape[:2]:
                view = resized(pixels, (size[0], size[1]))
            yield view, False
            if self.views.flip:
                yield np.ascontiguousarray(view[:, ::-1]), True

    def _label(self, pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool) -> Prediction:
        chances = self.log_probabilities(pixels)
        labels = chances.argmax(0).astype(np.min_scalar_type(len(self.classes) - 1))
        # Tempered as a whole: their order, and so the labels, stay.
        tempered = temper(chances, self.temperature).astype(np.float16) if probabilities else None
        return Prediction(seen, labels, self.classes, tempered)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture of any number of channels, each by itself, as Pillow resizes colours (bilinear, with support).

    Args:
        pixels: H x W x K, uint8; other numbers as float32.
        size: The height and width.

    Returns:
        h x w x K, uint8 or float32.

    >>> resized(np.full((4, 6, 5), 7, np.uint8), (2, 3)).shape
    (2, 3, 5)
    """
    numbers = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    planes = [
        Image.fromarray(np.ascontiguousarray(numbers[..., channel])).resize(size[::-1], Image.Resampling.BILINEAR)
        for channel in range(numbers.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)
