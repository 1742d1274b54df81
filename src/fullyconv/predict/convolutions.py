"""Every convolution of a recorded network as a layer of its own, the zeros before it among its padding.

Libraries that pad by the picture's size (TensorFlow's "same") compute their convolutions by the function, behind a
padding that differs from side to side. oneDNN's convolution pads both sides alike: a kernel that has a row of zeros
more reads the same pixels from there.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.trace.frames import pair
from fullyconv.trace.operations import BY_SPELLING, CONVOLUTION, operation
from fullyconv.trace.positions import Given
from fullyconv.trace.walking import layer_of
from fullyconv.trace.windows import padding

PAD = BY_SPELLING["pad"]


def as_layers(recorded: fx.GraphModule) -> None:
    """Write a network's convolutions as layers, in place.

    Args:
        recorded: The network; it computes the same afterwards.
    """
    for node in list(recorded.graph.nodes):
        if node.op == "call_function" and operation(node, None) is CONVOLUTION:
            made = _layer(recorded, Given.of(node, None))
            if made is not None:
                _call(recorded, node, made)
        layer = layer_of(recorded, node)
        if layer is not None and is_packable(layer):
            _pad_within(recorded, node, cast("nn.Conv2d", layer))
    recorded.graph.eliminate_dead_code()


def is_packable(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution as PyTorch defines it, padded by zeros alike on both sides."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and type(layer)._conv_forward is nn.Conv2d._conv_forward
        and layer.padding_mode == "zeros"
        and layer.padding != "same"
    )


def _layer(recorded: fx.GraphModule, given: Given) -> nn.Conv2d | None:
    """Return a convolution's layer; ``None`` where its weights or settings are computed."""
    weight, bias = _tensor(recorded, given.argument(1, "weight")), _tensor(recorded, given.argument(2, "bias"))
    settings = [given.argument(index, name, usual) for index, (name, usual) in enumerate(SETTINGS.items(), start=3)]
    if weight is None or (bias is None and given.argument(2, "bias") is not None) or not _are_constant(settings):
        return None
    stride, sides, dilation, groups = settings
    filters, inputs = weight.shape[:2]
    layer = nn.Conv2d(inputs * groups, filters, 1, stride, sides, dilation, groups, device="meta")
    return _with(layer, weight, bias)


SETTINGS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _tensor(recorded: fx.GraphModule, given: Any) -> Tensor | None:
    """Return a tensor that the network has."""
    if not isinstance(given, fx.Node) or given.op != "get_attr":
        return None
    path, _, name = str(given.target).rpartition(".")
    found = getattr(recorded.get_submodule(path), name)
    return found if isinstance(found, Tensor) else None


def _are_constant(settings: list[Any]) -> bool:
    numbers = [each for setting in settings for each in (setting if isinstance(setting, tuple | list) else [setting])]
    return all(isinstance(each, int | str) for each in numbers)


def padding_of(layer: nn.Conv2d) -> tuple[int, int]:
    """Return how many rows and columns of zeros a packable convolution puts on either side."""
    return (0, 0) if isinstance(layer.padding, str) else cast("tuple[int, int]", layer.padding)


def _with(layer: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    layer.kernel_size = pair(tuple(weight.shape[2:]))
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def _call(recorded: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    """Let a layer compute a node."""
    name = f"layer_{node.name}"
    recorded.add_submodule(name, layer)
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (node.args[0] if node.args else node.kwargs["input"],), {}


def _pad_within(recorded: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    """Let a convolution pad what was padded before it with zeros, one row or column more on one side at most."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or operation(before, layer_of(recorded, before)) is not PAD:
        return
    zeros = _zeros(Given.of(before, layer_of(recorded, before)))
    if zeros is None or len(before.users) > 1:
        return
    sides, added = [], []  # of rows, of columns: what is padded, and what the kernel gets before and after its taps
    for axis, own, spread in zip((-2, -1), padding_of(layer), layer.dilation, strict=True):
        first, last = (own + side for side in zeros.get(axis, (0, 0)))
        if abs(first - last) not in (0, spread):
            return
        sides.append(max(first, last))
        added.append((int(first < last), int(first > last)))
    (above, below), (left, right) = added
    weight = functional.pad(layer.weight, (left, right, above, below)) if any(map(any, added)) else layer.weight
    shape = layer.in_channels, layer.out_channels, 1
    wider = nn.Conv2d(*shape, pair(layer.stride), pair(sides), pair(layer.dilation), layer.groups, device="meta")
    source = before.args[0] if before.args else before.kwargs["input"]
    node.replace_input_with(before, cast("fx.Node", source))
    _call(recorded, node, _with(wider, weight, layer.bias))


def _zeros(given: Given) -> dict[int, tuple[int, int]] | None:
    """Return how many zeros are put before and after each axis, counted from the end; ``None`` where it is not that."""
    if not _are_constant([given.argument(1, "pad", 0)]):
        return None
    ends, mode = padding(given)
    amounts = [each for sides in ends.values() for each in sides]
    plain = mode == "constant" and not given.argument(3, "value") and set(ends) <= {-1, -2} and min(amounts) >= 0
    return ends if plain else None
