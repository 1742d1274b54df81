"""Which maps of a classifier an FCN scores (paper, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import cast

from torch import fx

from fullyconv.surgery.head import Head, stride_of, ways_to
from fullyconv.trace import NotFollowed, Walk, products
from fullyconv.trace.nodes import PATH, SHAPE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import shape_of
from fullyconv.trace.walking import layer_of


def at_strides(maps: Mapping[Fraction, fx.Node], coarsest: Fraction, finest: int | None) -> list[fx.Node]:
    """Choose one map for each stride from ``coarsest`` down to ``finest``, coarse to fine; both must be there.

    ``None`` goes down to the finest there is.
    """
    strides = sorted((stride for stride in maps if (finest or 1) <= stride <= coarsest), reverse=True)
    if not strides or finest not in (None, strides[-1]):
        known = ", ".join(str(stride) for stride in sorted(maps) if stride > 1)
        raise ValueError(f"the classifier has no map at stride {finest}: it has maps at strides {known}")
    return [maps[stride] for stride in strides]


def last_map(head: Head) -> fx.Node:
    """Find the map that the scores are made of."""
    if not head.maps:
        raise NotFollowed("the classifier has no map before its scores")
    if len(head.maps) > 1 and head.walk.positions[head.source].stride == head.walk.positions[head.maps[-1]].stride:
        return head.source
    return head.maps[-1] if head.last_linear else _before_scores(head)


def map_before(recorded: fx.GraphModule, found: Walk, refused: NotFollowed) -> fx.Node:
    """Find the last map before a head that cannot be followed: one that attends to it, as in CLIP's ResNets.

    Raises ``refused``, which says what could not be followed, where that is no head but the network itself: where it
    attends twice, moves windows afterwards, or has as many layers with weights as what comes before.
    """
    rest, seen = [], set(found.positions)
    for node in recorded.graph.nodes:
        if node not in seen and any(source in seen for source in node.all_input_nodes) and node.op != "output":
            seen.add(node)
            rest += [node] if SHAPE in node.meta else []
    rows = [row_of(recorded, node) for node in rest]
    attends = [
        row.positions is products.attention or (row.head == "along" and len(shape_of(node)) > 2)  # softmax, written out
        for node, row in zip(rest, rows, strict=True)
        if row is not None
    ]
    before = [row_of(recorded, node) for node in found.positions]
    convolves = any(row is not None and row.frame is not None for row in rows)
    if convolves or sum(attends) != 1 or _weighted(rows) >= _weighted(before):
        raise refused
    maps = [node for node, each in found.positions.items() if each.is_map and len(shape_of(node)) == 4]
    return next(node for node in reversed(maps) if _is_features(recorded, node))


def row_of(recorded: fx.GraphModule, node: fx.Node) -> Operation | None:
    """Return the row of a node in the table of operations."""
    return operation(node, layer_of(recorded, node))


def _weighted(rows: Sequence[Operation | None]) -> int:
    """Count the operations that have weights: convolutions, matrix products, attention."""
    return sum(
        row is not None and (row.multiply_adds is products.weighted or row.positions is products.attention)
        for row in rows
    )


def by_stride(recorded: fx.GraphModule, found: Walk, coarsest: fx.Node, finest: int | None) -> list[fx.Node]:
    """Choose the last map at each stride that ``coarsest`` is computed from, coarse to fine."""
    ancestors, dominators = (
        {
            stride: node
            for node in nodes
            if (stride := stride_of(found.positions[node])) and _is_features(recorded, node)
        }
        for nodes in ways_to(coarsest, found)
    )
    last = {stride: _choose(found, node, dominators.get(stride)) for stride, node in ancestors.items()}
    start = found.positions[coarsest].stride[0]
    return at_strides({**last, start: coarsest}, start, finest)


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
    scores = row is not None and row.head in ("convolution", "linear")
    order = head.walk.positions[node].channels_first(4)
    wide = shape_of(node)[order[1]] if order is not None else 0
    if scores and wide == shape_of(head.scores)[1] and node.all_input_nodes[0].op != "placeholder":
        return node.all_input_nodes[0]
    return head.maps[-1]


def _is_features(recorded: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a map of features: not pixels, not several, not one with a border put on or cut off."""
    row = row_of(recorded, node)
    frames = row is not None and row.atrous in ("border", "crop")
    return node.op != "placeholder" and isinstance(node.meta[SHAPE], tuple) and len(shape_of(node)) == 4 and not frames


def by_name(recorded: fx.GraphModule, found: Walk, taps: Sequence[str]) -> list[fx.Node]:
    """Find the last map that each of these modules makes, coarse to fine."""
    nodes = []
    for name in taps:
        made = [node for node in found.positions if f"{node.meta.get(PATH, '')}.".startswith(f"{name}.")]
        if not made:
            known = sorted({str(node.meta.get(PATH)) for node in found.positions if node.meta.get(PATH)})
            raise ValueError(f"no module {name!r} to tap: the network has {', '.join(known[:20])}, …")
        if stride_of(found.positions[made[-1]]) is None or len(shape_of(made[-1])) != 4:
            raise ValueError(
                f"{name!r} gives no map to tap but {shape_of(made[-1])}: tap a module that gives N x C x h x w"
            )
        nodes.append(made[-1])
    return sorted(nodes, key=lambda node: cast("Fraction", stride_of(found.positions[node])), reverse=True)
