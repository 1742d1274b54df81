"""Score a model over a data set at native resolution: one confusion matrix, then the paper's four metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from fullyconv.data.dataset import Reader, read_sample
from fullyconv.data.pairs import Pair
from fullyconv.predict.ahead import reading_ahead
from fullyconv.predict.image import Segmenter, predict_by_heads
from fullyconv.scores.intervals import Intervals, bootstrap, margins
from fullyconv.scores.metrics import CONVENTION, Scores, confusion, score
from fullyconv.types import ClassSet, Sample

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


Examples = dict[tuple[int, int], tuple[tuple[int, str], ...]]
"""By truth and prediction: pixels and names of images."""

KEPT = 2  # images of each confusion


def _with_examples(known: Examples, more: Examples) -> Examples:
    """Keep the images with most pixels of each confusion; of equal ones those whose names come first."""
    kept = {
        cell: tuple(sorted((*known.get(cell, ()), *found), key=lambda one: (-one[0], one[1]))[:KEPT])
        for cell, found in more.items()
    }
    return known | kept


def _examples(counts: np.ndarray, name: str) -> Examples:
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    return {(int(truth), int(guess)): ((int(wrong[truth, guess]), name),) for truth, guess in np.argwhere(wrong)}


@dataclass(frozen=True)
class Evaluation:
    """The counts of a data set and all that follows from them.

    Attributes:
        classes: What the labels mean, C classes.
        counts: The confusion matrix in pixels, C x C int64, rows = truth.
        void_pixels: The pixels that were not scored.
        image_iu: The mean IU of each image by itself, 0..1 (NaN: no labelled pixel), by name.
        margins: What was counted in each image, N x 3 x C (``fullyconv.scores.intervals.margins``); gives intervals.
        groups: What each image belongs to (drive, patient, slide), where that is known; intervals are then over groups.
        examples: Of each confusion (truth, prediction), the images with most pixels of it: pixels and name, most first.

    >>> found = Evaluation(ClassSet(("road", "sky")), np.array([[8, 2], [0, 0]]), void_pixels=10, image_iu={"a": 0.4})
    >>> found.scores.pixel_accuracy, found.absent, found.void_share
    (0.8, ['sky'], 0.5)
    """

    classes: ClassSet
    counts: np.ndarray
    void_pixels: int
    image_iu: dict[str, float]
    margins: tuple[np.ndarray, ...] = ()
    groups: tuple[str, ...] = ()
    examples: Examples = field(default_factory=dict)

    @property
    def intervals(self) -> Intervals | None:
        """The 95 % interval of each score; ``None`` for fewer than two images, or groups where they are known."""
        if len(self.margins) < 2:
            return None
        return bootstrap(np.stack(self.margins), self.groups or None)

    @property
    def scores(self) -> Scores:
        """The scores of the whole set."""
        return score(self.counts)

    @property
    def absent(self) -> list[str]:
        """The classes that no pixel of the truth has."""
        return [name for name, row in zip(self.classes.names, self.counts, strict=True) if row.sum() == 0]

    @property
    def void_share(self) -> float:
        """The share of pixels that are not scored."""
        total = self.void_pixels + int(self.counts.sum())
        return self.void_pixels / total if total else 0.0

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON.

        Returns:
            The scores, counts and names; per-class figures in the order of ``classes``.
        """
        intervals = self.intervals
        return {
            **asdict(self.scores),
            "intervals": None if intervals is None else asdict(intervals) | {"convention": intervals.convention},
            "classes": list(self.classes.names),
            "images": len(self.image_iu),
            "void_share": self.void_share,
            "absent_classes": self.absent,
            "convention": CONVENTION,
            "confusion": self.counts.tolist(),
            "image_mean_iu": self.image_iu,
        }


class Tally:
    """Adds up what is counted in the pictures of a data set.

    Args:
        classes: What the labels mean.
        groups: What each picture belongs to, as ``Evaluation`` has them.
    """

    def __init__(self, classes: ClassSet, groups: Sequence[str] = ()) -> None:
        self.classes, self._groups = classes, tuple(groups)
        self._counts = np.zeros((len(classes), len(classes)), np.int64)
        self._void, self._image_iu = 0, dict[str, float]()
        self._margins: list[np.ndarray] = []
        self._examples: Examples = {}

    def add(self, name: str, truth: np.ndarray, guess: np.ndarray) -> None:
        """Count the pixels of a picture, H x W labels each."""
        counts = confusion(truth, guess, classes=len(self.classes))
        self._counts += counts
        self._void += truth.size - int(counts.sum())
        self._image_iu[name] = score(counts).mean_iu
        self._margins.append(margins(counts))
        self._examples = _with_examples(self._examples, _examples(counts, name))

    def evaluation(self) -> Evaluation:
        """Return what follows from all of them."""
        counted = self._counts, self._void, self._image_iu, tuple(self._margins), self._groups, self._examples
        return Evaluation(self.classes, *counted)


def evaluate(
    segmenter: Segmenter,
    pairs: Sequence[Pair],
    *,
    groups: Sequence[str] = (),
    progress: Progress | None = None,
    read: Reader = read_sample,
) -> Evaluation:
    """Predict every pair at its native resolution and count.

    Args:
        segmenter: The model.
        pairs: Images with their masks (``fullyconv.data.folder.open_folder``). Masks are read by the model's
            classes, unless ``fullyconv.data.matching.match_classes`` has put the data set's own in their place.
        groups: What each pair belongs to (``fullyconv.data.groups``): intervals are then over groups, not pictures.
        progress: Called with (done, total) after each pair.
        read: Reads a pair; ``fullyconv.data.dataset.SampleCache`` keeps what it has read.

    Returns:
        One confusion matrix over all pairs, and what follows from it.

    Raises:
        BadFile: For a pair that cannot be read.

    >>> from fullyconv.networks import build
    >>> from fullyconv.types import Preprocess
    >>> model = Segmenter(build("fcn4s-lenet", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
    >>> evaluate(model, []).scores.frequency_weighted_iu
    0.0
    """
    return evaluate_heads([segmenter], [pairs], groups=groups, progress=progress, read=read)[0]


def evaluate_heads(
    models: Sequence[Segmenter],
    pairs: Sequence[Sequence[Pair]],
    *,
    groups: Sequence[str] = (),
    progress: Progress | None = None,
    read: Reader = read_sample,
) -> list[Evaluation]:
    """Score several heads of one model on the same pictures; the network computes what they share once for each.

    Args:
        models: The model and its further heads.
        pairs: For each of them images with its masks: the same images in the same order.
        groups: As for ``evaluate``.
        progress: Likewise.
        read: Likewise.

    Returns:
        What ``evaluate`` returns of each.

    Raises:
        BadFile: For a pair that cannot be read.

    >>> from fullyconv.networks import build
    >>> from fullyconv.types import Preprocess
    >>> network = build("fcn1s-spectral2", 2, channels=3, tasks={"shade": 3})
    >>> model = Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
    >>> model.name_heads({"shade": ClassSet(("dark", "grey", "light"))})
    >>> [each.counts.shape for each in evaluate_heads([model, model.heads["shade"]], [[], []])]
    [(2, 2), (3, 3)]
    """
    own = [[model.own(pair) for pair in model.seen(each)] for model, each in zip(models, pairs, strict=True)]
    pictures = list(zip(*own, strict=True))
    tallies = [Tally(model.classes, groups) for model in models]

    def read_all(picture: Sequence[Pair]) -> tuple[Sample, list[np.ndarray]]:
        samples = [read(pair, model.classes) for pair, model in zip(picture, models, strict=True)]
        return samples[0], [sample.labels for sample in samples]

    with reading_ahead(pictures, read_all, size=_bytes) as carried:
        for done, (picture, each) in enumerate(zip(pictures, carried, strict=True), start=1):
            sample, truths = each.value()
            found = predict_by_heads(models, models[0].read(sample.image))
            for tally, truth, guess in zip(tallies, truths, found, strict=True):
                tally.add(picture[0].name, truth, guess.labels)
            each.arrived()
            if progress is not None:
                progress(done, len(pictures))
    return [tally.evaluation() for tally in tallies]


def merge(parts: Sequence[Evaluation], pairs: Sequence[Pair], groups: Sequence[str] = ()) -> Evaluation:
    """Put together what several have scored: part k of n every n-th pair from the k-th on.

    Counts are whole numbers, so the sum is exactly what one would have counted.

    Args:
        parts: The evaluations, in order.
        pairs: All pairs that were scored.
        groups: What each pair belongs to.

    Returns:
        The evaluation of all pairs, as ``evaluate`` gives it.
    """
    image_iu = {pair.name: parts[at % len(parts)].image_iu[pair.name] for at, pair in enumerate(pairs)}
    counted = [parts[at % len(parts)].margins[at // len(parts)] for at in range(len(pairs))]
    counts = np.sum([part.counts for part in parts], axis=0)
    void = sum(part.void_pixels for part in parts)
    examples = reduce(_with_examples, (part.examples for part in parts))
    return Evaluation(parts[0].classes, counts, void, image_iu, tuple(counted), tuple(groups), examples)


def _bytes(read: tuple[Sample, list[np.ndarray]]) -> int:
    sample, labels = read
    return sample.image.nbytes + sum(each.nbytes for each in labels)
