"""A few threads that work through shares of a job side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


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
        self._pool = ThreadPoolExecutor(self.size - 1) if self.size > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all jobs, the first in the calling thread; returns their results in order."""
        if self._pool is None:
            return [job() for job in jobs]
        others = [self._pool.submit(job) for job in jobs[1:]]
        first = jobs[0]() if jobs else None
        rest = [other.result() for other in others]
        return [first, *rest] if jobs else []
