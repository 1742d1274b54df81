"""Recording a network: what it takes, what is recorded of it, and what a recording keeps of the network."""

from __future__ import annotations

import copy
from collections import OrderedDict
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from fullyconv.machine import evaluating
from fullyconv.trace.positions import NotFollowed
from fullyconv.trace.recorder import Recorder, is_leaf
from fullyconv.trace.settle import settle

USUAL_SIDE = 224
BATCH = 2  # a batch of one would be taken for any other axis of length 1


def input_channels(network: nn.Module) -> int:
    """Return the channels that a network reads: those it states, else those of its first convolution.

    Args:
        network: A network of pictures.

    Returns:
        The number of channels; 3 where nothing says.

    >>> input_channels(nn.Sequential(nn.Conv2d(5, 8, 3)))
    5
    """
    stated = getattr(network, "in_channels", None)
    if isinstance(stated, int):
        return stated
    return next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)


def usual_size(network: nn.Module) -> tuple[int, int]:
    """Return a height and width that a network takes: those it states, else 224 x 224."""
    stated = getattr(network, "example", None)
    return (int(stated[1]), int(stated[2])) if isinstance(stated, tuple) else (USUAL_SIDE, USUAL_SIDE)


def record(network: nn.Module, example: tuple[int, int, int] | None = None, *, hooks: bool = False) -> fx.GraphModule:
    """Record what a network does with N x C x H x W pictures, in evaluation mode.

    Args:
        network: The network.
        example: (C, H, W), a size that it takes; default: what it states itself, or 224 x 224 pixels of as many
            channels as its first convolution reads.
        hooks: Record hooks of layers as the operations they are; the graph has copies of these layers without them.
            Otherwise hooks stay on the layers.

    Returns:
        A graph that shares the network's modules and parameters, under their names; ``meta`` of its nodes has the
        shapes and the path of the module they came from.

    Raises:
        NotFollowed: Naming the operation where the network cannot be run so.

    >>> recorded = record(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
    >>> [node.target for node in recorded.graph.nodes]
    ['image', '0', '1', 'output']
    """
    example = example or (input_channels(network), *usual_size(network))
    network = nn.Sequential(network) if is_leaf(network) else network
    recorder = Recorder(network, hooks=hooks)
    with evaluating(network, kept=True):
        like = next(network.parameters(), torch.empty(0))
        image = torch.empty(BATCH, *example, device="meta", dtype=like.dtype)
        recorder.bind(image, recorder.graph.placeholder("image"))
        try:
            with recorder.watching_modules(), recorder:
                result = network(image)
        except NotFollowed:
            raise
        except NotImplementedError as error:
            place = recorder.failed or type(network).__name__
            raise NotFollowed(f"{place} ({recorder.called}): the shape of its result depends on its values") from error
        except Exception as error:  # whatever a network of someone else's raises for a size it does not take
            where = f" at {recorder.failed!r} ({recorder.called.strip('_')})" if recorder.failed else ""
            first = shorten((str(error) or type(error).__name__).splitlines()[0], 200)
            raise NotFollowed(f"a picture of {example} does not go through the network{where}: {first}") from error
    outputs = tree_map(lambda each: recorder.node_of(each) if isinstance(each, Tensor) else each, result)
    recorder.graph.output(outputs)
    recorded = fx.GraphModule(_with_constants(network, recorder.constants), recorder.graph, type(network).__name__)
    for name, layer in recorder.hooked.items():
        recorded.add_submodule(name, _without_hooks(layer))
    settle(recorded)
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def _without_hooks(layer: nn.Module) -> nn.Module:
    """Copy a layer that shares its parameters, without its hooks."""
    bare = copy.copy(layer)
    bare._forward_hooks, bare._forward_pre_hooks = OrderedDict(), OrderedDict()
    return bare


def _with_constants(network: nn.Module, constants: dict[str, Tensor]) -> nn.Module | dict[str, Any]:
    """Put the constants beside what the network has, without changing the network."""
    if not constants:
        return network
    root: dict[str, Any] = dict(network.named_modules()) | dict(network.named_parameters())
    root |= dict(network.named_buffers()) | constants
    root.pop("", None)
    return root
