"""Opening a model folder, whatever it labels."""

from __future__ import annotations

from pathlib import Path

from fullyconv.checkpoint import load_network
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.machine import DeviceName, Precision
from fullyconv.predict.image import Segmenter
from fullyconv.types import SpectralPreprocess


def load(
    folder: Path | str, *, device: DeviceName = "auto", precision: Precision = "fp32"
) -> Segmenter | SceneSegmenter:
    """Open a model folder for prediction: a ``SceneSegmenter`` for a model of scenes, else a ``Segmenter``.

    Raises ``BadFile`` if it is no model.
    """
    network, config = load_network(folder)
    if isinstance(config.preprocess, SpectralPreprocess):
        return SceneSegmenter(
            network, classes=config.classes, preprocess=config.preprocess, device=device, precision=precision
        )
    return Segmenter(network, classes=config.classes, preprocess=config.preprocess, device=device, precision=precision)
