"""Where every tensor of a recorded network looks.

Each operation on a map has one rule: those that move a window in ``windows``, those that move axes in ``axes``,
the rest here. Maps may be transposed, split into groups of channels, flattened and restored; what mixes positions
that no window bounds (attention, fully connected layers over positions) is an error that names the operation and
its module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from torch import fx, nn

from fullyconv.geometry import Path, Window, axis_map, size
from fullyconv.trace import axes, layers, windows
from fullyconv.trace.nodes import SHAPE, operation
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Positions, Trail, Walk
from fullyconv.trace.record import is_noise

Rule = Callable[[Call], Positions]


def _pointwise(call: Call) -> Positions:
    """Join all maps, which must lie on one grid; the one that sees most stands for all."""
    found = [call.walk.positions[node] for node in call.sources]
    placed = [each for each in found if each.axes]
    if not placed:
        return found[0] if found[0].flattened else POOLED
    if len(placed) < len(found):
        call.remark("global", "sees the whole picture at every position")
    first = placed[0]
    if any(set(each.axes) != set(first.axes) for each in placed):
        raise call.refuse("joins maps whose rows and columns are different axes")
    rows, columns = (_join([each.trails[axis] for each in placed], call, axis) for axis in (ROWS, COLUMNS))
    return replace(first, trails=(rows, columns))


def _join(trails: list[Trail], call: Call, axis: int) -> Trail:
    if len({trail.line.scale for trail in trails}) > 1:
        strides = ", ".join(str(trail.line.scale) for trail in trails)
        raise call.refuse(f"joins maps that are not aligned: their strides are {strides} px")
    widest = max(trails, key=lambda trail: trail.line.field)
    if any(_rounds_apart(trail.path, widest.path) for trail in trails):
        call.require(axis, widest.line.scale)
    line = widest.line
    if len({trail.line.shift for trail in trails}) > 1:
        apart = max(abs(trail.line.shift - line.shift) for trail in trails)
        call.remark("misaligned", f"joins maps {float(apart):g} px apart; alignment follows the one that sees most")
    # What the others see beyond it, on either side.
    extra = max(abs(trail.line.shift - line.shift) + trail.line.reach - line.reach for trail in trails)
    margin = ceil(extra / line.scale)
    return widest.then(Window(2 * margin + 1, pad=margin)) if margin > 0 else widest


def _rounds_apart(first: Path, second: Path) -> bool:
    """Return whether two branches come to different numbers of units for some size."""
    shared = next((index for index, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    if shared is None:
        shared = min(len(first), len(second))
    ends = first[shared:], second[shared:]
    step = max(ceil(axis_map(end).scale) for end in ends)
    longest = sum(layer.axis_map().field for end in ends for layer in end)
    start = step * ceil(longest / step)
    return any(size(ends[0], units) != size(ends[1], units) for units in range(start, start + 2 * step))


def _cat(call: Call) -> Positions:
    joined, new = _pointwise(call), call.from_end(call.argument(1, "dim", 0), len(call.shape))
    if call.name == "stack":
        return joined.moved(lambda axis: axis if axis > new else axis - 1)
    if new in joined.axes:
        what = "adds tokens to the positions" if new == joined.flat else "puts maps one after the other"
        raise call.refuse(f"{what}, which then no longer are a map")
    return joined


def _reduce(call: Call) -> Positions:
    """Follow a mean, sum or maximum over some axes."""
    given = call.argument(1, "dim")
    every = range(-len(call.before), 0)
    asked = every if given is None else (given if isinstance(given, tuple | list) else (given,))
    reduced, source = {call.from_end(axis) for axis in asked}, call.source
    if reduced >= set(source.axes):
        return POOLED
    if reduced & set(source.axes):
        raise call.refuse("reduces one of rows and columns and keeps the other")
    if len(call.shape) == len(call.before):
        return source
    return source.moved(lambda axis: axis + sum(other > axis for other in reduced))


def _softmax(call: Call) -> Positions:
    if call.from_end(call.argument(1, "dim", -1)) in call.source.axes:
        call.remark("global", "weighs all positions against each other")
    return call.source


def _layer_norm(call: Call) -> Positions:
    shape = call.argument(1, "normalized_shape", ())
    if any(axis >= -len(shape) for axis in call.source.axes):
        call.remark("global", "normalises over all positions")
    return call.source


def _spatial_norm(call: Call) -> Positions:
    if call.source.axes:
        call.remark("global", "normalises over all positions")
    return call.source


def _linear(call: Call) -> Positions:
    if call.source.flattened:
        return POOLED
    if -1 in call.source.axes:
        raise call.refuse("is fully connected over positions")
    return call.source


def _product(call: Call) -> Positions:
    """Follow a matrix product: over channels it acts on each position, over positions it is global."""
    first, second = (call.walk.positions.get(node) if isinstance(node, fx.Node) else None for node in call.node.args)
    left, right = first.axes if first else (), second.axes if second else ()
    if not left and not right:
        return POOLED
    if -1 in left and -2 in right:
        if len(left) + len(right) > 2:
            raise call.refuse("sums over rows or columns of a map")
        call.remark("global", "sums over all positions")
        return POOLED
    if -1 in left or -2 in right:
        raise call.refuse("is fully connected over positions")
    if left and right:
        raise call.refuse("is attention: it compares positions with positions")
    if first is not None and second is not None:
        call.remark("global", "sees the whole picture at every position")
    return call.walk.positions[call.node.args[0 if left else 1]]  # type: ignore[index]


def _attention(call: Call) -> Positions:
    if any(call.walk.positions[source].axes for source in call.sources):
        raise call.refuse("is attention: it compares positions with positions")
    return POOLED


def _expand(call: Call) -> Positions:
    return call.walk.positions.get(call.node.all_input_nodes[0], POOLED)


POINTWISE = (
    "abs", "add", "addcmul", "alpha_dropout", "batch_norm", "clamp", "clamp_min", "clone", "contiguous", "detach",
    "div", "dropout", "dropout1d", "dropout2d", "elu", "erf", "exp", "feature_dropout", "float", "gelu", "getattr",
    "half", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "lerp", "local_response_norm", "log", "maximum",
    "minimum", "mish", "mul", "neg", "pow", "prelu", "reciprocal", "relu", "relu6", "rrelu", "rsqrt", "rsub",
    "selu", "sigmoid", "sign", "silu", "softplus", "sqrt", "square", "stochastic_depth", "sub", "tanh", "threshold",
    "to", "true_divide", "truediv", "type", "type_as", "where",
)  # fmt: skip

FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "var", "std", "norm"), _reduce),
    **dict.fromkeys(("softmax", "log_softmax", "normalize"), _softmax),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("group_norm", "instance_norm"), _spatial_norm),
    **dict.fromkeys(("cat", "concat", "stack"), _cat),
    **dict.fromkeys(("matmul", "bmm"), _product),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), windows.pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), windows.adaptive),
    **dict.fromkeys(("sliding_mean", "sliding_max"), windows.sliding),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), windows.shuffle),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unbind"), axes.split),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten"), axes.reshape),
    **dict.fromkeys(("transpose", "swapaxes"), axes.transpose),
    "conv2d": windows.conv,
    "pad": windows.pad,
    "interpolate": windows.resize,
    "permute": axes.permute,
    "movedim": axes.movedim,
    "unsqueeze": axes.unsqueeze,
    "squeeze": axes.squeeze,
    "getitem": axes.item,
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
}

LAYERS: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((*layers.WINDOWED, nn.ConvTranspose2d), windows.layer),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), windows.adaptive),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d), windows.resize),
    **dict.fromkeys((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d), windows.pad),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle), windows.shuffle),
    **dict.fromkeys((nn.GroupNorm, nn.InstanceNorm2d), _spatial_norm),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), axes.reshape),
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Softmax: _softmax,
}


def is_pointwise(node: fx.Node, layer: nn.Module | None) -> bool:
    """Return whether an operation answers each unit from that unit alone (of each of its arguments)."""
    if layer is None:
        return operation(node) in (*POINTWISE, "cat")
    return isinstance(layer, layers.POINTWISE) or is_noise(layer)


def layer_of(recorded: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return recorded.get_submodule(str(node.target)) if node.op == "call_module" else None


def walk(recorded: fx.GraphModule) -> Walk:
    """Follow the picture through a recorded network; raises ``NotFollowed`` naming what cannot be followed."""
    found = Walk()
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            found.positions[node] = Positions(rows=-2, columns=-1)
        elif node.op not in ("output", "get_attr") and SHAPE in node.meta:
            call = Call(node, operation(node), layer_of(recorded, node), found)
            if call.sources:
                found.positions[node] = _follow(call)
    return found


def _follow(call: Call) -> Positions:
    if is_pointwise(call.node, call.layer) and call.name != "cat":
        return _pointwise(call)
    rule = FUNCTIONS.get(call.name) if call.layer is None else LAYERS.get(type(call.layer))
    if rule is None:
        if any(call.walk.positions[source].axes for source in call.sources):
            raise call.refuse("how this operation treats positions is not known")
        return POOLED  # whatever happens to a vector, it has no positions
    try:
        return rule(call)
    except (LookupError, TypeError, ArithmeticError):
        raise call.refuse("this use of the operation is not understood") from None
