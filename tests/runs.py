"""Runs for tests: a watcher that takes notes and can interrupt, and training in one call."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullyconv.train.assemble import assemble
from fullyconv.train.folder import LAST, open_run
from fullyconv.train.job import Job, Quiet
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run


class Notes(Quiet):
    """Keeps what it is told, and sends a signal at a given update."""

    def __init__(self, *, stop_at: int | None = None, kind: signal.Signals = signal.SIGINT) -> None:
        self.losses: list[float] = []
        self.epochs: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self._stop_at, self._kind = stop_at, kind

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self._stop_at:
            signal.raise_signal(self._kind)

    def epoch(self, figures: Mapping[str, Any]) -> None:
        self.epochs.append(dict(figures))

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def train(recipe: Recipe, data: Path, out: Path, watcher: Quiet | None = None, *, resume: bool = False) -> Job:
    """Train on pictures as the command does, up to the report."""
    with open_run(out, resume=resume) as folder:
        job = assemble(recipe, prepare(recipe, data), folder)
        Run(job, folder, watcher).train()
    return job


def newest(run: Path) -> Path:
    """Return the folder of a run's newest checkpoint."""
    return max((run / LAST).iterdir(), key=lambda path: int(path.name))
