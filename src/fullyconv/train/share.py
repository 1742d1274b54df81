"""How processes share an update, and keep it what it would be in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullyconv.train.team import ALONE, Team

Scores = TypeVar("Scores", Tensor, tuple[Tensor, ...])


@dataclass(frozen=True)
class Share:
    """What one process does of each update: some of its batches, or (``parts``) a part of each.

    Args:
        team: The processes.
        parts: Whether batches are cut.

    >>> Share(Team(rank=1, size=2)).of([[0, 1], [2, 3]]), Share(Team(rank=1, size=2), parts=True).of([[0, 1], [2, 3]])
    ([[2, 3]], [[1], [3]])
    """

    team: Team = ALONE
    parts: bool = False

    @classmethod
    def fitting(cls, team: Team, *, batch: int, accumulate: int, together: bool = False) -> Share:
        """Choose how an update of ``accumulate`` batches is shared.

        Whole batches, where they are enough for all: nothing about them changes. Else, or where their statistics are
        to be taken ``together``, a part of each.

        Raises:
            ValueError: If neither comes out even.
        """
        if not together and accumulate % team.size == 0:
            return cls(team)
        if batch % team.size == 0:
            return cls(team, parts=team.size > 1)
        either = "batch" if together else "batch (or accumulate)"
        raise ValueError(
            f"{team.size} processes cannot share updates of {accumulate} x {batch} views evenly: make {either} a "
            f"multiple of {team.size}, or take another number of processes"
        )

    def of(self, batches: Sequence[list[int]]) -> list[list[int]]:
        """Choose this process's share of the batches of an update."""
        rank, size = self.team.rank, self.team.size
        if self.parts:
            return [batch[rank * len(batch) // size : (rank + 1) * len(batch) // size] for batch in batches]
        return list(batches[rank * len(batches) // size : (rank + 1) * len(batches) // size])

    @property
    def words(self) -> str:
        """Say what a process has of an update."""
        return f"1/{self.team.size} of every batch" if self.parts else f"1/{self.team.size} of an update's batches"

    def place(self, index: int, count: int) -> int:
        """Return which batch of the whole update the ``index``-th of ``count`` is that this process has."""
        return index if self.parts else self.team.rank * count + index

    def whole(self, scores: Scores, labels: Tensor) -> tuple[Scores, Tensor]:
        """Return the scores (of several tasks: all) and labels of the whole batch, of which this process has a part."""
        if not self.parts:
            return scores, labels
        found = self.team.whole(scores) if isinstance(scores, Tensor) else tuple(map(self.team.whole, scores))
        return cast("Any", found), self.team.whole(labels)


EVERYTHING = Share()


class Norms:
    """The running averages of batch statistics, kept as one process would have them that took all batches in turn.

    Args:
        network: As it trains; its layers' buffers are changed in place.
        share: How updates are shared.
    """

    def __init__(self, network: nn.Module, share: Share) -> None:
        self._share = share
        self._layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and _averages(layer)]
        self._before: list[list[Tensor]] = []

    def remember(self) -> None:
        """Note the averages before an update."""
        self._before = [[each.clone() for each in _averages(layer)] for layer in self._layers]

    def put_back(self) -> None:
        """Bring back those of before the update, which will not be finished."""
        for layer, before in zip(self._layers, self._before, strict=False):
            for now, then in zip(_averages(layer), before, strict=True):
                now.copy_(then)

    @torch.no_grad()
    def combine(self, batches: int) -> None:
        """Bring together what the processes have seen in an update of so many batches each."""
        moved = [pair for pair in zip(self._layers, self._before, strict=True) if pair[0].training]
        if not moved:
            return
        share, parts, rest = self._share, [], []
        for layer, before in moved:
            own, old = self._weights(layer, before[-1], batches)
            parts += [own * each for each in _averages(layer)[:-1]]
            rest += [old * each for each in before[:-1]]
        together = share.team.add(torch.cat(parts)) + torch.cat(rest)
        averages = [each for layer, _ in moved for each in _averages(layer)[:-1]]
        for now, piece in zip(averages, torch.split(together, [len(each) for each in averages]), strict=True):
            now.copy_(piece)
        for layer, _ in moved:
            _averages(layer)[-1].add_(0 if share.parts else (share.team.size - 1) * batches)

    def _weights(self, layer: _BatchNorm, seen: Tensor, batches: int) -> tuple[float, float]:
        """Return what this process's new average, and the old one, weigh in the average of all.

        With momentum m an average r becomes (1 - m) r + m s by every batch's s: what came of the batches of a process
        counts (1 - m) to the power of the number of batches after its own, once the share of r in it is taken out.
        Without momentum all batches weigh the same.
        """
        rank, size = self._share.team.rank, self._share.team.size
        if self._share.parts:
            return 1 / size, 0.0
        if layer.momentum is None:
            before = int(seen)
            every = before + size * batches
            return (before + batches) / every, before * (1 - size) / every
        kept = (1 - layer.momentum) ** batches
        weights = [kept ** (size - 1 - each) for each in range(size)]
        return weights[rank], kept**size - kept * sum(weights)


def _averages(layer: _BatchNorm) -> list[Tensor]:
    """Return the running mean and variance and the number of batches in them; nothing of a layer that keeps none."""
    found = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    return [each for each in found if each is not None]


class Together(nn.BatchNorm2d):
    """Batch normalisation over the parts of all processes, on CPUs, where PyTorch's ``SyncBatchNorm`` is none.

    Args:
        layer: Has the tensors.
        team: The processes; each gives a part of the batch, all alike in size.
    """

    def __init__(self, layer: nn.BatchNorm2d, team: Team) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked, self.training = layer.num_batches_tracked, layer.training
        self._team = team

    def forward(self, input: Tensor) -> Tensor:
        """Normalise N x C x h x w."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = values.numel() // values.shape[1] * self._team.size
        mean = self._team.total(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = self._team.total(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return normal.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronised(network: nn.Module, team: Team) -> nn.Module:
    """Let batch normalisation see the batch of all processes; the tensors stay the very same.

    Raises:
        ValueError: For a layer that is more than batch normalisation, as some libraries' are.
    """
    for name, layer in list(network.named_modules()) if team.size > 1 else ():
        if type(layer) is nn.BatchNorm2d:
            on_gpu = next(network.parameters()).device.type == "cuda"
            made = nn.SyncBatchNorm.convert_sync_batchnorm(layer) if on_gpu else Together(layer, team)  # type: ignore[no-untyped-call]
            network.set_submodule(name, made)
        elif isinstance(layer, _BatchNorm):
            raise ValueError(
                f"sync_batchnorm cannot bring together a {type(layer).__name__} ({name}): leave it out, and make "
                f"accumulate a multiple of {team.size}: each process then has whole batches"
            )
    return network
