"""Any classifier as a map of its scores (paper, section 3.1)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.geometry import Path, size, smallest_input
from fullyconv.surgery.head import Head
from fullyconv.surgery.promise import (
    HeadDiffers,
    another_size,
    check_scores,
    check_sizes,
    check_steady,
    first_difference,
)
from fullyconv.surgery.recast import recast, slide_whole
from fullyconv.surgery.subject import Subject, in_words, random_pictures
from fullyconv.trace import NotFollowed, Walk, complete, record, walk
from fullyconv.trace.positions import shape_of

LONGEST_MINIMUM = 4096


class FullyConvolutional(nn.Module):
    """A classifier that scores every place of a picture: N x C x H x W in, N x K x h x w class scores out.

    ``convolutionize`` makes one. ``rows`` and ``columns`` say where the units of the map look; ``remarks`` what is to
    be known of some operations. A picture smaller than ``smallest_input`` is padded to it by zeros, half on each side;
    at the end up to one of ``multiples``.

    Args:
        network: The recorded network, with its head recast.
        found: Where its tensors look.
        slides: Whether each unit is the classifier's answer for a window of the example's size (otherwise the mean of
            the map is its answer for the whole picture).
        smallest_input: The least height and width that the network takes.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    >>> dense = convolutionize(net, (3, 8, 8))
    >>> dense.slides, dense(torch.zeros(1, 3, 10, 12)).shape
    (True, torch.Size([1, 10, 3, 5]))
    """

    def __init__(self, network: fx.GraphModule, found: Walk, *, slides: bool, smallest_input: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.slides, self.remarks = network, slides, list(found.remarks)
        self.in_channels = shape_of(next(iter(network.graph.nodes)))[1]
        scores = next(node for node in network.graph.nodes if node.op == "output").args[0]
        positions = found.positions[cast("fx.Node", scores)]
        self.rows, self.columns = (trail.centred for trail in positions.trails)
        self.multiples = tuple(found.multiples)
        self.smallest_input = smallest_input

    def forward(self, image: Tensor) -> Tensor:
        """Score every window of pictures.

        Args:
            image: N x C x H x W.

        Returns:
            N x K x h x w scores.

        Raises:
            ValueError: For a tensor of other than four axes.
        """
        if image.ndim != 4:
            raise ValueError(f"pictures are N x C x H x W, not {tuple(image.shape)}")
        (top, bottom), (left, right) = self.padding((image.shape[-2], image.shape[-1]))
        return cast("Tensor", self.network(functional.pad(image, (left, right, top, bottom))))

    def padding(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return how many zeros come before and after the rows and the columns of a picture.

        Args:
            size: (H, W) of the picture.

        Returns:
            (before, after) for rows, then for columns.
        """
        rows, columns = (
            _padding(length, least, multiple)
            for length, least, multiple in zip(size, self.smallest_input, self.multiples, strict=True)
        )
        return rows, columns


def _padding(length: int, least: int, multiple: int) -> tuple[int, int]:
    """Return how much an axis lacks before and after: half of what is too short, at the end what is no multiple."""
    before = max(0, least - length) // 2
    whole = -(-max(length, least) // multiple) * multiple
    return before, whole - length - before


def convolutionize(classifier: nn.Module, example: object = None) -> FullyConvolutional:
    """Cast a convolutional classifier into fully convolutional form, with a copy of its weights.

    Its fully connected layers become convolutions of the window they read. Where global average pooling is
    followed by affine layers alone, pooling is left out: the mean of the map is the classifier's score, at every
    size. Where something else follows (a normalisation, an activation), and for fully connected layers over
    more than one unit, every unit is the classifier's answer for a window as large as the example. On the example
    the mean of the map equals the classifier in both cases (evaluation mode).

    Both networks are run on two random pictures of the example's size before the new one is handed out (and of a
    second size, where its maps or their mean are known there), which takes up to five passes; weights on the meta
    device cannot be run.

    Args:
        classifier: Takes N x C x H x W pictures and gives N x K scores. It stays as it was. Its hooks that change
            something are recorded with it; those that only watch are called once, and watch on in the new network.
        example: A size it takes: ``(C, H, W)``, ``(H, W)`` or a tensor of pictures; 224 x 224 unless it is given.

    Returns:
        The fully convolutional network, in the classifier's mode, precision and place.

    Raises:
        NotFollowed: A ``ValueError`` naming the operation and the module path of what has no fully convolutional
            form: attention over positions, layers fully connected over positions, shapes that fix H x W, heads
            that would give other scores than the classifier.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
        >>> convolutionize(net, (3, 8, 8)).rows.field
        Fraction(8, 1)

    """
    subject = Subject.of(classifier, example)
    with subject.hooks_aside():
        try:
            dense = _dense(subject)
        except HeadDiffers as reason:
            try:
                dense = _dense(subject, whole=True)
            except NotFollowed:
                raise reason from None
    dense.remarks += subject.hand_on(dense.network)
    return dense.train(subject.training)


def _dense(subject: Subject, *, whole: bool = False) -> FullyConvolutional:
    """Write the dense form of a classifier and try it; with ``whole`` its head is run as it is on every window."""
    recorded = record(subject.network, subject.example, hooks=True)
    check_steady(subject, recorded, [next(reversed(recorded.graph.nodes))])
    trunk = walk(recorded)
    head = Head.of(recorded, trunk)
    windows = whole or bool(head.windows)
    slides = windows or not head.is_affine
    averages_all = not slides and head.pools_at_any_size
    scores = slide_whole(head) if whole else recast(head, slide=slides)[0]
    next(node for node in recorded.graph.nodes if node.op == "output").args = (scores,)
    recorded.graph.eliminate_dead_code()
    recorded.delete_all_unused_submodules()
    recorded.recompile()
    try:
        complete(recorded)
        found = walk(recorded)
    except Exception as reason:  # whatever a layer raises that was made for a vector
        raise HeadDiffers(f"the head's dense form does not run: {in_words(reason)}") from reason
    # Windows that slide shrink to a smaller map; those of convolutions cannot.
    rows, columns = (_smallest(found if windows else trunk, axis) for axis in (0, 1))
    dense = FullyConvolutional(recorded, found, slides=slides, smallest_input=(rows, columns))
    if subject.pictures is not None:
        _try(subject, dense, subject.pictures)
        sides = another_size(subject.example, (dense.rows.scale, dense.columns.scale), dense.multiples)
        larger = random_pictures(subject.network, (subject.example[0], *sides))
        check_sizes(recorded, found, larger)
        if averages_all and subject.takes(larger):
            _try(subject, dense, larger)
    return dense


def _try(subject: Subject, dense: FullyConvolutional, pictures: Tensor) -> None:
    """Let both networks answer, and look for the operation at fault where they differ."""

    def explain() -> str:
        recorded = record(subject.network, subject.example, hooks=True)
        head = Head.of(recorded, walk(recorded))
        try:
            _, forms = recast(head, slide=dense.slides, beside=True)
        except NotFollowed:  # it slides as a whole
            return "the classifier's head"
        return first_difference(subject, recorded, forms, pictures)

    check_scores(subject, dense, pictures, explain)


def _smallest(found: Walk, axis: int) -> int:
    """Find the shortest side for which every map has a unit."""
    paths: set[Path] = {positions.trails[axis].path for positions in found.positions.values() if positions.axes}
    return smallest_input(lambda length: all(size(path, length) > 0 for path in paths), period=1, bound=LONGEST_MINIMUM)
