"""What clients get: a prediction as the kind of file that they ask for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from fullyconv.draw import palette_image, png_options
from fullyconv.predict.prediction import Prediction
from fullyconv.regions.documents import geojson

Output = Literal["mask", "overlay", "polygons", "probabilities", "layers", "heat"]


@dataclass(frozen=True)
class Wanted:
    """What is asked for of a prediction.

    Attributes:
        output: ``mask``: what ``predict`` writes as ``STEM.png``. ``overlay``: JPEG. ``polygons``: GeoJSON.
            ``probabilities``: NumPy's ``.npy``, C x H x W float16. ``layers``: a PNG whose red and green are the low
            and the high byte of the label (65535 where the picture holds nothing) and whose blue is its probability
            times 255. ``heat``: a grey PNG of the probability of a class times 255.
        alpha: Of the overlay: the colours' share, 0..1.
        simplify: Of polygons: how far outlines may move, pixels.
        index: Of heat: the class.
    """

    output: Output = "mask"
    alpha: float = 0.5
    simplify: float = 0.0
    index: int = 0

    @property
    def probabilities(self) -> bool:
        """Whether it shows probabilities."""
        return self.output in ("probabilities", "layers", "heat")


def encode(prediction: Prediction, wanted: Wanted) -> tuple[bytes, str]:
    """Return a prediction as a file and its media type.

    Args:
        prediction: With probabilities, where they are shown.
        wanted: What is asked for.
    """
    makers: dict[Output, Callable[[], tuple[bytes, str]]] = {
        "mask": lambda: _png(palette_image(prediction.labels, prediction.classes)),
        "overlay": lambda: _jpeg(prediction.overlay(alpha=wanted.alpha)),
        "polygons": lambda: _geojson(prediction, wanted.simplify),
        "probabilities": lambda: _npy(_chances(prediction)),
        "layers": lambda: _png(Image.fromarray(_layers(prediction))),
        "heat": lambda: _png(Image.fromarray(_bytes(_chances(prediction)[wanted.index]))),
    }
    return makers[wanted.output]()


def _png(picture: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **png_options(picture))
    return buffer.getvalue(), "image/png"


def _jpeg(picture: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), "image/jpeg"


def _geojson(prediction: Prediction, simplify: float) -> tuple[bytes, str]:
    document = geojson(prediction.polygons(simplify=simplify), prediction.classes)
    return json.dumps(document, ensure_ascii=False).encode(), "application/geo+json"


def _npy(numbers: np.ndarray) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, numbers, allow_pickle=False)
    return buffer.getvalue(), "application/octet-stream"


def _layers(prediction: Prediction) -> np.ndarray:
    labels = prediction.labels.astype(np.int64)  # VOID, -1, is 65535 in two bytes; its probabilities are all 0
    surest = np.take_along_axis(_chances(prediction), labels[None], 0)[0]
    return np.stack([labels & 255, labels >> 8, _bytes(surest)], -1).astype(np.uint8)


def _bytes(chances: np.ndarray) -> np.ndarray:
    return np.rint(chances.astype(np.float32) * 255).astype(np.uint8)


def _chances(prediction: Prediction) -> np.ndarray:
    if prediction.probabilities is None:
        raise ValueError("this prediction has no probabilities")
    return prediction.probabilities
