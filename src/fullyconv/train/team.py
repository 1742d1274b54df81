"""The processes that train together: who is one of them, what they tell each other, what happens when one ends.

All that is decided, written and said is the first one's. What may differ between them (a clock, a signal, a picture
that cannot be read) is agreed on before any of them acts on it: whoever acted alone would leave the rest waiting.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

Found = TypeVar("Found")
PATIENCE = timedelta(hours=6)  # the longest that one may wait for another: the first checks all data meanwhile
GONE = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe", "recvValue", "Timed out")


class Elsewhere(SystemExit):
    """The command ends, and another of its processes says why."""

    def __init__(self) -> None:
        super().__init__(2)


class Lost(ValueError):
    """Another process of the command has ended without a word."""


@dataclass(frozen=True)
class _Failed:
    """An error on its way to the other processes."""

    error: Exception


class Team:
    """The processes that do one command together; by itself the only one.

    Args:
        rank: Which of them this is, from 0.
        size: How many there are.
        local: How many of them are on this machine.

    >>> Team().agree(0.25, 3), Team().told(lambda: "data"), Team().each(lambda: 7)
    ([0.25, 3.0], 'data', [7])
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 1) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._patient = dist.new_group(backend="gloo", timeout=PATIENCE) if dist.is_initialized() else None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def agree(self, *values: float) -> list[float]:
        """Return the largest that any process has of each of the values."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return cast("list[float]", tensor.tolist())

    def meet(self) -> None:
        """Wait until all processes have come here."""
        self.agree(0)  # Gloo passes over a reduction of nothing

    def told(self, work: Callable[[], Found]) -> Found:
        """Let the first process do a work, and give what came of it to all.

        Raises:
            Exception: What the work raised, in the first process; ``Elsewhere`` in the others.
        """
        if self.size == 1:
            return work()
        carried: list[Any] = [_tried(work) if self.first else None]
        dist.broadcast_object_list(carried, src=0, group=self._patient)
        return cast("Found", self._unpacked(carried[0]))

    def each(self, work: Callable[[], Found]) -> list[Found]:
        """Let every process do its part of a work; all get what came of it, in the order of the processes.

        Raises:
            Exception: What one of them raised, in the first process; ``Elsewhere`` in the others.
        """
        if self.size == 1:
            return [work()]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, _tried(work))
        # Errors first: all processes must raise, or none.
        found.sort(key=lambda each: not isinstance(each, _Failed))
        return [self._unpacked(each) for each in found]

    def in_turn(self, work: Callable[[], Found]) -> Found:
        """Do a work in every process, in the first one first: the others may find what it has downloaded."""
        found: list[Found] = []
        self.told(lambda: found.append(work()))
        return found[0] if self.first else work()

    def _unpacked(self, found: Any) -> Any:
        if not isinstance(found, _Failed):
            return found
        if self.first:
            raise found.error
        raise Elsewhere

    def add(self, tensor: Tensor) -> Tensor:
        """Put in the place of a tensor its sum over all processes; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def whole(self, part: Tensor) -> Tensor:
        """Put the parts of all processes, alike in size, one after the other along the first axis.

        Differentiable for what is computed from the whole in all processes alike, as a loss is: each gets the gradient
        of its own part times the number of processes, which the mean over them takes out again.
        """
        return part if self.size == 1 else cast("Tensor", _Whole.apply(part, self))  # type: ignore[no-untyped-call]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes of values; differentiable."""
        return values if self.size == 1 else cast("Tensor", _Total.apply(values))  # type: ignore[no-untyped-call]


ALONE = Team()


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, team: Team) -> Tensor:
        ctx.team, ctx.count = team, len(part)
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(team.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        start = ctx.team.rank * ctx.count
        return slopes[0][start : start + ctx.count] * ctx.team.size, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        total = slopes[0].clone()
        dist.all_reduce(total)
        return total


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return _Failed(RuntimeError(f"{type(error).__name__}: {error}"))
        return _Failed(error)


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process has ended, in the words of Gloo, NCCL or their store."""
    return isinstance(error, dist.DistError | Lost) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in GONE)
    )


@contextmanager
def joined() -> Iterator[Team]:
    """Join the processes that ``torchrun`` or ``--devices`` has started with this one; without them it is alone.

    Raises:
        Lost: In the first process, when another has ended.
        Elsewhere: In the others then.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend)
    team = Team(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    try:
        yield team
    except (RuntimeError, ValueError) as error:
        if not is_lost(error):
            raise
        if not team.first:
            raise Elsewhere from None
        raise (error if isinstance(error, Lost) else Lost(lost_words(team))) from None
    dist.destroy_process_group()


def lost_words(team: Team) -> str:
    """Say that another process has ended."""
    return f"another of the {team.size} processes has ended: its own message, or the system's log, says why"
