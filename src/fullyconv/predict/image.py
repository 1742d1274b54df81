"""One image in, a class for every pixel out, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from torch import Tensor

from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import evaluation_split, open_folder
from fullyconv.data.matching import match_classes
from fullyconv.data.pairs import Pair
from fullyconv.data.raster import COLOURS
from fullyconv.draw import false_colours
from fullyconv.machine import ArithmeticName, DeviceName, EngineName, arithmetic, choose_device, out_of_memory
from fullyconv.networks.fcn import FCN
from fullyconv.predict.engines import Choice, Snapshot
from fullyconv.predict.inputs import Given, Order, Picture, Span, pixels_of, split_batch
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.prepared import Labelled, Look, Piece, Prepared, prepare
from fullyconv.predict.trusted import trusted_precision
from fullyconv.scores.calibration import probabilities_of
from fullyconv.types import ClassSet, Preprocess, Sample

if TYPE_CHECKING:
    from fullyconv.export import Exported
    from fullyconv.export.formats import Format

WHOLE_PIXELS = 1_500_000  # larger images go through the network in bands of rows, where one pass would take much memory


class Segmenter:
    """A trained network with all it needs to read an image: its classes and its normalisation.

    Args:
        network: A segmentation network.
        classes: What its labels mean.
        preprocess: The normalisation it was trained with.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        precision: ``float32``, ``bfloat16`` for less time where the machine has it, ``int8`` where the engine does, or
            ``auto``.
        engine: What computes: ``pytorch``, ``openvino``, or ``auto``.

    The network is prepared once, when it first predicts, and anew when its modules or tensors have been replaced or
    changed in place.

    Raises:
        ValueError: For a network that does not label pixels.

    >>> from fullyconv.networks import build
    >>> network, classes = build("fcn8s-resnet18", 2), ClassSet(("a", "b"))
    >>> model = Segmenter(network, classes=classes, preprocess=Preprocess(), device="cpu")
    >>> model.predict(np.zeros((5, 7, 3), np.uint8)).labels.shape
    (5, 7)
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
        self._made: tuple[Snapshot, Prepared] | None = None

    @overload
    def predict(  # type: ignore[overload-overlap]  # bytes are no several images
        self, image: Picture, *, probabilities: bool = ..., order: Order = ..., span: Span = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, image: Iterable[Picture], *, probabilities: bool = ..., order: Order = ..., span: Span = ...
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: Picture | Iterable[Picture],
        *,
        probabilities: bool = False,
        order: Order = "rgb",
        span: Span = None,
    ) -> Prediction | list[Prediction]:
        """Label every pixel.

        Images of over 1.5 million pixels whose maps do not fit into ``memory`` flow through the network in bands of
        rows, so the result is that of the whole image in a fraction of the memory.

        Args:
            image: A path or an address, a PIL image, an array H x W (x C) (RGB, RGBA or grey), a tensor C x H x W, the
                bytes of a file, an open file; or several: a batch (N x H x W x C, tensors N x C x H x W), a list, an
                iterator. A network of K > 3 channels takes files of K bands if it was trained on such, else arrays
                H x W x K: RGB, then what it sees beside colour (log-depth, HHA).
            probabilities: Also return those of every class.
            order: Of the colours of arrays and tensors, ``rgb`` or ``bgr`` (OpenCV's).
            span: The numbers of arrays and tensors that are black and white, ``(0, 1)``; needed for floating point.

        Returns:
            Labels, and probabilities if asked for, of exactly the image's size; of several images a list.

        Raises:
            BadFile: For a file that cannot be read.
            ValueError: For what is no image.
        """
        given, several = Given(order, span, level=self.level), split_batch(image)
        if several is not None:
            return [self._predicted(each, given, probabilities=probabilities) for each in several]
        return self._predicted(cast("Picture", image), given, probabilities=probabilities)

    def _predicted(self, image: Picture, given: Given, *, probabilities: bool) -> Prediction:
        """Label the pixels of one picture."""
        pixels = self.pixels(image, given)
        seen = pixels if self.network.in_channels == COLOURS else false_colours(pixels)
        return self._label(pixels, seen, probabilities=probabilities)

    def pixels(self, image: Picture, given: Given | None = None) -> np.ndarray:
        """Read a picture as the network sees it.

        Args:
            image: As ``predict`` takes it.
            given: What else was said of it: its range of numbers, the order of its colours.

        Returns:
            H x W x K, uint8 (of networks of other data: its numbers).
        """
        return pixels_of(image, self.preprocess, self.network.in_channels, given or Given(level=self.level))

    def seen(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Let the images of pairs be read as the network sees them: by its range of numbers, with all its channels.

        Args:
            pairs: Of a data set.

        Returns:
            As many, which say how their images are read.
        """
        levels = self.preprocess.levels
        return [
            replace(pair, levels=levels, channels=len(self.preprocess.mean) if levels else COLOURS) for pair in pairs
        ]

    def sample(self, pair: Pair) -> Sample:
        """Read a pair as the network sees it.

        Args:
            pair: Of a data set.

        Returns:
            Image and labels; raises ``BadFile`` as ``fullyconv.data.dataset.read_sample`` does.
        """
        return read_sample(self.seen([pair])[0], self.classes)

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

        Yields:
            Rows and columns, their labels, and their probabilities: bands of rows, each from the left to the right.

        Raises:
            ValueError: Where a score is NaN or infinite.
        """
        for rows, columns, found in self._looked(
            pixels, Prepared.find_scores if probabilities else Prepared.find_labels
        ):
            if not probabilities:
                yield rows, columns, found.cpu().numpy(), None
                continue
            chances = probabilities_of(found, self.temperature).half().cpu().numpy()
            yield rows, columns, found.max(0).indices.cpu().numpy(), chances

    def _label(self, pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool) -> Prediction:
        """Label H x W x K pixels, which are shown as the H x W x 3 picture ``seen``."""
        if not probabilities:
            return Prediction(seen, self._labels(pixels), self.classes)
        labels = np.empty(pixels.shape[:2], np.min_scalar_type(len(self.classes) - 1))
        chances = np.empty((len(self.classes), *pixels.shape[:2]), np.float16)
        for rows, columns, found, own in self.pieces(pixels, probabilities=True):
            labels[rows, columns], chances[:, rows, columns] = found, own
        return Prediction(seen, labels, self.classes, chances)

    def _looked(self, pixels: np.ndarray, look: Look) -> Iterator[Piece]:
        """Return what ``look`` finds, in one pass or part by part: where it belongs, and ... x h x w."""
        return self.prepared().looked(pixels, look, self._area(pixels), read=self._read, approximate=self.approximate)

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
        for rows, columns, scores in self._looked(pixels, Prepared.find_scores):
            found[:, rows, columns] = scores.float().log_softmax(0).cpu().numpy()
        return found

    def evaluate(self, data: Path | str | Sequence[Pair], *, split: str | None = None) -> Any:
        """Score the model over a data set at native resolution, as ``fullyconv evaluate`` does.

        Args:
            data: A folder of images and masks, or pairs of them.
            split: Of a folder; default: val, test or all.

        Returns:
            The scores, a ``fullyconv.Evaluation``.

        Raises:
            BadFile: For a folder or a pair that cannot be read, and classes that are not the model's.
        """
        if isinstance(data, Path | str):
            folder = open_folder(Path(data))
            match_classes(folder, self.classes)
            data = evaluation_split(folder, split)
        # By name, as for the shell: scoring stands above prediction and uses it.
        return import_module("fullyconv.evaluation").evaluate(self, data)

    def export(
        self,
        out: Path | str,
        *,
        to: Format = "onnx",
        with_preprocessing: bool = False,
        labels: bool = False,
        probabilities: bool = False,
    ) -> Exported:
        """Write the network for other programs, checked at ten sizes; see ``fullyconv.export``.

        Args:
            out: The folder for the file, which is called after the model.
            to: ``onnx``, ``openvino`` or ``torch``.
            with_preprocessing: Put the normalisation inside: the input is pixels then.
            labels: Put the choice of the best class inside: the output is labels then.
            probabilities: Put the softmax at the model's temperature inside: the output is probabilities then.

        Returns:
            Where the file is, and how far it agrees with the model.

        Raises:
            ImportError: If a package is missing.
            ValueError: For a network that cannot be converted, or does not compute the same then.
        """
        from fullyconv.export import Inside, Source, export

        source = Source(self.network, self.classes, self.preprocess, self.folder, self.temperature)
        return export(source, out, to=to, inside=Inside(with_preprocessing, labels, probabilities))

    def prepared(self) -> Prepared:
        """Return the network as it is now, prepared for prediction: nobody else changes its mode.

        It is prepared anew where modules or tensors have been replaced, or changed in place.

        Returns:
            Its engine, and its last steps to labels.
        """
        made = self._made
        if made is None or not made[0].holds(self.network):
            preprocess = self.preprocess if isinstance(self.preprocess, Preprocess) else None
            self._made = made = prepare(self.network, preprocess, self._choice())
        return made[1]

    def _choice(self) -> Choice:
        precision = self.precision
        if precision == "auto" and self.folder is not None:
            precision = trusted_precision(self.folder, self.network, self.device)
        return Choice(precision, self.engine, self.device, soon=self.soon, folder=self.folder)
