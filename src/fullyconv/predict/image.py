"""One image in, a class for every pixel out, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import evaluation_split, open_folder
from fullyconv.data.matching import match_classes
from fullyconv.data.pairs import Pair
from fullyconv.data.raster import COLOURS
from fullyconv.draw import false_colours
from fullyconv.machine import ArithmeticName, EngineName, arithmetic
from fullyconv.networks.heads import ManyHeads
from fullyconv.predict.arrays import ArraySegmenter, pieces_by_heads
from fullyconv.predict.inputs import Given, Order, Picture, Pixels, Span, pixels_of, split_batch
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.prepared import Making
from fullyconv.types import ClassSet, Sample

if TYPE_CHECKING:
    from fullyconv.export import Exported
    from fullyconv.export.formats import Format


class Segmenter(ArraySegmenter):
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
    >>> from fullyconv.types import ClassSet, Preprocess
    >>> network, classes = build("fcn8s-resnet18", 2), ClassSet(("a", "b"))
    >>> model = Segmenter(network, classes=classes, preprocess=Preprocess(), device="cpu")
    >>> model.predict(np.zeros((5, 7, 3), np.uint8)).labels.shape
    (5, 7)
    """

    def name_heads(self, heads: Mapping[str, ClassSet]) -> None:
        """Say what the labels of the network's further heads mean.

        Args:
            heads: The classes of each, by its name.

        Raises:
            ValueError: For a network of one head.
        """
        if not isinstance(self.network, ManyHeads):
            if heads:
                raise ValueError(f"this network has one head, and none called {', '.join(heads)}")
            return
        views = {name: self.network.task_network(name) for name in self.network.tasks}
        self.making = Making(self.network, *views.values())
        for name, classes in heads.items():
            other = Segmenter(views[name], classes=classes, preprocess=self.preprocess, device=self.device)
            other.head, other.making, other.place = name, self.making, 1 + list(views).index(name)
            other.look_as(self)
            self._others[name] = other

    @property
    def heads(self) -> dict[str, Segmenter]:
        """The further heads of a network of several tasks, by their names, each as a model that looks as this one does.

        They share the trunk and what computes it; ``predict_heads`` looks at a picture once for all of them.

        Returns:
            A segmenter of each; none for a network of one head.
        """
        for other in self._others.values():
            other.look_as(self)
        return cast("dict[str, Segmenter]", dict(self._others))

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
            image: A path or an address, a PIL image, an array H x W (x C) (RGB, RGBA or grey; masked, too), a tensor
                C x H x W, the bytes of a file, an open file; or several: a batch (N x H x W x C, tensors
                N x C x H x W), a list, an iterator. A network of K > 3 channels takes files of K bands if it was
                trained on such, else arrays H x W x K: RGB, then what it sees beside colour (log-depth, HHA).
            probabilities: Also return those of every class.
            order: Of the colours of arrays and tensors, ``rgb`` or ``bgr`` (OpenCV's).
            span: The numbers of arrays and tensors that are black and white, ``(0, 1)``; needed for floating point.

        Returns:
            Labels, and probabilities if asked for, of exactly the image's size; of several images a list. Pixels that
            hold nothing ("no data" and NaN in files, what a masked array masks) are of no class.

        Raises:
            BadFile: For a file that cannot be read.
            ValueError: For what is no image.
        """
        given, several = Given(order, span, level=self.level), split_batch(image)
        if several is not None:
            return [self._predicted(each, given, probabilities=probabilities) for each in several]
        return self._predicted(cast("Picture", image), given, probabilities=probabilities)

    def anew(self, engine: EngineName, precision: ArithmeticName) -> Segmenter:
        """Return the same model, prepared anew for another engine or arithmetic.

        Args:
            engine: What computes.
            precision: In which arithmetic.

        Returns:
            A model of the same head, by its network alone.
        """
        other = Segmenter(self.network, classes=self.classes, preprocess=self.preprocess, device=self.device)
        other.look_as(self)
        other.engine, other.precision = engine, arithmetic(precision)
        other.temperature, other.head = self.temperature, self.head
        # Of a further head the whole network is prepared, as for all: int8 is calibrated for that.
        other.making, other.place = Making(*self.making.heads), self.place
        return other

    def predict_heads(
        self, image: Picture, *, probabilities: bool = False, order: Order = "rgb", span: Span = None
    ) -> dict[str, Prediction]:
        """Label every pixel of an image by all heads of the network, which computes what they share once.

        Args:
            image: One, as ``predict`` takes it.
            probabilities: As for ``predict``.
            order: Likewise.
            span: Likewise.

        Returns:
            What ``predict`` returns, of the first head under ``""``, of the further ones under their names.

        Raises:
            BadFile: For a file that cannot be read.
            ValueError: For what is no image.

        >>> from fullyconv.networks import build
        >>> from fullyconv.types import ClassSet, Preprocess
        >>> network = build("fcn1s-spectral2", 2, channels=3, tasks={"shade": 3})
        >>> model = Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
        >>> model.name_heads({"shade": ClassSet(("dark", "grey", "light"))})
        >>> list(model.predict_heads(np.zeros((30, 40, 3), np.uint8)))
        ['', 'shade']
        """
        models = {"": self, **self.heads}
        found = self.read(image, Given(order, span, level=self.level))
        return dict(zip(models, predict_by_heads([*models.values()], found, probabilities=probabilities), strict=True))

    def _predicted(self, image: Picture, given: Given, *, probabilities: bool) -> Prediction:
        """Label the pixels of one picture."""
        return predict_by_heads([self], self.read(image, given), probabilities=probabilities)[0]

    def pixels(self, image: Picture) -> np.ndarray:
        """Return the numbers of a picture as the network sees them; see ``read``.

        Args:
            image: As ``predict`` takes it.

        Returns:
            H x W x K, uint8 (of networks of other data: its numbers).
        """
        return self.read(image).values

    def read(self, image: Picture, given: Given | None = None) -> Pixels:
        """Read a picture as the network sees it, and which of its pixels hold nothing.

        Args:
            image: As ``predict`` takes it.
            given: What else was said of it: its range of numbers, the order of its colours.

        Returns:
            The picture, which ``predict`` takes, too.
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

    def own(self, pair: Pair) -> Pair:
        """Choose of an image with several masks the one of this head.

        Args:
            pair: Of a data set.

        Returns:
            The image with that mask alone.
        """
        return pair.of(self.head) if any(each.head == self.head for each in pair.further) else pair.first

    def sample(self, pair: Pair) -> Sample:
        """Read a pair as the network sees it, with the labels of this head.

        Args:
            pair: Of a data set.

        Returns:
            Image and labels; raises ``BadFile`` as ``fullyconv.data.dataset.read_sample`` does.
        """
        return read_sample(self.own(self.seen([pair])[0]), self.classes)

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
            folder = folder.head(self.head) if self.head else folder
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

        source = Source(self.network, self.classes, self.preprocess, self.folder, self.temperature, self.head)
        return export(source, out, to=to, inside=Inside(with_preprocessing, labels, probabilities))

    def _label(self, pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool) -> Prediction:
        """Label H x W x K pixels, which are shown as the H x W x 3 picture ``seen``."""
        return _label_by_heads([self], pixels, seen, probabilities=probabilities)[0]


def predict_by_heads(models: Sequence[Segmenter], picture: Pixels, *, probabilities: bool = False) -> list[Prediction]:
    """Label every pixel of a picture by several heads of one network, which computes what they share once.

    Those that look in another way (several views, a CRF behind the network) look one after the other.

    Args:
        models: One, or several heads of one.
        picture: As ``read`` of any of them reads it.
        probabilities: Also find those of every class.

    Returns:
        What each finds.
    """
    values = picture.values
    seen = values if models[0].network.in_channels == COLOURS else false_colours(values)
    if looks_once(models):
        found = _label_by_heads(models, values, seen, probabilities=probabilities)
    else:
        found = [each._label(values, seen, probabilities=probabilities) for each in models]
    return [each.without(picture.missing) for each in found]


def looks_once(models: Sequence[Segmenter]) -> bool:
    """Return whether one pass through a network is enough for several models: heads of it, nothing around them."""
    return all(type(each) is Segmenter and each.making is models[0].making for each in models)


def _label_by_heads(
    models: Sequence[Segmenter], pixels: np.ndarray, seen: np.ndarray, *, probabilities: bool
) -> list[Prediction]:
    size = pixels.shape[:2]
    labels = [np.empty(size, np.min_scalar_type(len(each.classes) - 1)) for each in models]
    chances = [np.empty((len(each.classes), *size), np.float16) if probabilities else None for each in models]
    for index, (rows, columns, found, own) in pieces_by_heads(models, pixels, probabilities=probabilities):
        labels[index][rows, columns] = found
        if (kept := chances[index]) is not None:
            kept[:, rows, columns] = own
    return [Prediction(seen, *own) for own in zip(labels, (each.classes for each in models), chances, strict=True)]
