"""The batches of an epoch, prepared ahead of the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fullyconv.data.dataset import Views, epoch_order
from fullyconv.train.share import EVERYTHING, Share
from fullyconv.train.stop import leave_signals_to_parent

Group = tuple[list[Tensor], list[Tensor]]
"""The batches of one update: images, N x 3 x h x w each, and labels, N x h x w each."""


@dataclass(frozen=True)
class Batching:
    """How views come together: ``accumulate`` batches of ``batch`` views for each update.

    ``workers`` processes prepare them or, with 0, a thread. Where several processes train, each has its ``share`` of
    every update. An epoch has ``repeat`` views of every picture.
    """

    views: Views
    batch: int
    accumulate: int
    workers: int
    share: Share = EVERYTHING
    repeat: int = 1

    @property
    def updates(self) -> int:
        """The updates of an epoch; what does not fill a last one is left to the next epoch's shuffle."""
        return max(1, self.repeat * len(self.views) // (self.batch * self.accumulate))

    def __call__(self, epoch: int, start: int) -> Iterator[Group]:
        """Give each update of an epoch its batches, from update ``start`` on.

        Raises ``BadFile`` for a pair that cannot be read any more, whoever was to read it.
        """
        chosen = self.choose(epoch, start)
        own = [self.share.of(chosen[at : at + self.accumulate]) for at in range(0, len(chosen), self.accumulate)]
        group: Group = ([], [])
        for images, labels in self._prepared([batch for update in own for batch in update]):
            group[0].append(images)
            group[1].append(labels)
            if len(group[0]) == len(own[0]):
                yield group
                group = ([], [])

    def some(self, epoch: int, count: int) -> Iterator[Tensor]:
        """Give images of an epoch's first batches, of ``count`` views or more; each process has other batches."""
        team, updates = self.share.team, -(-count // (self.batch * self.accumulate))
        chosen = self.choose(epoch, 0)[: updates * self.accumulate]
        for images, _ in self._prepared(chosen[team.rank :: team.size]):
            yield images

    def choose(self, epoch: int, start: int) -> list[list[int]]:
        """Choose the views of each batch of an epoch, from update ``start`` on."""
        rounds = range(epoch * self.repeat, (epoch + 1) * self.repeat)
        shuffled = (epoch_order(count=len(self.views), epoch=each, seed=self.views.seed) for each in rounds)
        order = list(chain.from_iterable(shuffled))
        while len(order) < self.batch * self.accumulate:  # a set smaller than one update: go round again
            order = order + order
        batches = range(start * self.accumulate, self.updates * self.accumulate)
        return [order[index * self.batch : (index + 1) * self.batch] for index in batches]

    def _prepared(self, chosen: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.workers:
            yield from _threaded(_Batches(self.views), chosen)
            return
        loader = DataLoader(
            _Batches(self.views, returns_failures=True),
            batch_size=None,
            sampler=chosen,
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_parent,
        )
        with _own_signals():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep PyTorch from handling the deaths of workers by signal: it would raise amid an update or a save.

    That one has died is noticed when the next batch is asked for, some seconds later.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


class _Batches(Dataset[tuple[Tensor, Tensor] | Exception]):
    """Whole batches by the list of their views.

    With ``returns_failures`` an exception is a value: raised in a worker it would reach the training as a traceback in
    words, of a type that tells nothing.
    """

    def __init__(self, views: Views, *, returns_failures: bool = False) -> None:
        self._views, self._returns_failures = views, returns_failures

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | Exception:
        try:
            return _stack([self._views[index] for index in indices])
        except (ValueError, OSError, MemoryError) as error:
            if not self._returns_failures:
                raise
            return error


def _stack(views: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Make one batch; raises ``ValueError`` for views of different sizes.

    NumPy does the stacking: PyTorch would start a second team of threads here, which takes the cores
    from the training.
    """
    images, labels = zip(*views, strict=True)
    sizes = {tuple(each.shape) for each in labels}
    if len(sizes) > 1:
        raise ValueError(
            f"views of different sizes cannot share a batch: {', '.join(f'{h} x {w}' for h, w in sorted(sizes))}: "
            "set batch=1 (and accumulate), or a crop and shift=0"
        )
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def _threaded(batches: _Batches, chosen: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Prepare batches one ahead in a thread: decoding and resizing release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = None
        for indices in chosen:
            coming = pool.submit(batches.__getitem__, indices)
            if ahead is not None:
                yield ahead.result()  # type: ignore[misc]
            ahead = coming
        if ahead is not None:
            yield ahead.result()  # type: ignore[misc]
