"""A trunk cut out of any classifier: the maps that an FCN scores, found in its graph (paper, section 4)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import cast

from torch import Tensor, fx, nn

from fullyconv.surgery.head import Head
from fullyconv.trace import NotFollowed, Positions, Walk, complete, record, walk
from fullyconv.trace.nodes import PATH, SHAPE
from fullyconv.trace.positions import shape_of

Example = tuple[int, int, int]


class Trunk(nn.Module):
    """What an FCN stands on: N x K x H x W in, feature maps out, fine to coarse.

    ``channels`` has one number for each map. Any ``nn.Module`` that has it and gives as many maps will do;
    this class tells type checkers so. Strides, windows and the channels read are found in its graph.
    """

    channels: tuple[int, ...]


class ClassifierTrunk(Trunk):
    """A classifier without its scores: N x C x H x W in, tapped maps out, fine to coarse.

    ``channels`` has one number for each map, ``tapped`` the module it comes from. The parameters keep the
    names they have in the classifier, below ``classifier``. ``example`` (C, H, W) is a size it takes.
    """

    def __init__(self, classifier: fx.GraphModule, *, example: Example, tapped: Sequence[str]) -> None:
        super().__init__()
        self.classifier, self.tapped = classifier, tuple(tapped)
        self.in_channels, self.example = example[0], example
        outputs = next(node for node in classifier.graph.nodes if node.op == "output").args[0]
        self.channels = tuple(shape_of(node)[1] for node in cast("Iterable[fx.Node]", outputs))

    @property
    def recording(self) -> fx.GraphModule:
        """What it was cut out of, with the shapes at the example's size."""
        return self.classifier

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the tapped maps."""
        return cast("tuple[Tensor, ...]", self.classifier(image))


def cut_trunk(
    classifier: nn.Module, *, stride: int, taps: Sequence[str] = (), example: Example | None = None, copied: bool = True
) -> ClassifierTrunk:
    """Cut a classifier (a copy of it, unless ``copied`` is false) off before its scores and tap its maps.

    Tapped are the last map before the scores and, down to ``stride``, the last map at each stride that
    everything coarser is computed from; where branches of several strides run side by side (HRNet), the last
    at that stride. Fully connected layers that read a map of several units become
    convolutions, padded by half their window, and belong to the trunk, but for the last, which scored the classes.
    ``taps`` names modules whose last map is to be tapped instead.

    Raises ``ValueError`` for operations that cannot be followed and strides that are not there.
    """
    recorded = record(copy.deepcopy(classifier) if copied else classifier, example)
    found = walk(recorded)
    head = Head.of(recorded, found)
    nodes = _named(recorded, found, taps) if taps else _by_stride(recorded, found, head, stride)
    if head.windows and not taps:
        nodes[0] = head.make_dense(slide=False, pad=True, until=head.last_linear)
    names = [str(node.meta[PATH] or node.name) for node in reversed(nodes)]
    end = next(node for node in recorded.graph.nodes if node.op == "output")
    with recorded.graph.inserting_before(end):
        maps = tuple(_channels_first(recorded.graph, node, found) for node in reversed(nodes))
    end.args = (maps,)
    recorded.graph.eliminate_dead_code()
    recorded.delete_all_unused_submodules()
    recorded.recompile()
    complete(recorded)
    channels, height, width = shape_of(next(iter(recorded.graph.nodes)))[1:]
    trunk = ClassifierTrunk(recorded, example=(channels, height, width), tapped=names)
    return trunk.train(classifier.training)


def _channels_first(graph: fx.Graph, node: fx.Node, found: Walk) -> fx.Node:
    order = found.positions[node].channels_first(4) if node in found.positions else None
    return node if order in (None, (0, 1, 2, 3)) else graph.call_method("permute", (node, order))


def _stride(positions: Positions) -> Fraction | None:
    """Return the stride of a map if it is the same along rows and columns."""
    rows, columns = positions.stride
    return rows if rows == columns and positions.is_map else None


def _by_stride(recorded: fx.GraphModule, found: Walk, head: Head, finest: int) -> list[fx.Node]:
    """Choose the taps, coarse to fine."""
    if not head.maps:
        raise NotFollowed("the classifier has no map before its scores")
    coarsest = head.maps[-1] if head.last_linear else _before_scores(head)
    ancestors, dominators = (
        {stride: node for node in nodes if (stride := _stride(found.positions[node])) and _is_features(head, node)}
        for nodes in _order(recorded, found, coarsest)
    )
    last = {stride: _choose(found, node, dominators.get(stride)) for stride, node in ancestors.items()}
    start = found.positions[coarsest].stride[0]
    strides = sorted(stride for stride in last if finest <= stride < start)
    if start < finest or (strides or [start])[0] != finest:
        known = ", ".join(str(stride) for stride in sorted({*last, start}) if stride > 1)
        raise ValueError(f"the classifier has no map at stride {finest}: it has maps at strides {known}")
    return [coarsest, *(last[stride] for stride in reversed(strides))]


def _choose(found: Walk, last: fx.Node, common: fx.Node | None) -> fx.Node:
    """Choose between the last map at a stride and the last one that everything coarser is computed from.

    The last may be the inside of the block that reduces it; if it sees twice as far, it is a branch of its own.
    """
    if common is None:
        return last
    farther, near = (found.positions[node].trails[0].line.field for node in (last, common))
    return last if farther >= 2 * near else common


def _before_scores(head: Head) -> fx.Node:
    """Step back over a convolution that scores every position before they are averaged (SqueezeNet)."""
    node = head.maps[-1]
    row = head.row(node)
    # Features are normalised, scores are not.
    while row is not None and row.unitwise and row.role != "norm" and len(head.inputs(node)) == 1:
        (node,) = head.inputs(node)
        row = head.row(node)
    convolves = row is not None and row.head == "convolution"
    if convolves and shape_of(node)[1] == shape_of(head.scores)[1] and node.all_input_nodes[0].op != "placeholder":
        return node.all_input_nodes[0]
    return head.maps[-1]


def _is_features(head: Head, node: fx.Node) -> bool:
    """Return whether a node is a map of features, not several of them and not one with a border put on or cut off."""
    row = head.row(node)
    frames = row is not None and row.atrous in ("border", "crop")
    return isinstance(node.meta[SHAPE], tuple) and len(shape_of(node)) == 4 and not frames


def _order(recorded: fx.GraphModule, found: Walk, target: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the nodes that ``target`` is computed from, and those of them that every way to it passes."""
    places = {node: index for index, node in enumerate(recorded.graph.nodes) if node in found.positions}
    behind: dict[fx.Node, int] = {}  # sets of nodes as bits
    always: dict[fx.Node, int] = {}
    for node, place in places.items():
        sources = [source for source in node.all_input_nodes if source in places]
        behind[node], always[node] = 1 << place, -1 if sources else 0
        for source in sources:
            behind[node] |= behind[source]
            always[node] &= always[source]
        always[node] |= 1 << place
    nodes = list(places)
    chosen = ([node for node in nodes if bits[target] >> places[node] & 1] for bits in (behind, always))
    return cast("tuple[list[fx.Node], list[fx.Node]]", tuple(chosen))


def _named(recorded: fx.GraphModule, found: Walk, taps: Sequence[str]) -> list[fx.Node]:
    """Find the last map that each of these modules makes, coarse to fine."""
    nodes = []
    for name in taps:
        made = [node for node in found.positions if f"{node.meta.get(PATH, '')}.".startswith(f"{name}.")]
        if not made:
            known = sorted({str(node.meta.get(PATH)) for node in found.positions if node.meta.get(PATH)})
            raise ValueError(f"no module {name!r} to tap: the network has {', '.join(known[:20])}, …")
        if _stride(found.positions[made[-1]]) is None or len(shape_of(made[-1])) != 4:
            raise ValueError(
                f"{name!r} gives no map to tap but {shape_of(made[-1])}: tap a module that gives N x C x h x w"
            )
        nodes.append(made[-1])
    return sorted(nodes, key=lambda node: cast("Fraction", _stride(found.positions[node])), reverse=True)
