"""A few threads that work through shares of a job side by side."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut ``count`` things into ``parts`` runs of (nearly) equal length: (start, stop).

    >>> shares(10, 3)
    [(0, 3), (3, 6), (6, 10)]
    """
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


class Team:
    """As many threads as PyTorch computes with (``torch.set_num_threads``), the calling one among them.

    Use as a context manager. Compiled loops do not hold the interpreter lock, so they run truly side
    by side; which share a thread works on never depends on timing, so results do not either.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = max(1, torch.get_num_threads() if size is None else size)
        self._pool = ThreadPoolExecutor(self.size - 1) if self.size > 1 and _openmp() is None else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all jobs, the first in the calling thread where threads are ours; returns their results in order."""
        if self._pool is None:
            return [job() for job in jobs] if self.size == 1 or len(jobs) < 2 else _among_pytorchs(jobs, self.size)
        others = [self._pool.submit(job) for job in jobs[1:]]
        first = jobs[0]() if jobs else None
        rest = [other.result() for other in others]
        return [first, *rest] if jobs else []


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """Return the function of PyTorch's own OpenMP library (GNU's) that starts a team; ``None`` where it has another."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    try:
        return ctypes.CDLL(str(libraries[0])).GOMP_parallel if libraries else None
    except (OSError, AttributeError):
        return None


def _among_pytorchs(jobs: Sequence[Callable[[], Any]], size: int) -> list[Any]:
    """Do jobs in PyTorch's own team of threads.

    After each operation its threads stay busy for some milliseconds, waiting for the next: threads beside them would
    share their cores, and take up to twice as long.
    """
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []
    numbers = itertools.count()

    def work(_: object) -> None:
        while (number := next(numbers)) < len(jobs):
            try:
                results[number] = jobs[number]()
            except BaseException as error:  # it cannot pass through C
                failures.append(error)

    _openmp()(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work), None, size, 0)
    if failures:
        raise failures[0]
    return results


def side_by_side(job: Callable[[int, int], Result], count: int, most: int, *, own: bool = False) -> list[Result]:
    """Do ``job(start, stop)`` for shares of ``count`` things, in at most ``most`` threads and not more than PyTorch's.

    Args:
        job: What is done with a share.
        count: How many things there are.
        most: How many threads are worth waking.
        own: Whether the threads are others than PyTorch's: those stay busy for some milliseconds afterwards, which
            takes a core from a library that computes next in threads of its own.

    Returns:
        The results, in the order of the shares.

    >>> side_by_side(lambda start, stop: stop - start, 10, 1)
    [10]
    """
    parts = max(1, min(torch.get_num_threads(), most, count))
    if parts == 1:
        return [job(0, count)]
    jobs = [partial(job, *share) for share in shares(count, parts)]
    if own:
        others = [_waiting(torch.get_num_threads(), os.getpid()).submit(each) for each in jobs[1:]]
        return [jobs[0](), *(other.result() for other in others)]
    with Team() as team:
        return team.run(jobs)


@lru_cache(maxsize=2)
def _waiting(size: int, process: int) -> ThreadPoolExecutor:
    """Return threads that wait without using a core."""
    return ThreadPoolExecutor(size - 1, "side_by_side")
