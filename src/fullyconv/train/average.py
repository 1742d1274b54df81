"""What a run delivers: the mean of the weights it has passed through, and batch statistics that fit them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from fullyconv.machine import evaluating
from fullyconv.train.team import ALONE, Team

BatchNorm = nn.modules.batchnorm._BatchNorm


class Average:
    """An exponential moving average of a network's weights (Polyak averaging), as a network of its own.

    It is validated and delivered in the trained network's place; the noise of the last updates averages out.

    Args:
        network: The network to follow.
        decay: The share of the old average that an update keeps, 0..1; in the first updates less is kept
            ((1 + n) / (10 + n) after n), so that the average forgets where it started.

    >>> live = nn.Linear(1, 1)
    >>> average = Average(live, decay=0.5)
    >>> _ = live.weight.data.add_(1)
    >>> average.follow(live, updates=100)
    >>> round(float(live.weight.detach() - average.network.weight), 6)
    0.5
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: nn.Module, updates: int) -> None:
        """Move towards the weights of ``network``, which has made ``updates`` so far; counters are copied."""
        kept = min(self.decay, (1 + updates) / (10 + updates))
        old, new = self.network.state_dict(), network.state_dict()
        floats = [name for name, tensor in old.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([old[name] for name in floats], [new[name] for name in floats], 1 - kept)
        for name in old.keys() - set(floats):
            old[name].copy_(new[name])


def measure_statistics(network: nn.Module, batches: Iterable[Tensor], team: Team = ALONE) -> int:
    """Measure the batch statistics of normalisation layers anew: those of all batches together, exactly.

    Running averages lag behind the weights, by hundreds of updates where a layer's momentum is 0.01, and do not belong
    to averaged weights at all ("precise" statistics: Wu and Johnson 2021, section 3). Layers see what they see
    in training, batches normalised by themselves; dropout is off. Frozen layers (no trainable parameter in a
    network that has some) keep theirs.

    Args:
        network: Its layers' ``running_mean`` and ``running_var`` are changed in place.
        batches: N x K x H x W each, normalised; at least one in all processes.
        team: The processes, each of which has other batches.

    Returns:
        The number of layers that were measured.

    >>> layer = nn.BatchNorm2d(1)
    >>> measure_statistics(layer, [torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])
    1
    >>> layer.running_mean.item(), round(layer.running_var.item(), 4)
    (0.5, 0.2857)
    """
    layers = _measurable(network)
    sums: dict[nn.Module, list[Tensor]] = {}
    hooks = [layer.register_forward_pre_hook(partial(_add, sums)) for layer in layers]
    kept = {layer: (layer.running_mean.clone(), layer.running_var.clone()) for layer in layers}  # type: ignore[union-attr]
    seen = {layer: layer.num_batches_tracked.clone() for layer in layers if layer.num_batches_tracked is not None}
    try:
        with evaluating(network, kept=True):
            for layer in layers:
                layer.train()
            for batch in batches:
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    measured = 0
    for layer in layers:
        mean, variance = kept[layer]
        count, total, squares = _over_all(sums.get(layer), mean, team)
        if count > 0:
            measured += 1
            mean = total / count
            variance = (squares / count - mean**2).clamp(min=0) * (count / (count - 1).clamp(min=1))
        if layer.num_batches_tracked is not None:
            before = seen[layer]
            layer.num_batches_tracked.copy_(before + team.add(layer.num_batches_tracked - before))
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_(variance)  # type: ignore[union-attr]
    return measured


def _over_all(sums: list[Tensor] | None, like: Tensor, team: Team) -> list[Tensor]:
    """Add up the sums of all processes, of which some may have seen no batch."""
    channels = len(like)
    own = like.new_zeros(1 + 2 * channels, dtype=torch.float64)
    if sums is not None:
        own = torch.cat([each.to(own).reshape(-1) for each in sums])
    return list(torch.split(team.add(own), [1, channels, channels]))


def lagging(network: nn.Module, *, momentum: float = 0.05) -> bool:
    """Return whether running averages lag: a layer's momentum is lower than PyTorch's usual 0.1 by half and more.

    >>> lagging(nn.BatchNorm2d(3)), lagging(nn.BatchNorm2d(3, momentum=0.01))
    (False, True)
    """
    return any(layer.momentum is not None and layer.momentum < momentum for layer in _measurable(network))


def _measurable(network: nn.Module) -> list[BatchNorm]:
    layers = [layer for layer in network.modules() if isinstance(layer, BatchNorm) and layer.running_mean is not None]
    trains = any(parameter.requires_grad for parameter in network.parameters())
    return [layer for layer in layers if not trains or any(weight.requires_grad for weight in layer.parameters())]


def _add(sums: dict[nn.Module, list[Tensor]], layer: nn.Module, given: tuple[Tensor, ...]) -> None:
    """Add up what a layer is about to normalise: how many values per channel, their sum, their squares' sum."""
    values = given[0].detach().transpose(0, 1).flatten(1).double()
    found = [torch.tensor(float(values.shape[1])), values.sum(1), values.square().sum(1)]
    before = sums.get(layer)
    sums[layer] = found if before is None else [old + new for old, new in zip(before, found, strict=True)]
