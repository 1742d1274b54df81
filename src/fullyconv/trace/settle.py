"""What a recording settles: padding and pooling by size become those of the example, dropout stays for training."""

from __future__ import annotations

from typing import cast

from torch import fx, nn
from torch.utils._pytree import tree_map

from fullyconv.trace.nodes import FROZEN, SHAPE, VALUE
from fullyconv.trace.operations import Operation, operation


def settle(recorded: fx.GraphModule) -> None:
    """Change a recorded network so that it has one geometry at all sizes, and drops in training what it should."""
    for node in list(recorded.graph.nodes):
        layer = recorded.get_submodule(str(node.target)) if node.op == "call_module" else None
        row = operation(node, layer)
        if row is None:
            continue
        if row.fixed is not None:
            _freeze_pooling(recorded.graph, node, row)
        elif layer is None and row.atrous == "border":
            _freeze_padding(node)
        elif layer is None and row.role == "drop" and row.layers:
            _keep_dropout(recorded, node, row)


def _freeze_padding(node: fx.Node) -> None:
    """Make padding that follows the picture's size that of the example: one network has one geometry."""

    def settled(each: object) -> object:
        return each.meta[VALUE] if isinstance(each, fx.Node) and VALUE in each.meta else each

    given = node.args, node.kwargs
    node.args, node.kwargs = tree_map(settled, node.args), tree_map(settled, node.kwargs)
    node.meta[FROZEN] = node.meta.get(FROZEN, False) or (node.args, node.kwargs) != given


def _freeze_pooling(graph: fx.Graph, node: fx.Node, row: Operation) -> None:
    """Return adaptive pooling the window it has at the example's size, unless it is global or has none."""
    if isinstance(node.meta.get(SHAPE), list):  # it gives indices, too
        return
    source = node.all_input_nodes[0]
    before, after = source.meta[SHAPE][-2:], node.meta[SHAPE][-2:]
    if after == (1, 1) or before[0] % after[0] or before[1] % after[1]:
        return
    window = before[0] // after[0], before[1] // after[1]
    pooled = source
    if window != (1, 1) and row.fixed is not None:
        with graph.inserting_before(node):
            pooled = graph.call_function(row.fixed, (source, window, window))
        pooled.meta.update(node.meta)
    node.replace_all_uses_with(pooled)
    graph.erase_node(node)


def _keep_dropout(recorded: fx.GraphModule, node: fx.Node, row: Operation) -> None:
    """Make layers of the functions that drop something in training alone, which the recording sees switched off."""
    given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
    if given.get("training", True) is False:
        name, kind = f"_{node.name}", row.layers[0]
        dropout = cast("type[nn.Dropout]", kind)(float(cast("float", given.get("p", 0.5))))
        recorded.add_submodule(name, dropout)
        node.op, node.target, node.args, node.kwargs = "call_module", name, (given["input"],), {}
