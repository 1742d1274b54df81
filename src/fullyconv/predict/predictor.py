"""The shortest way from pictures to labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import overload

import numpy as np
from torch import Tensor

from fullyconv.checkpoint import find_model, load_network
from fullyconv.files import BadFile
from fullyconv.machine import ArithmeticName, DeviceName, EngineName
from fullyconv.networks.fcn import FCN
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Picture, Pixels
from fullyconv.predict.prediction import void_where
from fullyconv.types import ClassSet, Preprocess


class Predictor:
    """A model prepared for prediction: pictures in, labels out.

    What does not depend on the pictures is done when it is made. This is the path of ``Segmenter.predict`` for those
    who want labels alone. Many threads may use it. Pictures of any size may follow each other: nothing is compiled
    for a size, and of what PyTorch's kernels keep for one, the oldest is dropped (the last 1024 layers and sizes stay).

    Args:
        model: A model folder, a ``Segmenter``, or a network; that reads pixels by ImageNet's usual statistics: make a
            ``Segmenter`` for others.
        precision: ``float32``, ``bfloat16``, ``int8``, or ``auto``: that of the ``Segmenter``, else as it means there.
        engine: What computes: ``pytorch``, ``openvino``, or ``auto``, likewise.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``; for a ``Segmenter`` its own is taken.
        trust: For a folder, as ``fullyconv.load`` takes it.

    Raises:
        BadFile: For a folder that is no model of pictures.
        ValueError: For a network that does not label pixels, or an engine or precision that is not there.

    >>> from fullyconv.networks import build
    >>> predict = Predictor(build("fcn8s-resnet18", 2), device="cpu")
    >>> predict(np.zeros((2, 20, 30, 3), np.uint8)).shape
    (2, 20, 30)
    >>> [each.shape for each in predict([np.zeros((5, 7, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)])]
    [(5, 7), (8, 8)]
    """

    def __init__(
        self,
        model: Path | str | Segmenter | FCN,
        precision: ArithmeticName = "auto",
        engine: EngineName = "auto",
        *,
        device: DeviceName = "auto",
        trust: str | Sequence[str] = (),
    ) -> None:
        if not isinstance(model, Segmenter):
            model = _opened(model, device, trust)
        if type(model) is not Segmenter or model.network.crf is not None:
            what = (
                f"a {type(model).__name__}" if type(model) is not Segmenter else "a model that was trained with a CRF"
            )
            raise ValueError(f"{what} does more than its network: open it with fullyconv.load and use its predict")
        self.segmenter = model.anew(
            model.engine if engine == "auto" else engine, model.precision if precision == "auto" else precision
        )
        self.segmenter.soon = True
        self.segmenter.prepared()

    @property
    def classes(self) -> ClassSet:
        """What the labels mean."""
        return self.segmenter.classes

    @overload
    def __call__(self, images: Picture) -> np.ndarray: ...
    @overload
    def __call__(self, images: list[Picture] | tuple[Picture, ...]) -> list[np.ndarray]: ...
    def __call__(self, images: Picture | list[Picture] | tuple[Picture, ...]) -> np.ndarray | list[np.ndarray]:
        """Label every pixel.

        Args:
            images: An image as ``Segmenter.predict`` takes it (H x W x 3 uint8, a path, a PIL image) or such a tensor;
                a batch, N x H x W x 3; or a list of images of any sizes.

        Returns:
            Labels, the smallest unsigned integers that hold the classes: H x W of an image, N x H x W of a batch, a
            list of H x W of a list. Of images with pixels that hold nothing int16, ``VOID`` (-1) there.

        Raises:
            BadFile: For a file that cannot be read.
            ValueError: For an array that is no image, and where the network's scores are not finite.
        """
        if isinstance(images, list | tuple):
            return self._each([self.segmenter.read(image) for image in images])
        if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
            if len(images) == 0:
                raise ValueError(f"a batch holds images, not {tuple(images.shape)}")
            return np.stack(self._each([self.segmenter.read(image) for image in images]))
        return self._each([self.segmenter.read(images)])[0]

    def _each(self, images: list[Pixels]) -> list[np.ndarray]:
        """Label images of any sizes; those of one size that follow each other go together."""
        found = (
            labels
            for _, same in groupby(images, lambda image: image.values.shape)
            for labels in self.segmenter.labels(np.stack([image.values for image in same]))
        )
        return [void_where(image.missing, labels) for image, labels in zip(images, found, strict=True)]


def _opened(model: Path | str | FCN, device: DeviceName, trust: str | Sequence[str]) -> Segmenter:
    """Open a model folder, or give a network classes and a normalisation."""
    if not isinstance(model, Path | str):
        names = tuple(f"class_{index}" for index in range(getattr(model, "classes", 1)))
        return Segmenter(model, classes=ClassSet(names), preprocess=Preprocess(), device=device, precision="auto")
    network, config = load_network(model, trust=trust)
    if not isinstance(config.preprocess, Preprocess):
        raise BadFile(model, "labels scenes, not pictures", "open it with fullyconv.load")
    opened = Segmenter(network, classes=config.classes, preprocess=config.preprocess, device=device, precision="auto")
    opened.folder = find_model(Path(model))
    return opened
