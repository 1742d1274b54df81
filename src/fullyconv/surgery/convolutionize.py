"""Any classifier as a map of its scores (paper, section 3.1)."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.geometry import Path, size, smallest_input
from fullyconv.surgery.head import Head
from fullyconv.trace import Walk, complete, record, walk
from fullyconv.trace.positions import shape_of

LONGEST_MINIMUM = 4096


class FullyConvolutional(nn.Module):
    """A classifier that scores every place of a picture: N x C x H x W in, N x K x h x w class scores out.

    ``rows`` and ``columns`` say where the units of the map look; ``remarks`` what is to be known of some
    operations; ``slides`` whether each unit is the classifier's answer for a window of the example's size
    (otherwise the mean of the map is its answer for the whole picture). A picture smaller than
    ``smallest_input`` is padded to it by zeros, half on each side; at the end up to one of ``multiples``.
    """

    def __init__(self, network: fx.GraphModule, found: Walk, *, slides: bool, smallest_input: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.slides, self.remarks = network, slides, found.remarks
        self.in_channels = shape_of(next(iter(network.graph.nodes)))[1]
        scores = next(node for node in network.graph.nodes if node.op == "output").args[0]
        positions = found.positions[cast("fx.Node", scores)]
        self.rows, self.columns = (trail.line for trail in positions.trails)
        self.multiples = tuple(found.multiples)
        self.smallest_input = smallest_input

    def forward(self, image: Tensor) -> Tensor:
        """Score every window of N x C x H x W pictures."""
        if image.ndim != 4:
            raise ValueError(f"pictures are N x C x H x W, not {tuple(image.shape)}")
        (top, bottom), (left, right) = self.padding((image.shape[-2], image.shape[-1]))
        return cast("Tensor", self.network(functional.pad(image, (left, right, top, bottom))))

    def padding(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return how many zeros come before and after the rows and the columns of a picture of ``size``."""
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


def convolutionize(classifier: nn.Module, example: tuple[int, int, int] = (3, 224, 224)) -> FullyConvolutional:
    """Cast a convolutional classifier into fully convolutional form, with a copy of its weights.

    ``classifier`` takes N x C x H x W pictures and gives N x K scores; ``example`` is a size (C, H, W) it takes.
    Its fully connected layers become convolutions of the window they read. Where global average pooling is
    followed by affine layers alone, pooling is left out: the mean of the map is the classifier's score, at every
    size. Where something else follows (a normalisation, an activation), and for fully connected layers over
    more than one unit, every unit is the classifier's answer for a window as large as the example. On the example
    the mean of the map equals the classifier in both cases (evaluation mode).

    Raises ``ValueError`` (``NotFollowed``) naming the operation and the module path of what has no fully
    convolutional form: attention over positions, layers fully connected over positions, shapes that fix H x W.

    >>> convolutionize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)), (3, 8, 8)).rows.field
    Fraction(8, 1)
    """
    recorded = record(copy.deepcopy(classifier), example)
    trunk = walk(recorded)
    head = Head.of(recorded, trunk)
    slides, windows = not head.is_affine or bool(head.windows), head.windows
    scores = head.make_dense(slide=slides)
    next(node for node in recorded.graph.nodes if node.op == "output").args = (scores,)
    recorded.graph.eliminate_dead_code()
    recorded.delete_all_unused_submodules()
    recorded.recompile()
    complete(recorded)
    dense, found = recorded.train(classifier.training), walk(recorded)
    # Windows that slide shrink to a smaller map; those of convolutions cannot.
    rows, columns = (_smallest(found if windows else trunk, axis) for axis in (0, 1))
    return FullyConvolutional(dense, found, slides=slides, smallest_input=(rows, columns))


def _smallest(found: Walk, axis: int) -> int:
    """Find the shortest side for which every map has a unit."""
    paths: set[Path] = {positions.trails[axis].path for positions in found.positions.values() if positions.axes}
    return smallest_input(lambda length: all(size(path, length) > 0 for path in paths), period=1, bound=LONGEST_MINIMUM)
