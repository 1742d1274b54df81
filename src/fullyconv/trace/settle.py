"""What a recording settles: padding and pooling by size become those of the example, dropout stays for training."""

from __future__ import annotations

from typing import cast

from torch import fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from fullyconv.trace.nodes import FROZEN, SHAPE, VALUE, spelling
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import Given, shape_of


def settle(recorded: fx.GraphModule) -> None:
    """Change a recorded network so that it has one geometry at all sizes, and drops in training what it should."""
    for node in list(recorded.graph.nodes):
        layer = recorded.get_submodule(str(node.target)) if node.op == "call_module" else None
        row = operation(node, layer)
        if row is None:
            continue
        if row.fixed is not None:
            _freeze_pooling(recorded.graph, node, row)
        elif layer is None and row.frame is not None:
            _settle_kernel(node)
        elif row.head == "reduce":
            _join_reductions(node)
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


def _settle_kernel(node: fx.Node) -> None:
    """Make ``avg_pool2d(x, x.shape[2:])``, whose kernel is as large as its map, a pool to a single unit."""
    given = Given.of(node, None)
    source, kernel = given.argument(0, "input"), given.argument(1, "kernel_size")
    sides = tuple(kernel) if isinstance(kernel, tuple | list) else (kernel, kernel)
    pool = getattr(functional, f"adaptive_{spelling(node)}", None)
    if pool is None or not any(isinstance(side, fx.Node) for side in sides):
        return
    lengths = tuple(side.meta.get(VALUE) if isinstance(side, fx.Node) else side for side in sides)
    if (lengths, node.meta[SHAPE][-2:]) == (source.meta[SHAPE][-2:], (1, 1)):
        node.op, node.target, node.args, node.kwargs = "call_function", pool, (source, 1), {}


def _join_reductions(node: fx.Node) -> None:
    """Make ``x.mean(3).mean(2)``, over one axis after the other, one operation over both."""
    inner = node.args[0] if node.args else None
    if not isinstance(inner, fx.Node) or spelling(inner) != spelling(node) or len(inner.users) > 1:
        return
    if spelling(node) not in ("mean", "sum", "amax", "amin"):
        return  # of others, such as a norm, one after the other is something else
    first, second = (_reduced(each) for each in (inner, node))
    if first is None or second is None or first[1] != second[1]:
        return
    left = [axis for axis in range(len(shape_of(cast("fx.Node", inner.args[0])))) if first[1] or axis not in first[0]]
    axes = sorted({*first[0], *(left[axis] for axis in second[0])})
    node.args, node.kwargs = (inner.args[0], axes, first[1]), {}


def _reduced(node: fx.Node) -> tuple[list[int], bool] | None:
    """Return the axes that a reduction takes, counted from the front, and whether it keeps them."""
    given = Given.of(node, None)
    axes, keeps, dims = (
        given.argument(1, "dim"),
        given.argument(2, "keepdim", False),
        len(shape_of(cast("fx.Node", node.args[0]))),
    )
    if axes is None or not {*node.kwargs} <= {"dim", "axis", "keepdim", "keepdims"}:
        return None
    return [axis % dims for axis in (axes if isinstance(axes, tuple | list) else (axes,))], bool(keeps)


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
