"""A trunk cut out of any classifier: the maps that an FCN scores, found in its graph (paper, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, fx, nn

from fullyconv.geometry import Window
from fullyconv.surgery.head import Head, given_maps
from fullyconv.surgery.promise import (
    HeadDiffers,
    another_size,
    check_hidden,
    check_recording,
    check_sizes,
    check_steady,
)
from fullyconv.surgery.recast import recast, slide_whole
from fullyconv.surgery.subject import Example, Subject, in_words, random_pictures
from fullyconv.surgery.taps import at_strides, by_name, by_stride, last_map, map_before
from fullyconv.trace import NotFollowed, Remark, Walk, complete, input_channels, record, walk
from fullyconv.trace.nodes import PATH
from fullyconv.trace.positions import shape_of
from fullyconv.trace.recording import usual_size


class Trunk(nn.Module):
    """What an FCN stands on: N x K x H x W in, feature maps out, fine to coarse.

    ``channels`` has one number for each map. Any ``nn.Module`` that has it and gives as many maps will do;
    this class tells type checkers so. Strides, windows and the channels read are found in its graph.
    ``score_window`` is the window, on rows and columns, of the convolutions that score its maps.
    """

    channels: tuple[int, ...]
    score_window: tuple[Window, Window] = (Window(1), Window(1))


class ClassifierTrunk(Trunk):
    """A classifier without its scores: N x C x H x W in, tapped maps out, fine to coarse.

    ``channels`` has one number for each map, ``tapped`` the module it comes from. The parameters keep the
    names they have in the classifier, below ``classifier``. ``example`` (C, H, W) is a size it takes; ``remarks``
    say what became of hooks and computed weights.
    """

    def __init__(self, classifier: fx.GraphModule, *, example: Example, tapped: Sequence[str]) -> None:
        super().__init__()
        self.classifier, self.tapped = classifier, tuple(tapped)
        self.in_channels, self.example = example[0], example
        outputs = next(node for node in classifier.graph.nodes if node.op == "output").args[0]
        self.channels = tuple(shape_of(node)[1] for node in cast("Iterable[fx.Node]", outputs))
        self.remarks: list[Remark] = []

    @property
    def recording(self) -> fx.GraphModule:
        """What it was cut out of, with the shapes at the example's size."""
        return self.classifier

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the tapped maps."""
        return cast("tuple[Tensor, ...]", self.classifier(image))


def cut_trunk(
    classifier: nn.Module,
    *,
    stride: int | None,
    taps: Sequence[str] = (),
    example: object = None,
    copied: bool = True,
    hidden: bool = True,
) -> ClassifierTrunk:
    """Cut a classifier off before its scores and tap its maps.

    Tapped are the last map before the scores and, down to ``stride``, the last map at each stride that
    everything coarser is computed from; where branches of several strides run side by side (HRNet), the last
    at that stride. Fully connected layers that read a map of several units become convolutions, padded by half
    their window, and belong to the trunk, but for the last, which scored the classes. A head that attends to
    positions is left out. A network that gives maps instead of scores (timm's ``features_only``) is tapped at these.

    The classifier, the recording of it and the trunk are run on two random pictures each, the trunk on a second size
    too; weights on the meta device cannot be.

    Args:
        classifier: Takes N x C x H x W pictures.
        stride: Of the finest map; ``None``: of the finest there is.
        taps: Names of modules, as in ``named_modules``, whose last maps are tapped instead.
        example: A size the classifier takes, as ``convolutionize`` reads it.
        copied: Take a copy of the classifier; else it is taken apart itself.
        hidden: Whether fully connected layers before the last one belong to the trunk; else it ends with the last map.

    Returns:
        The trunk, in the classifier's mode, precision and place.

    Raises:
        ValueError: For strides and modules that are not there.
        NotFollowed: For operations that cannot be followed, and a classifier that the recording does not hold.

    """
    subject = Subject.of(classifier, example, copied=copied)
    with subject.hooks_aside():
        try:
            trunk = _cut(subject, stride, taps, hidden=hidden)
        except HeadDiffers:
            trunk = _cut(subject, stride, taps, hidden=hidden, whole=True)
    trunk.remarks += subject.hand_on(trunk.classifier)
    return trunk.train(subject.training)


def _cut(
    subject: Subject, stride: int | None, taps: Sequence[str], *, hidden: bool, whole: bool = False
) -> ClassifierTrunk:
    recorded = record(subject.network, subject.example, hooks=True)
    found, nodes, head = _choose(recorded, stride, taps)
    head = head if hidden else None
    vector, window = _hidden(head)
    check_steady(subject, recorded, nodes if vector is None else [*nodes, vector])
    answer = check_recording(subject, recorded, vector)
    strides, multiples = found.positions[nodes[0]].stride, found.multiples
    if head is not None:
        last = head.last_linear
        sliding = slide_whole(head, pad=True, until=last) if whole else None
        nodes[0] = sliding or recast(head, slide=False, pad=True, until=last)[0]
    try:
        trunk = _tapped(recorded, found, nodes, subject.example)
    except Exception as error:  # whatever a layer raises that was made for a vector
        raise HeadDiffers(f"the head's dense form does not run: {in_words(error)}") from error
    if subject.pictures is not None:
        if answer is not None:
            check_hidden(trunk, answer, window, subject.pictures)
        sides = another_size(subject.example, strides, multiples)
        check_sizes(recorded, found, random_pictures(subject.network, (subject.example[0], *sides)))
    return trunk


def retap(trunk: Trunk, stride: int | None = None) -> ClassifierTrunk:
    """Tap a trunk at other strides than those of the maps it gives.

    Args:
        trunk: Gives feature maps fine to coarse; its layers are shared.
        stride: Of the finest map; ``None``: of the finest there is.

    Returns:
        The same trunk, which gives its last map at each stride from there on.

    Raises:
        ValueError: For a stride that is not there.
        NotFollowed: For operations that cannot be followed.

    """
    recorded = record(trunk)
    found = walk(recorded)
    *_, coarsest = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    nodes = by_stride(recorded, found, coarsest, stride)
    example = input_channels(trunk), *usual_size(trunk)
    return _tapped(recorded, found, nodes, example).train(trunk.training)


def _tapped(recorded: fx.GraphModule, found: Walk, nodes: Sequence[fx.Node], example: Example) -> ClassifierTrunk:
    """Let a recorded network give these of its maps, which come coarse to fine, and nothing else."""
    names = [str(node.meta[PATH] or node.name) for node in reversed(nodes)]
    end = next(node for node in recorded.graph.nodes if node.op == "output")
    with recorded.graph.inserting_before(end):
        maps = tuple(_channels_first(recorded.graph, node, found) for node in reversed(nodes))
    end.args = (maps,)
    recorded.graph.eliminate_dead_code()
    recorded.delete_all_unused_submodules()
    recorded.recompile()
    complete(recorded)
    return ClassifierTrunk(recorded, example=example, tapped=names)


def _hidden(head: Head | None) -> tuple[fx.Node | None, tuple[int, int]]:
    """Return the vector that the last fully connected layer of a head reads, and the window the first one reads."""
    if head is None or head.last_linear is None or not head.windows:
        return None, (1, 1)
    sizes = dict(head.walk.positions[head.inputs(head.windows[0])[0]].flattened)
    return head.inputs(head.last_linear)[0], (sizes["H"], sizes["W"])


def _choose(
    recorded: fx.GraphModule, stride: int | None, taps: Sequence[str]
) -> tuple[Walk, list[fx.Node], Head | None]:
    """Find where to tap, coarse to fine; with the head where hidden layers of it belong to the trunk."""
    found = Walk()
    try:
        walk(recorded, found)
    except NotFollowed as refused:
        if taps:
            return found, by_name(recorded, found, taps), None
        return found, by_stride(recorded, found, map_before(recorded, found, refused), stride), None
    if taps:
        return found, by_name(recorded, found, taps), None
    maps = given_maps(recorded, found)
    if maps:
        return found, at_strides(maps, max(maps), stride), None
    head = Head.of(recorded, found)
    nodes = by_stride(recorded, found, last_map(head), stride)
    return found, nodes, head if head.windows and head.windows != [head.last_linear] else None


def _channels_first(graph: fx.Graph, node: fx.Node, found: Walk) -> fx.Node:
    order = found.positions[node].channels_first(4) if node in found.positions else None
    return node if order in (None, (0, 1, 2, 3)) else graph.call_method("permute", (node, order))
