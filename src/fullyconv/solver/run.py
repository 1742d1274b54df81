"""Run a training from its solver's file: steps, displays, tests, scores, snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fullyconv.files import BadFile
from fullyconv.outputs import Outputs
from fullyconv.scores.metrics import Scores
from fullyconv.solver import snapshots
from fullyconv.solver.settings import Settings, Solver
from fullyconv.solver.training import Training

Say = Callable[[str], None]


def places(solver: Solver, out: Path | None) -> tuple[Path, str]:
    """Return the folder of snapshots and what their names begin with; raises ``BadFile`` where nobody says it."""
    stated = solver.settings.snapshot_prefix
    if out is None and not stated:
        raise BadFile(solver.path, "has no snapshot_prefix", "add it, or give --out")
    folder, slash, prefix = stated.rpartition(
        "/"
    )  # "snapshots/" has no name: Caffe writes snapshots/_iter_1.caffemodel
    return out or Path(folder or slash or "."), prefix if stated else solver.path.stem


class Run:
    """A training with its outputs.

    Args:
        training: What trains.
        outputs: The folder of snapshots.
        prefix: What their names begin with.
        say: Where lines of progress go.
        score_every: Iterations between two scorings; 0 scores at the end alone.
        stopped: Whether to end after the step that is under way.
    """

    def __init__(
        self,
        training: Training,
        outputs: Outputs,
        prefix: str,
        say: Say,
        *,
        score_every: int = 0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.training, self.outputs, self.prefix, self.say = training, outputs, prefix, say
        self.score_every, self.stopped = score_every, stopped
        self._saved = -1

    def __call__(self, last: int) -> dict[str, Scores] | None:
        """Train up to an iteration; returns the scores, or ``None`` where it was stopped before."""
        training, settings = self.training, self.training.settings
        while training.iteration < last:
            if self.stopped():
                self._snapshot()
                return None
            self._test_if_due()
            training.step()
            if settings.display and (training.iteration - 1) % settings.display == 0:
                self.say(f"iteration {training.iteration - 1}: loss {training.loss:.6g}, rate {training.rate:.4g}")
            if settings.snapshot and training.iteration % settings.snapshot == 0:
                self._snapshot()
            if self.score_every and training.iteration % self.score_every == 0 and training.iteration < last:
                self._score()
        if settings.snapshot_after_train:
            self._snapshot()
        if settings.test_interval and training.iteration % settings.test_interval == 0:
            self._test()
        return self._score()

    def _test_if_due(self) -> None:
        settings, iteration = self.training.settings, self.training.iteration
        due = settings.test_interval and iteration % settings.test_interval == 0
        if due and (iteration > 0 or settings.test_initialization):
            self._test()

    def _test(self) -> None:
        for index in range(len(self.training.settings.test_iter)):
            for name, blob in self.training.test(index).items():
                figures = ", ".join(f"{value:.6g}" for value in np.ravel(blob))
                self.say(f"iteration {self.training.iteration}, test net {index}: {name} = {figures}")

    def _score(self) -> dict[str, Scores]:
        found = self.training.score()
        for name, scores in found.items():
            self.say(
                f"iteration {self.training.iteration}: {name}: pixel accuracy {scores.pixel_accuracy:.4f}, "
                f"mean accuracy {scores.mean_accuracy:.4f}, mean IU {scores.mean_iu:.4f}, "
                f"f.w. IU {scores.frequency_weighted_iu:.4f}"
            )
        return found

    def _snapshot(self) -> None:
        if self._saved != self.training.iteration:
            path = snapshots.save(
                self.outputs, self.prefix, self.training.net, self.training.update, self.training.iteration
            )
            self._saved = self.training.iteration
            self.say(f"iteration {self.training.iteration}: snapshot {path}")


def check_outputs(outputs: Outputs, prefix: str, settings: Settings, last: int) -> None:
    """Refuse, before any work, a folder that cannot take the first and the last snapshot."""
    first = min(settings.snapshot or last, last)
    outputs.check(dict.fromkeys([*snapshots.names(prefix, first), *snapshots.names(prefix, last)]))
