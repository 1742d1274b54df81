"""Fully convolutional networks: an image of any size in, a class for every pixel out."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv import caffe as caffe
    from fullyconv import checkpoint as checkpoint
    from fullyconv import crf as crf
    from fullyconv import data as data
    from fullyconv import draw as draw
    from fullyconv import evaluation as evaluation
    from fullyconv import geometry as geometry
    from fullyconv import hsi as hsi
    from fullyconv import losses as losses
    from fullyconv import networks as networks
    from fullyconv import predict as predict
    from fullyconv import recipes as recipes
    from fullyconv import runs as runs
    from fullyconv import scores as scores
    from fullyconv import surgery as surgery
    from fullyconv import tiles as tiles
    from fullyconv import trace as trace
    from fullyconv import train as train
    from fullyconv import types as types
    from fullyconv import upsample as upsample
    from fullyconv.checkpoint import save
    from fullyconv.evaluation import Evaluation, evaluate
    from fullyconv.networks import build, from_classifier
    from fullyconv.networks.fcn import FCN
    from fullyconv.opening import load
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.prediction import Prediction
    from fullyconv.predict.predictor import Predictor
    from fullyconv.runs import Trained, check
    from fullyconv.surgery.convolutionize import FullyConvolutional, convolutionize
    from fullyconv.train.recipe import Recipe
    from fullyconv.types import ClassSet, Preprocess

__version__ = "0.2.0.dev0"

# Names are imported when they are first used, so that `fullyconv --help` does not wait for PyTorch.
_HOMES = {
    "build": "fullyconv.networks",
    "from_classifier": "fullyconv.networks",
    "FCN": "fullyconv.networks.fcn",
    "convolutionize": "fullyconv.surgery.convolutionize",
    "FullyConvolutional": "fullyconv.surgery.convolutionize",
    "load": "fullyconv.opening",
    "Segmenter": "fullyconv.predict.image",
    "Prediction": "fullyconv.predict.prediction",
    "Predictor": "fullyconv.predict.predictor",
    "save": "fullyconv.checkpoint",
    "evaluate": "fullyconv.evaluation",
    "Evaluation": "fullyconv.evaluation",
    "Recipe": "fullyconv.train.recipe",
    "Trained": "fullyconv.runs",
    "check": "fullyconv.runs",
    "ClassSet": "fullyconv.types",
    "Preprocess": "fullyconv.types",
}

__all__ = [
    "FCN",
    "ClassSet",
    "Evaluation",
    "FullyConvolutional",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Recipe",
    "Segmenter",
    "Trained",
    "build",
    "check",
    "convolutionize",
    "evaluate",
    "from_classifier",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _rooms():
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *_rooms()})


def _rooms() -> set[str]:
    """Return the names of the package's public modules, read from its folder."""
    return {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}
