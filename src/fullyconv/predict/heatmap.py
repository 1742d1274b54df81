"""Where in a picture a network sees a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fullyconv.draw import colour_bar, heat
from fullyconv.geometry import AxisMap
from fullyconv.machine import evaluating
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Picture
from fullyconv.surgery.convolutionize import FullyConvolutional
from fullyconv.types import Preprocess
from fullyconv.upsample import lay_over

NARROWEST = 280  # what the numbers and the class's name need


@dataclass(frozen=True)
class HeatMap:
    """What a network says of every class at the places it looks at.

    ``image`` is H x W x 3 uint8 RGB; ``values`` C x h x w, whose units look where ``rows`` and ``columns`` say;
    ``what`` says what they are.
    """

    image: np.ndarray
    values: Tensor
    rows: AxisMap
    columns: AxisMap
    what: str

    def strongest(self, count: int) -> list[tuple[int, float]]:
        """Return the classes with the largest means, and those."""
        means, indices = self.values.mean((1, 2)).topk(min(count, len(self.values)))
        return list(zip(indices.tolist(), means.tolist(), strict=True))

    def of(self, index: int) -> np.ndarray:
        """Lay the map of one class over the picture, H x W."""
        height, width = self.image.shape[:2]
        values: np.ndarray = lay_over(self.values[index].double(), self.rows, self.columns, (height, width)).numpy()
        return values

    def picture(self, index: int, name: str) -> Image.Image:
        """Paint one class over the picture, with a bar that says what the colours mean below it."""
        values = self.of(index)
        low, high = float(values.min()), float(values.max())
        painted = heat(self.image, values, low=low, high=high)
        bar = colour_bar(f"{name}: {self.what}", low=low, high=high, width=max(NARROWEST, painted.shape[1]))
        whole = Image.new("RGB", (bar.shape[1], painted.shape[0] + bar.shape[0]), "white")
        whole.paste(Image.fromarray(painted), (0, 0))
        whole.paste(Image.fromarray(bar), (0, painted.shape[0]))
        return whole


def classifier_heat_map(
    network: FullyConvolutional, image: np.ndarray, preprocess: Preprocess, *, scores: bool = False
) -> HeatMap:
    """Apply a fully convolutional classifier to H x W x 3 uint8: class probabilities at every unit, or scores."""
    if network.in_channels != image.shape[2]:
        raise ValueError(f"the classifier takes pictures of {network.in_channels} channels, not colour pictures")
    sides = network.padding((image.shape[0], image.shape[1]))
    rows, columns = (
        AxisMap(line.scale, line.shift - before, line.field)
        for line, (before, _) in zip((network.rows, network.columns), sides, strict=True)
    )
    with evaluating(network):
        values: Tensor = network(torch.from_numpy(preprocess(image))[None])[0]
    what = "score" if scores else "probability"
    return HeatMap(image, values if scores else values.softmax(0), rows, columns, what)


def model_heat_map(segmenter: Segmenter, image: Picture) -> HeatMap:
    """Return a segmentation network's class probabilities of a picture, as ``predict`` takes and gives them."""
    found = segmenter.predict(image, probabilities=True)
    chances = cast("np.ndarray", found.probabilities)
    return HeatMap(found.image, torch.from_numpy(chances).float(), AxisMap(), AxisMap(), "probability")
