"""What a run is made of: its schedule, its parts, how far it has come, and who is told."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fullyconv.machine import DeviceName, Precision, choose_device, fast_bf16
from fullyconv.train.average import Average
from fullyconv.train.batches import Group
from fullyconv.train.share import EVERYTHING, Share
from fullyconv.train.team import ALONE, Team
from fullyconv.types import ClassSet, Preprocess, SpectralPreprocess


class Watcher(Protocol):
    """Who is told how a run goes."""

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """An update has been made, the ``done``-th of ``total``; epochs count from 0."""

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """An epoch has ended."""

    def remark(self, text: str) -> None:
        """Something has happened that a person should know."""


class Quiet:
    """A watcher that tells nobody."""

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """Pass over an update."""

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Pass over an epoch."""

    def remark(self, text: str) -> None:
        """Pass over a remark."""


@dataclass(frozen=True)
class Schedule:
    """How long a run goes on, and how fast it learns on the way: ``rate`` of the progress (0..1) is the learning rate.

    An epoch has ``per_epoch`` updates, the last one perhaps fewer. Where ``minutes`` of wall time are over sooner, the
    schedule is shortened to them.
    """

    updates: int
    per_epoch: int
    rate: Callable[[float], float]
    minutes: float | None = None

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return -(-self.updates // self.per_epoch)

    def progress(self, updates: int, seconds: float) -> float:
        """Return how much of the schedule is behind: by updates, or by the clock where that is further.

        >>> Schedule(updates=40, per_epoch=10, rate=float, minutes=2).progress(10, seconds=60)
        0.5
        """
        by_updates = updates / self.updates
        return by_updates if self.minutes is None else max(by_updates, seconds / (60 * self.minutes))


@dataclass(frozen=True)
class Validation:
    """What a validation found: the score that chooses the best model, figures to write down, a picture to look at."""

    score: float
    figures: Mapping[str, float | list[float | None]]
    picture: np.ndarray | None = None  # H x W x 3 uint8
    title: str = "validation"


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how: all in which pictures, scenes and patches differ."""

    network: nn.Module
    optimizer: Optimizer
    fabric: Fabric  # device and precision
    schedule: Schedule
    seed: int
    batches: Callable[[int, int], Iterator[Group]]
    """Gives the updates' batches of an epoch from an update on, each following from epoch and update alone."""
    loss: Callable[[Any, Tensor, torch.Generator], Tensor]
    """Of scores and labels; the generator draws whatever the loss leaves to chance."""
    classes: ClassSet
    preprocess: Preprocess | SpectralPreprocess
    heads: Mapping[str, ClassSet] = field(default_factory=dict)
    """What the labels of further tasks mean, by their names."""
    form: Callable[[nn.Module], nn.Module] = _as_it_is
    """Makes of the network what is run in training: the same tensors, whose output the loss takes."""
    clip: float | None = None
    """The largest norm of a gradient, over all weights."""
    average: Average | None = None
    """What is validated and delivered in the network's place."""
    settle: Callable[[int], None] | None = None
    """Measures batch statistics of what is delivered, before it is validated; takes the epoch."""
    validate: Callable[[], Validation] | None = None
    validate_every: int = 1
    patience: int | None = None
    """Epochs without a better validation after which the run ends."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that go into every model folder of the run."""
    smaller: str = "batch"
    """The choices that take less memory when lowered."""
    share: Share = EVERYTHING
    """What this process does of each update; ``batches`` gives no more than that."""

    @property
    def delivered(self) -> nn.Module:
        """The network that is validated and delivered: the average, where there is one."""
        return self.network if self.average is None else self.average.network


@dataclass
class Position:
    """How far a run has come; with the weights and the optimiser's state, all that a resume needs."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    epoch: int = 0
    step: int = 0  # updates made in this epoch
    seconds: float = 0.0
    best: float = -1.0
    rate: float = 0.0  # the learning rate of the last update
    losses: list[float] = field(default_factory=list)  # of the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    finished: bool = False
    processes: int = 1  # that share the updates; which changes nothing about them

    def updates(self, schedule: Schedule) -> int:
        """Count the updates made so far."""
        return self.epoch * schedule.per_epoch + self.step


def make_fabric(device: DeviceName, precision: Precision | Literal["auto"], team: Team = ALONE) -> Fabric:
    """Choose the device and the precision of a run; ``auto`` takes bf16 where the machine has instructions for it.

    Raises:
        ValueError: For a device that is not there, or for more processes on a machine than it has GPUs.
    """
    place = choose_device(device)
    short = precision == "bf16" or (precision == "auto" and fast_bf16(place))
    accelerator = "cuda" if place.type == "cuda" else "cpu"
    if place.type == "cuda" and team.local > torch.cuda.device_count():
        raise ValueError(
            f"{team.local} processes on a machine with {torch.cuda.device_count()} GPUs: start one for each, "
            "or compute on the CPU with --set device=cpu"
        )
    # It would say anew at each run which arithmetic it takes, which is in our line already.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator,
        devices=team.local,
        num_nodes=team.size // team.local,
        # Buffers are brought together after each update (``Norms``), not before each batch.
        strategy=_strategy() if team.size > 1 else "auto",
        precision="bf16-mixed" if short else "32-true",
    )
    fabric.launch()
    return fabric


def _strategy() -> DDPStrategy:
    known = inspect.signature(DistributedDataParallel).parameters  # PyTorch 2.13 has another name for it
    silent = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: Any = {silent: False}
    return DDPStrategy(cluster_environment=TorchElasticEnvironment(), **options)


def precision_of(fabric: Fabric) -> Precision:
    """Return the precision a fabric was made for."""
    return "bf16" if "bf16" in str(fabric.strategy.precision.precision) else "fp32"
