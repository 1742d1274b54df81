"""An update: the mean loss of some batches, its gradient, one step of the optimiser."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullyconv.machine import out_of_memory
from fullyconv.train.batches import Group
from fullyconv.train.job import Job, Position
from fullyconv.train.optim import set_rates
from fullyconv.train.share import Norms

LOSSES_BEHIND = {"cpu": 0, "cuda": 2}  # updates whose losses may still be on their way, by the kind of device


@dataclass(frozen=True)
class Loss:
    """The loss of an update, the ``update``-th of the run, perhaps still on its way from the device."""

    update: int
    number: Tensor
    arrival: torch.cuda.Event | None

    @classmethod
    def read_later(cls, update: int, loss: Tensor) -> Loss:
        """Send the loss of an update on its way from the device."""
        if loss.device.type == "cpu":
            return cls(update, loss, None)
        number = loss.to("cpu", non_blocking=True)
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrival.record()
        return cls(update, number, arrival)

    def value(self) -> float:
        """Wait for this number, not for what the device does after it."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return float(self.number)


class Updater:
    """Makes the updates of a run.

    Args:
        job: Its network is put in the form in which it trains.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._team = job, job.share.team
        network = job.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self._optimizer = job.fabric.setup(job.form(network), job.optimizer)
        self.norms = Norms(self.network, job.share)

    def update(self, group: Group, position: Position, progress: float) -> Tensor:
        """Make one update.

        Args:
            group: Its batches.
            position: How many updates were made before; its rate becomes that of this update.
            progress: How much of the schedule is behind, 0..1.

        Returns:
            The mean loss of the batches, on its device.

        Raises:
            ValueError: If memory ran out; says what to lower.
        """
        job = self._job
        position.rate = job.schedule.rate(progress)
        set_rates(job.optimizer, position.rate, progress)
        _rest_frozen_norms(self.network)
        try:
            return self._descend(group, position)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            place = f"update {position.step + 1} of epoch {position.epoch + 1}"
            raise ValueError(f"out of memory in {place}: lower {job.smaller}; what was saved before is kept") from None

    def _descend(self, group: Group, position: Position) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._job.fabric.device)
        together = self._team.size > 1
        if together:
            self.norms.remember()
        for index, batch in enumerate(zip(*group, strict=True)):
            with self._alone(index + 1 < len(group[0])):
                loss = self._loss(batch, self._seed(position, index, len(group[0]))) / len(group[0])
                self._job.fabric.backward(loss)
            total += loss.detach()
        if together:  # before the update, after which a state would not be whole without it
            total = self._team.add(total) / self._team.size
            self.norms.combine(len(group[0]))
        if self._job.clip is not None:
            nn.utils.clip_grad_norm_(self._job.network.parameters(), self._job.clip)
        self._optimizer.step()
        if self._job.average is not None:
            self._job.average.follow(self._job.network, position.updates(self._job.schedule))
        return total

    def _seed(self, position: Position, index: int, count: int) -> tuple[int, int]:
        """Return the seeds of a batch, of dropout and of the loss; dropout differs where a batch is cut.

        They follow from the position, not from what was drawn before: a resumed run draws the same.
        """
        share = self._job.share
        words = (self._job.seed, position.epoch, position.step, share.place(index, count))
        own = (*words, 1 + self._team.rank) if share.parts else words
        drop, lose = (int(np.random.SeedSequence(each).generate_state(1)[0]) for each in (own, words))
        return drop, lose

    def _loss(self, batch: tuple[Tensor, Tensor], seeds: tuple[int, int]) -> Tensor:
        """Compute the loss of a batch, or of one of which this process has a part."""
        device = self._job.fabric.device
        torch.manual_seed(seeds[0])
        images, labels = (_sent(each, device) for each in batch)
        scores = self.network(images.contiguous(memory_format=torch.channels_last))
        generator = torch.Generator(device).manual_seed(seeds[1])
        return self._job.loss(*self._job.share.whole(scores, labels), generator)

    def _alone(self, wanted: bool) -> AbstractContextManager[None]:
        """Leave gradients to each process until an update's last batch."""
        if self._team.size == 1:
            return nullcontext()
        return self._job.fabric.no_backward_sync(self.network, enabled=wanted)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device without waiting for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _rest_frozen_norms(network: nn.Module) -> None:
    """Keep the batch statistics of frozen layers as they are."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()
