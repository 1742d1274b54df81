"""Pixels as arrays in, a class for every one of them out, whatever their number: a network at work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv.machine import ArithmeticName, DeviceName, EngineName, arithmetic, choose_device, out_of_memory
from fullyconv.networks.fcn import FCN
from fullyconv.predict.engines import Choice
from fullyconv.predict.prepared import Labelled, Look, Making, Piece, Prepared
from fullyconv.predict.trusted import trusted_precision
from fullyconv.scores.calibration import probabilities_of
from fullyconv.types import ClassSet, Preprocess

WHOLE_PIXELS = 1_500_000  # larger images go through the network in bands of rows, where one pass would take much memory


class ArraySegmenter:
    """What of a ``Segmenter``, which says what it is made of, takes numbers as the network sees them.

    What reads other numbers, or cuts them into other parts, overrides ``_read`` and ``_area``.
    """

    def __init__(
        self,
        network: FCN,
        *,
        classes: ClassSet,
        preprocess: Preprocess,
        device: DeviceName | torch.device = "auto",
        precision: ArithmeticName = "float32",
        engine: EngineName = "auto",
    ) -> None:
        if not isinstance(network, FCN):
            raise ValueError(f"a {type(network).__name__} does not label pixels: load a segmentation network")
        self.classes, self.preprocess = classes, preprocess
        self.precision, self.engine = arithmetic(precision), engine
        self.device = choose_device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.folder: Path | None = None  # of the model, if it came from one
        self.memory: int | None = None  # bytes that the maps of a part of an image may take; ``None``: by the machine
        self.picture_memory: int | None = None  # bytes that an image from a file may take with all made of it
        self.level = 0  # of files that hold a picture in several sizes (slides, Zarr): which is read, 0 the full one
        self.approximate = False  # whether networks that see the whole image may be given tiles of it
        self.temperature = 1.0  # of the probabilities: fitted, it makes them mean what they say; labels stay
        self.soon = False  # whether much is to be predicted: see ``engines.Choice``
        self.head = ""  # of a network of several tasks, which further one this is
        self._others: dict[str, ArraySegmenter] = {}  # of such a network, the further ones
        self.making, self.place = Making(self.network), 0  # heads of one network share it

    def look_as(self, other: ArraySegmenter) -> None:
        """Take over how another segmenter looks at pictures: arithmetic, memory, level, whether by tiles.

        Args:
            other: The other one.
        """
        self.precision, self.engine, self.folder = other.precision, other.engine, other.folder
        self.soon, self.memory, self.picture_memory = other.soon, other.memory, other.picture_memory
        self.approximate, self.level = other.approximate, other.level

    def labels(self, pixels: np.ndarray) -> np.ndarray:
        """Label pictures of one size.

        Args:
            pixels: N x H x W x K, as ``predict`` takes arrays.

        Returns:
            N x H x W, the smallest unsigned integers that hold the classes.

        Raises:
            ValueError: Where a score is NaN or infinite.
        """
        together = max(1, WHOLE_PIXELS // (pixels.shape[1] * pixels.shape[2]))
        parts = [pixels[start : start + together] for start in range(0, len(pixels), together)]
        found = [self._part_labels(part) for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _part_labels(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) > 1 or not self._area(pixels[0]):
            try:
                prepared = self.prepared()
                maps = prepared.engine.score_maps(pixels if len(pixels) > 1 else self._read(pixels[0])[None])
                found: np.ndarray = prepared.labels(maps, pixels.shape[1:3]).cpu().numpy()
                return found
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
        return np.stack([self._labels(each) for each in pixels])

    def _labels(self, pixels: np.ndarray) -> np.ndarray:
        """Label H x W x K pixels."""
        labels = np.empty(pixels.shape[:2], np.min_scalar_type(len(self.classes) - 1))
        for rows, columns, found, _ in self.pieces(pixels):
            labels[rows, columns] = found
        return labels

    def pieces(self, pixels: Any, *, probabilities: bool = False) -> Iterator[Labelled]:
        """Label a picture of any size from the top to the bottom.

        Args:
            pixels: H x W x K, as ``predict`` takes arrays; or whatever gives such pieces, sliced by rows and columns
                from the top to the bottom, and has their ``shape``.
            probabilities: Also find those of every class.

        Returns:
            Rows and columns, their labels, and their probabilities: bands of rows, each from the left to the right.

        Raises:
            ValueError: Where a score is NaN or infinite.
        """
        return (piece for _, piece in pieces_by_heads([self], pixels, probabilities=probabilities))

    def _looked(self, pixels: Any, *looks: Look) -> Iterator[tuple[int, Piece]]:
        """Return what ``looks`` find, in one pass or part by part; see ``Prepared.looked``."""
        return self.prepared().looked(pixels, looks, self._area(pixels), read=self._read, approximate=self.approximate)

    def _area(self, pixels: np.ndarray) -> int:
        """Choose how many pixels are computed at a time; 0: all."""
        area = pixels.shape[0] * pixels.shape[1]
        if area <= WHOLE_PIXELS:
            return 0
        fits = self.prepared().fitting(self.memory)
        return 0 if area <= fits else fits

    def _read(self, pixels: np.ndarray) -> np.ndarray:
        """Bring a piece of the input to what the engine takes, H x W x K."""
        return pixels

    def scores(self, pixels: np.ndarray) -> Tensor:
        """Score every pixel in one pass.

        Args:
            pixels: H x W x K (RGB first), as ``predict`` takes arrays.

        Returns:
            C x H x W float32 scores before the softmax; of a network with two tasks those of the first.

        Raises:
            ValueError: Where a score is NaN or infinite.
        """
        prepared = self.prepared()
        maps = prepared.engine.score_maps(self._read(pixels)[None])
        return torch.cat([scores for _, scores in prepared.find_scores(maps, pixels.shape[:2])], 1)

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logarithms of every class's probability, as the network gives them: at temperature 1.

        Args:
            pixels: H x W x K, as ``predict`` takes arrays.

        Returns:
            C x H x W float32.
        """
        found = np.empty((len(self.classes), *pixels.shape[:2]), np.float32)
        for _, (rows, columns, scores) in self._looked(pixels, self.prepared().find_scores):
            found[:, rows, columns] = scores.float().log_softmax(0).cpu().numpy()
        return found

    def prepared(self) -> Prepared:
        """Return the network as it is now, prepared for prediction: nobody else changes its mode.

        It is prepared anew where modules or tensors have been replaced, or changed in place.

        Returns:
            Its engine, and its last steps to labels.
        """
        if self.making.heads[self.place] is not self.network:  # which has been replaced
            self.making, self.place = Making(self.network), 0
        preprocess = self.preprocess if isinstance(self.preprocess, Preprocess) else None
        return self.making.prepared(preprocess, self._choice)[self.place]

    def _choice(self) -> Choice:
        precision = self.precision
        if precision == "auto" and self.folder is not None:
            precision = trusted_precision(self.folder, self.network, self.device)
        return Choice(precision, self.engine, self.device, soon=self.soon, folder=self.folder)


def pieces_by_heads(
    models: Sequence[ArraySegmenter], pixels: Any, *, probabilities: bool = False
) -> Iterator[tuple[int, Labelled]]:
    """Label a picture of any size by several heads of one network, which computes each part of it once.

    Args:
        models: One, or heads of one network, which share its ``making``.
        pixels: As ``ArraySegmenter.pieces`` takes them.
        probabilities: Also find those of every class.

    Yields:
        Which model it is of, and what its ``pieces`` returns.
    """
    ready = [each.prepared() for each in models]
    looks = [each.find_scores if probabilities else each.find_labels for each in ready]
    for index, (rows, columns, found) in models[0]._looked(pixels, *looks):
        if not probabilities:
            yield index, (rows, columns, found.cpu().numpy(), None)
            continue
        chances = probabilities_of(found, models[index].temperature).half().cpu().numpy()
        yield index, (rows, columns, found.max(0).indices.cpu().numpy(), chances)
