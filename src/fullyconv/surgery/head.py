"""A classifier's head: the operations between its last maps and its scores, found in its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

from torch import fx, nn

from fullyconv.trace.nodes import SHAPE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import NotFollowed, Positions, Walk, shape_of
from fullyconv.trace.walking import layer_of

SCORES = ("logits", "out")  # what a mapping calls the scores among its entries


@dataclass
class Head:
    """The operations between a classifier's last maps and its scores."""

    recorded: fx.GraphModule
    walk: Walk
    scores: fx.Node
    region: list[fx.Node] = field(default_factory=list)  # in the order of execution
    maps: list[fx.Node] = field(default_factory=list)  # what they read

    @classmethod
    def of(cls, recorded: fx.GraphModule, walk: Walk) -> Head:
        """Find the head; raises ``NotFollowed`` where the network gives no scores of the picture."""
        maps = given_maps(recorded, walk)
        if maps:
            raise NotFollowed(f"the network gives {len(maps)} maps, no scores: from_classifier makes an FCN on them")
        head = cls(recorded, walk, _scores(recorded))
        if head.scores not in walk.positions:
            raise NotFollowed("the network's output does not depend on the picture")
        found, waiting = set(), [head.scores]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if not head._is_map(node):
                waiting.extend(head.inputs(node))
        head.region = [node for node in recorded.graph.nodes if node in found and not head._is_map(node)]
        head.maps = [node for node in recorded.graph.nodes if node in found and head._is_map(node)]
        return head

    def _is_map(self, node: fx.Node) -> bool:
        """Return whether a node is before the head; averaging to a single unit is the head's."""
        row, shape, positions = self.row(node), shape_of(node), self.walk.positions[node]
        averages = row is not None and row.pools == "mean"
        return positions.channels_first(len(shape)) is not None and not (averages and shape[-2:] == (1, 1))

    def pools(self, node: fx.Node) -> bool:
        """Return whether a node makes a vector of a map."""
        row = self.row(node)
        if row is None or not row.pools or (self.walk.positions[node].axes and row.frame is None and row.fixed is None):
            return False
        return any(self.walk.positions[source].axes for source in self.inputs(node))

    def row(self, node: fx.Node) -> Operation | None:
        """Return the row of a node in the table of operations."""
        return operation(node, self.layer(node))

    @property
    def source(self) -> fx.Node:
        """The last map that everything in the head is computed from."""
        maps = [
            node
            for node in ways_to(self.scores, self.walk)[1]
            if self._is_map(node) and isinstance(node.meta.get(SHAPE), tuple)
        ]
        if not maps:
            raise NotFollowed("the classifier has no map before its scores")
        return maps[-1]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """Return the arguments that depend on the picture."""
        return [source for source in node.all_input_nodes if source in self.walk.positions]

    def layer(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls."""
        return layer_of(self.recorded, node)

    @property
    def is_affine(self) -> bool:
        """Return whether nothing but averages and affine maps make the scores: then the mean of scores is the score."""
        return all(self._is_affine(node) for node in self.region)

    @property
    def pools_at_any_size(self) -> bool:
        """Return whether every pool takes in the whole map, however large: no window of the example's size."""
        rows = [self.row(node) for node in self.region if self.pools(node)]
        return all(row is not None and row.frame is None for row in rows)

    def _is_affine(self, node: fx.Node) -> bool:
        row, layer = self.row(node), self.layer(node)
        if row is None or (
            layer is not None and not type(layer).__module__.startswith("torch.nn") and row.role != "drop"
        ):
            return False  # a normalisation of one's own may have an activation in it
        if row.affine in ("one", "first"):
            first = node.args[0] in self.walk.positions
            return len(self.inputs(node)) == 1 and (first or row.affine == "one")
        return row.affine == "always"

    @property
    def last_linear(self) -> fx.Node | None:
        """The layer that makes the scores of the classes."""
        return next((node for node in reversed(self.region) if _is_linear(self.row(node))), None)

    @property
    def windows(self) -> list[fx.Node]:
        """The fully connected layers that read a flattened map of more than one unit."""
        return [
            node
            for node in self.region
            for source in node.all_input_nodes
            if dict(flattened := self.walk.positions.get(source, Positions()).flattened)
            and _is_linear(self.row(node))
            and dict(flattened)["H"] * dict(flattened)["W"] > 1
        ]


def ways_to(target: fx.Node, found: Walk) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the nodes that ``target`` is computed from, and those of them that every way to it passes."""
    places = {node: index for index, node in enumerate(target.graph.nodes) if node in found.positions}
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


def stride_of(positions: Positions) -> Fraction | None:
    """Return the stride of a map if it is the same along rows and columns."""
    rows, columns = positions.stride
    return rows if rows == columns and positions.is_map else None


def given_maps(recorded: fx.GraphModule, found: Walk) -> dict[Fraction, fx.Node]:
    """Return the maps by stride of a network that gives several maps, as timm's ``features_only`` does, not scores."""
    given = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    if isinstance(given, Mapping):
        given = () if set(given) & set(SCORES) else tuple(given.values())
    if not isinstance(given, tuple | list) or not all(isinstance(node, fx.Node) for node in given):
        return {}
    strides = [stride_of(found.positions.get(node, Positions())) for node in given]
    if None in strides or len(set(strides)) < len(strides) or not all(len(shape_of(node)) == 4 for node in given):
        return {}
    return {stride: node for stride, node in zip(strides, given, strict=True) if stride is not None}


def _scores(recorded: fx.GraphModule) -> fx.Node:
    given = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    if isinstance(given, Mapping):
        given = next((given[name] for name in SCORES if name in given), None)
    if isinstance(given, tuple | list):
        given = given[0] if given else None
    if not isinstance(given, fx.Node):
        raise NotFollowed("the network gives no tensor of scores")
    return given


def _is_linear(row: Operation | None) -> bool:
    return row is not None and row.head == "linear"
