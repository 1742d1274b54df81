"""Fully convolutional networks: an image of any size in, a class for every pixel out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv.checkpoint import save
    from fullyconv.evaluation import Evaluation, evaluate
    from fullyconv.networks import build, from_classifier
    from fullyconv.networks.fcn import FCN
    from fullyconv.opening import load
    from fullyconv.predict.image import Prediction, Segmenter
    from fullyconv.surgery.convolutionize import FullyConvolutional, convolutionize
    from fullyconv.train.recipe import Recipe
    from fullyconv.types import ClassSet, Preprocess

__version__ = "0.1.0"

# Names are imported when they are first used, so that `fullyconv --help` does not wait for PyTorch.
_HOMES = {
    "build": "fullyconv.networks",
    "from_classifier": "fullyconv.networks",
    "FCN": "fullyconv.networks.fcn",
    "convolutionize": "fullyconv.surgery.convolutionize",
    "FullyConvolutional": "fullyconv.surgery.convolutionize",
    "load": "fullyconv.opening",
    "Segmenter": "fullyconv.predict.image",
    "Prediction": "fullyconv.predict.image",
    "save": "fullyconv.checkpoint",
    "evaluate": "fullyconv.evaluation",
    "Evaluation": "fullyconv.evaluation",
    "Recipe": "fullyconv.train.recipe",
    "ClassSet": "fullyconv.types",
    "Preprocess": "fullyconv.types",
}

__all__ = [
    "FCN",
    "ClassSet",
    "Evaluation",
    "FullyConvolutional",
    "Prediction",
    "Preprocess",
    "Recipe",
    "Segmenter",
    "build",
    "convolutionize",
    "evaluate",
    "from_classifier",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name == "caffe":
        return import_module("fullyconv.caffe")
    if name not in _HOMES:
        raise AttributeError(f"module 'fullyconv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
