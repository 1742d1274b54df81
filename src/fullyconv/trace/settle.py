"""What a recording settles: padding and pooling by size become those of the example, dropout stays for training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from fullyconv.trace.nodes import FROZEN, SHAPE, VALUE, operation

ADAPTIVE: dict[str, Callable[..., Tensor]] = {
    "adaptive_avg_pool2d": functional.avg_pool2d,
    "adaptive_max_pool2d": functional.max_pool2d,
}
ADAPTIVE_LAYERS: dict[type[nn.Module], str] = {
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool2d",
}


def settle(recorded: fx.GraphModule) -> None:
    """Change a recorded network so that it has one geometry at all sizes, and drops in training what it should."""
    _freeze_padding(recorded)
    _keep_dropout(recorded)
    _freeze_pooling(recorded)


def _freeze_padding(recorded: fx.GraphModule) -> None:
    """Make padding that follows the picture's size that of the example: one network has one geometry."""
    for node in recorded.graph.nodes:
        if node.op in ("call_function", "call_method") and operation(node) == "pad":
            settled = tree_map(lambda each: each.meta[VALUE] if VALUE in getattr(each, "meta", ()) else each, node.args)
            node.meta[FROZEN] = node.meta.get(FROZEN, False) or settled != node.args
            node.args = settled


def _freeze_pooling(recorded: fx.GraphModule) -> None:
    """Return adaptive pooling the window it has at the example's size, unless it is global or has none."""
    for node in list(recorded.graph.nodes):
        layer = recorded.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = operation(node) if layer is None else ADAPTIVE_LAYERS.get(type(layer), "")
        if name not in ADAPTIVE or isinstance(node.meta.get(SHAPE), list):
            continue
        source = node.all_input_nodes[0]
        before, after = source.meta[SHAPE][-2:], node.meta[SHAPE][-2:]
        if after == (1, 1) or before[0] % after[0] or before[1] % after[1]:
            continue
        window = before[0] // after[0], before[1] // after[1]
        pooled = source
        if window != (1, 1):
            with recorded.graph.inserting_before(node):
                pooled = recorded.graph.call_function(ADAPTIVE[name], (source, window, window))
            pooled.meta.update(node.meta)
        node.replace_all_uses_with(pooled)
        recorded.graph.erase_node(node)


def _keep_dropout(recorded: fx.GraphModule) -> None:
    """Make layers of the functions that drop something in training alone, which the recording sees switched off."""
    kinds = {"dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d}
    for node in recorded.graph.nodes:
        if node.op == "call_function" and operation(node) in kinds:
            given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
            if given.get("training", True) is False:
                name = f"_{node.name}"
                recorded.add_submodule(name, kinds[operation(node)](given.get("p", 0.5)))
                node.op, node.target, node.args, node.kwargs = "call_module", name, (given["input"],), {}
