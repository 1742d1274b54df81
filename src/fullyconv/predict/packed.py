"""A network's score maps by oneDNN's convolutions: weights packed once, what follows done in registers.

Written over the recorded graph: a batch normalisation is folded into the convolution before it, and the sum with
another map and the activation that follow are computed by the convolution. Every other operation runs as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullyconv.networks.fcn import FCN
from fullyconv.predict.carry import Carry, Keep
from fullyconv.predict.convolutions import as_layers, is_packable
from fullyconv.predict.frame import frame
from fullyconv.predict.onednn import PackedConvolution, can_pack
from fullyconv.predict.rounding import round_to_sums
from fullyconv.predict.streamed import NotStreamed, Streamed, stream
from fullyconv.surgery.trunk import ClassifierTrunk
from fullyconv.trace import NotFollowed, record
from fullyconv.trace.activations import Activation
from fullyconv.trace.nodes import SHAPE, spelling
from fullyconv.trace.operations import BY_SPELLING, operation, row_of
from fullyconv.trace.positions import Given
from fullyconv.trace.recording import usual_size
from fullyconv.trace.walking import layer_of

SAME = 1e-4  # of a map's largest score: how far rounding may carry


class Scored(nn.Module):
    """The score maps of a network, of pictures that have their margin; what is recorded."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network, self.in_channels = network, network.in_channels
        sides = zip(usual_size(network.trunk), network.smallest_input, strict=True)
        self.example = self._padded(*map(max, sides))

    def _padded(self, *sides: int) -> tuple[int, int, int]:
        rows, columns = (side + sum(plan.padding(side)) for side, plan in zip(sides, self.network.plans, strict=True))
        return self.in_channels, rows, columns

    def other_sizes(self) -> list[tuple[int, int, int]]:
        """Return sizes at which a network of someone else's that decides by the size is likely to decide otherwise."""
        if all(isinstance(trunk, ClassifierTrunk) or _is_ours(trunk) for trunk in self.network.streams.values()):
            return []
        height, width = self.example[1:]
        return [self._padded(height + 13, width + 6), self._padded(height + 70, width + 133)]

    def forward(self, padded: Tensor) -> tuple[Tensor, ...]:
        """Score the maps of all tasks."""
        return tuple(self.network.every_scored(padded))


def pack(network: FCN, kind: torch.dtype) -> nn.Module | None:
    """Write a network's score maps with packed convolutions.

    Args:
        network: A float32 network in evaluation mode on the CPU that nobody else changes.
        kind: float32, or bfloat16; the score layers compute in float32.

    Returns:
        N x K x H x W pictures with their margin -> the maps of ``FCN.every_scored``; ``None`` where the
        network must run as it is: the machine lacks the kernels, hooks want to see every layer, or what it does
        changes with the size of the pictures.
    """
    try:
        recorded = recorded_scores(network) if _is_packable_network(network, kind) else None
    except NotFollowed:
        return None
    if recorded is None:
        return None
    layers = [layer for bank in network.score_layers.values() for layer in bank]
    parts = frame(recorded, network.plans)
    with torch.inference_mode():
        if parts is None:
            return Packer(recorded, kind, scores=layers).run()
        shallow = Packer(parts.shallow, kind, scores=layers).run()
        return parts.with_parts(shallow, Packer(parts.deep, kind, scores=layers, sees_pixels=False).run())


def recorded_scores(network: FCN) -> fx.GraphModule:
    """Record what gives a network's score maps, for pictures of every size.

    Raises:
        NotFollowed: Also where what it does changes with the size of the pictures.
    """
    scored = Scored(network)
    recorded = record(scored)
    if any(_text(record(scored, size)) != _text(recorded) for size in scored.other_sizes()):
        raise NotFollowed(f"{type(network.trunk).__name__}: what it does changes with the size of the picture")
    return recorded


def flowing(network: FCN, kind: torch.dtype) -> Streamed:
    """Write a network's score maps for pictures that come in bands of rows, with packed convolutions where possible.

    It is run on a picture of noise first, in one pass and in bands, which must give the same scores.

    Args:
        network: In evaluation mode; nobody else changes it.
        kind: As for ``pack``.

    Returns:
        (N x K x h x w rows of pictures with their margin, ``Flow``) -> the rows of each map of ``FCN.every_scored``.

    Raises:
        NotStreamed: For what sees the whole picture, or otherwise cannot be computed in bands.
        NotFollowed: For what cannot be recorded.
    """
    streamed = stream(recorded_scores(network))
    _check_bands(network, streamed)
    if _is_packable_network(network, kind):
        layers = [layer for bank in network.score_layers.values() for layer in bank]
        with torch.inference_mode():
            Packer(streamed.graph, kind, scores=layers).run()
    return streamed


def _check_bands(network: FCN, streamed: Streamed) -> None:
    """Refuse what computes something else in bands than in one pass."""
    like = next(network.parameters())
    height = streamed.first + 2 * streamed.align + 5
    width = max(network.smallest_input[1], 2 * network.plans[1].stride) + 3
    noise = torch.Generator().manual_seed(0)
    picture = torch.randn(1, network.in_channels, height, width, generator=noise).to(like)
    with torch.inference_mode():
        padded = network.padded(picture)
        wanted = network.every_scored(padded)
        try:
            found = streamed.run(padded, 1)
        except (RuntimeError, ValueError) as error:
            raise NotStreamed(f"this network does not run in bands of rows: {error}") from error
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or not float((one - other).abs().max()) <= SAME * float(other.abs().max()):
            raise NotStreamed("this network gives other scores in bands of rows")


def _is_packable_network(network: FCN, kind: torch.dtype) -> bool:
    """Return whether the machine has the kernels, and nobody wants to see the layers run."""
    tensors = [*network.parameters(), *network.buffers()]
    if any(each.is_inference() or (each.is_floating_point() and each.dtype != torch.float32) for each in tensors):
        return False
    if any(each.device.type != "cpu" for each in tensors) or any(map(_hooked, network.modules())):
        return False
    return can_pack(kind) and can_pack(torch.float32)


def _is_ours(trunk: nn.Module) -> bool:
    return type(trunk).__module__.startswith("fullyconv.networks.trunks.")


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _text(recorded: fx.GraphModule) -> str:
    return str(recorded.graph)


class Packer:
    """Writes packed convolutions into the graph of a recorded network.

    Args:
        recorded: The network; it is changed.
        kind: What the convolutions read and write.
        scores: The layers that read and write float32.
        sees_pixels: Whether what it reads are pixels.
    """

    def __init__(
        self, recorded: fx.GraphModule, kind: torch.dtype, *, scores: list[nn.Module], sees_pixels: bool = True
    ) -> None:
        self.recorded, self.graph, self.kind, self.sees_pixels = recorded, recorded.graph, kind, sees_pixels
        self.scores = set(map(id, scores))

    def run(self) -> fx.GraphModule:
        """Write all of them and return the network."""
        as_layers(self.recorded)
        for node in self.graph.nodes:
            layer = self._layer(node)
            row = operation(node, layer)
            if layer is not None and not layer.training and row is not None and row.role in ("drop", "idle"):
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
        for node in list(self.graph.nodes):
            layer = self._layer(node)
            if layer is not None and is_packable(layer):
                self._pack(node, cast("nn.Conv2d", layer))
            elif self.kind == torch.bfloat16 and operation(node, layer) is SPREAD and _groups(node, layer) > 1:
                self._replace(node, InFloat32(cast("Callable[..., Tensor]", layer or node.target)))
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and self.kind == torch.bfloat16:
                self._replace(node, copy.deepcopy(layer).to(self.kind))
        self.recorded.delete_all_unused_submodules()
        self.recorded.recompile()
        return self.recorded

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return layer_of(self.recorded, node)

    def _reads_pixels(self, node: fx.Node) -> bool:
        """Return whether a node is the picture, or some rows of it."""
        while isinstance(self._layer(node), Carry | Keep):
            node = cast("fx.Node", node.args[0])
        return node.op == "placeholder"

    def _replace(self, node: fx.Node, layer: nn.Module) -> None:
        self.recorded.add_submodule(f"own_{node.name}", layer)
        node.op, node.target = "call_module", f"own_{node.name}"

    def _pack(self, node: fx.Node, layer: nn.Conv2d) -> None:
        """Put one step in the place of a convolution and of what follows it."""
        chain, activation, other = [node], None, None
        weight, bias = layer.weight, layer.bias
        norm = self._next(node)
        if norm is not None and (found := self._affine(norm)) is not None:
            scale, shift, activation = found
            weight, bias = _folded(weight, bias, scale, shift)
            chain.append(norm)
        if activation is None and (joined := self._next(chain[-1])) is not None:
            other = self._summand(node, chain[-1], joined)
            chain += [joined] if other is not None else []
        if activation is None and (follows := self._next(chain[-1])) is not None:
            activation = self._activation(follows)
            if other is not None and activation != Activation("relu"):
                activation = None  # PyTorch has no other behind a sum
            chain += [follows] if activation is not None else []
        kind = torch.float32 if id(layer) in self.scores else self.kind
        bias = None if bias is None else bias.detach().float()
        weight = weight.detach()
        if kind == torch.bfloat16 and self.sees_pixels and self._reads_pixels(cast("fx.Node", node.args[0])):
            weight = torch.from_numpy(round_to_sums(weight.numpy()))
        packed = PackedConvolution(layer, weight, bias, kind, activation)
        place = node if other is None else joined
        with self.graph.inserting_before(place):
            name = f"packed_{node.name}"
            self.recorded.add_submodule(name, packed)
            made = self.graph.call_module(name, (node.args[0],) if other is None else (node.args[0], other))
        made.meta[SHAPE] = chain[-1].meta[SHAPE]
        chain[-1].replace_all_uses_with(made)
        for each in reversed(chain):
            self.graph.erase_node(each)

    def _next(self, node: fx.Node) -> fx.Node | None:
        """Return what alone uses a result."""
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].op != "output" else None

    def _affine(self, node: fx.Node) -> tuple[Tensor, Tensor, Activation | None] | None:
        """Read a batch normalisation as a scale, a shift and an activation."""
        norm = self._layer(node)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None or norm.training:
            return None
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        shift = shift if norm.bias is None else shift + norm.bias.double()
        if type(norm).forward is _BatchNorm.forward:
            return scale, shift, None
        # Libraries have layers that normalise and activate: believed only where they compute just that.
        act = getattr(norm, "act", None)
        row = row_of(act) if isinstance(act, nn.Module) else None
        if act is None or row is None or (row.fused is None and row.role != "idle"):
            return None
        probe = torch.linspace(-3, 3, 4 * len(scale)).view(1, len(scale), 2, 2)
        expected = act((probe * scale[:, None, None] + shift[:, None, None]).float())
        if not torch.allclose(norm(probe), expected, rtol=1e-4, atol=1e-5):
            return None
        return scale, shift, None if row.fused is None else row.fused(Given((), {}, act))

    def _activation(self, node: fx.Node) -> Activation | None:
        layer = self._layer(node)
        row = operation(node, layer)
        return None if row is None or row.fused is None else row.fused(Given.of(node, layer))

    def _summand(self, conv: fx.Node, result: fx.Node, node: fx.Node) -> fx.Node | None:
        """Return what a sum adds to a convolution's result, if that can be done where the sum stands."""
        if operation(node, self._layer(node)) is not SUM or len(node.args) != 2 or node.kwargs:
            return None
        first, second = node.args
        other = second if first is result else first
        if not isinstance(other, fx.Node) or other is result or other.meta.get(SHAPE) != result.meta[SHAPE]:
            return None
        if _in_place(node, None) and first is other and len(other.users) > 1:
            return None
        between = conv.next
        while between is not node:
            if _in_place(between, self._layer(between)) and not self._fresh(between.args[0]):
                return None
            between = between.next
        return other

    def _fresh(self, given: object) -> bool:
        """Return whether a tensor is nobody else's, so that changing it in place changes no other."""
        return isinstance(given, fx.Node) and len(given.users) == 1 and isinstance(self._layer(given), COMPUTING)


class InFloat32(nn.Module):
    """An operation in float32, whatever it is given: bfloat16 has no fast transposed convolution by channel.

    Three of them took 4.7 of 19 ms, and 0.6 so.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, features: Tensor, *given: object, **settings: object) -> Tensor:
        """Compute it."""
        with torch.autocast("cpu", enabled=False):
            return self.compute(features.float(), *given, **settings)


SUM, SPREAD = BY_SPELLING["add"], BY_SPELLING["conv_transpose2d"]
COMPUTING = (PackedConvolution, nn.Conv2d, nn.Linear, _BatchNorm)


def _groups(node: fx.Node, layer: nn.Module | None) -> int:
    return int(Given.of(node, layer).argument(6, "groups", 1))


def _folded(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Fold what normalises a convolution's results into its weights."""
    shift = shift if bias is None else shift + bias.double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), shift.float()


def _in_place(node: fx.Node, layer: nn.Module | None) -> bool:
    """Return whether an operation may change its first argument."""
    if layer is not None:
        return bool(getattr(layer, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    dunder = name.startswith("__")
    return (
        (name.endswith("_") and not dunder)
        or name.startswith("__i")
        or (not isinstance(node.target, str) and name.startswith("i") and spelling(node) in SUM.spellings)
        or node.kwargs.get("inplace") is True
        or any(each is True for each in node.args[1:])
    )
