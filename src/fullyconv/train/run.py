"""A run: updates to the end of a schedule, validations on the way, nothing lost if it is stopped or dies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile
from fullyconv.machine import out_of_memory
from fullyconv.train.batches import Group
from fullyconv.train.board import Board
from fullyconv.train.folder import LAST, RunFolder
from fullyconv.train.job import Job, Position, Quiet, Validation, Watcher
from fullyconv.train.state import read_state, run_bytes, write_network, write_state
from fullyconv.train.stop import StopRequest
from fullyconv.train.team import Lost, is_lost, lost_words
from fullyconv.train.update import LOSSES_BEHIND, Loss, Updater

SAVE_SECONDS = 600.0  # the most that a death costs, where an epoch takes longer
CUT_SHORT = 0.6  # of the updates, below which a schedule that the clock shortened is worth a word
LONG_WAIT_SECONDS, LONG_WAIT = 30.0, 0.05  # waiting for pictures that is worth a word: in all, and of the training


class Run:
    """A training under way; without a folder it leaves nothing behind but the trained network.

    Of several processes that train together the first has the folder; where one ends, all do.
    """

    def __init__(self, job: Job, folder: RunFolder | None = None, watcher: Watcher | None = None) -> None:
        self.job, self.folder, self.watcher = job, folder, watcher or Quiet()
        self._team, self._updater = job.share.team, Updater(job)
        self._losses: deque[Loss] = deque()
        self._waited = self._trained = 0.0
        self._stop, self._stopped = StopRequest(relayed=self._team.size > 1), False  # asked for here; agreed on by all
        self.position = Position(processes=self._team.size)

    def train(self) -> Position:
        """Train to the end of the schedule, or until stopped.

        Writes ``model`` (the best by validation), ``last`` (the run's state, after every epoch and every ten minutes),
        ``metrics.jsonl`` and TensorBoard events. On Ctrl-C, SIGTERM or SIGHUP the update under way is finished and the
        state saved, then ``KeyboardInterrupt`` is raised. A run that is resumed continues bit for bit from the newest
        whole state, unless a time budget shortened it.

        Raises:
            BadFile: The state cannot be written, or a picture cannot be read any more.
            ValueError: The loss is not finite, or memory ran out; says what to change.
            Lost: Another of the processes has ended; the state before is saved.

        """
        self._restore()
        if self.folder is not None:
            self.folder.check_room(run_bytes(self.job))
        self._begun = self._saved = time.monotonic()
        self._begun -= self.position.seconds
        self._kept = self._done
        with self._stop, Board(self.folder, self.position, self.watcher) as board, self._saved_if_lost():
            while not self.position.finished:
                self._train_epoch()
                if self._stopped:
                    self._save()
                    raise KeyboardInterrupt
                self._end_epoch(board)
            self._team.meet()  # the first has written what the others may now read
        if self._done < CUT_SHORT * self.job.schedule.updates:
            self.watcher.remark(self._cut_short())
        if self._waited > max(LONG_WAIT_SECONDS, LONG_WAIT * self._trained):
            share = f"{self._waited / self._trained:.0%}"
            self.watcher.remark(f"{share} of the training was waiting for pictures: raise workers, or cache_gib")
        return self.position

    @property
    def _done(self) -> int:
        """The updates made so far."""
        return self.position.updates(self.job.schedule)

    def _progress(self) -> float:
        """Return the progress by this process's clock, if it is the first; of the others it does not count."""
        return self.job.schedule.progress(self._done, time.monotonic() - self._begun) if self._team.first else 0.0

    def _stale(self) -> bool:
        """Return whether validations have not become better for as many epochs as the job has patience for."""
        lines = [line for line in self.position.history if line.get("mean_iu") is not None]
        if self.job.patience is None or not lines:
            return False
        best = max(lines, key=lambda line: (line["mean_iu"], -line["epoch"]))
        return int(lines[-1]["epoch"] - best["epoch"]) >= self.job.patience

    def _cut_short(self) -> str:
        schedule = self.job.schedule
        whole = f"{self.position.epoch} of {schedule.epochs} epochs ({self._done} of {schedule.updates} updates)"
        if self._stale():
            return f"stopped after {whole}: no better validation for {self.job.patience} epochs (patience)"
        return (
            f"stopped after {whole}: {schedule.minutes:g} minutes were over, the machine was too busy or too slow for "
            f"more: give it time with --set minutes={10 * schedule.minutes:g}"
            if schedule.minutes
            else f"stopped after {whole}"
        )

    def _train_epoch(self) -> None:
        """Make the updates that are left of an epoch, as far as time and signals allow."""
        position = self.position
        begun, waited = time.monotonic(), self._waited
        self._updater.network.train()
        with closing(self.job.batches(position.epoch, position.step)) as groups:  # type: ignore[type-var]
            while True:
                group, progress = self._next(groups)
                if group is None or progress >= 1:
                    break
                loss = self._updater.update(group, position, progress)
                position.step += 1
                self._losses.append(Loss.read_later(self._done, loss))
                self._hear(behind=LOSSES_BEHIND[loss.device.type])
        self._hear()
        trained = time.monotonic() - begun
        self._trained += trained
        self._waiting = (self._waited - waited) / max(trained, 1e-9)
        position.seconds = time.monotonic() - self._begun

    def _hear(self, *, behind: int = 0) -> None:
        """Take note of losses, all but the last few: to read one at once is to wait for the device.

        Raises ``ValueError`` for one that is not finite; nothing that follows from it has been saved.
        """
        position, schedule = self.position, self.job.schedule
        while len(self._losses) > behind:
            heard = self._losses.popleft()
            loss = heard.value()
            if not np.isfinite(loss):
                self._losses.clear()
                raise ValueError(
                    f"the loss became {loss} at learning rate {position.rate:.2g}: "
                    "lower learning_rate, or raise warmup; what was saved before is kept"
                )
            position.losses.append(loss)
            self.watcher.step(epoch=position.epoch, done=heard.update, total=schedule.updates, loss=loss)

    def _next(self, groups: Iterator[Group]) -> tuple[Group | None, float]:
        """Fetch the batches of the next update, and agree with the other processes on whether there will be one.

        Gives no batches at the epoch's end and when a stop was asked for, and the progress; saves when it is time.
        """
        group, problem = None, None
        begun = time.monotonic()
        try:
            group = self._fetched(groups)
        except Exception as error:  # raised below, in all processes
            problem = error
        self._waited += time.monotonic() - begun
        due = self._team.first and time.monotonic() - self._saved > SAVE_SECONDS
        words = problem is not None, self._stop.asked, group is None, due, self._progress()
        failed, asked, over, save, progress = self._team.agree(*words)
        if failed:
            with self._saving_first():
                self._team.each(partial(_raise, problem))
        self._stopped = bool(asked)
        if save:
            self._save()
        return (None if over or asked else group), progress

    def _fetched(self, groups: Iterator[Group]) -> Group | None:
        if self._stop.asked:
            return None
        try:
            return next(groups, None)
        except (RuntimeError, ConnectionError, EOFError) as error:  # a dead worker's batches cannot be fetched
            # A signal to the whole process group ends the workers too: that is a stop, not a failure.
            if self._stop.soon():
                return None
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            what = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"a process that prepares batches has died ({what}): lower workers") from None

    @contextmanager
    def _saved_if_lost(self) -> Iterator[None]:
        """Save the state before the update under way when another process has ended."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self._team.size == 1 or not is_lost(error):
                raise
            self._updater.norms.put_back()
            self._losses.clear()
            if self._done > self._kept:
                self._save()
            kept = f"{self._done} updates are saved" if self.folder is not None else "see the first process"
            raise Lost(f"{lost_words(self._team)}; {kept}: the same command with --resume continues") from None

    @contextmanager
    def _saving_first(self) -> Iterator[None]:
        """Save the state before an error ends the run; for use between two updates, where the state is whole."""
        try:
            yield
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if self._done > self._kept:  # a run that fails at once leaves no run behind
                self._save()
            if out_of_memory(error):
                raise ValueError(f"out of memory between updates: lower {self.job.smaller}") from None
            raise

    def _end_epoch(self, board: Board) -> None:
        """Validate, keep the best, save the state, write the figures down.

        In this order a death in between only repeats what it has lost: the best model of an epoch that is not saved is
        found again, and a line of metrics that is missing is in the state.
        """
        position, schedule = self.position, self.job.schedule
        last = self._team.agree(self._progress())[0] >= 1
        figures: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "loss": float(np.mean(position.losses)) if position.losses else None,
            "learning_rate": position.rate,
            "seconds": round(position.seconds, 3),
            "waiting": round(self._waiting, 4),
        }
        found = None
        due = last or (position.epoch + 1) % self.job.validate_every == 0
        if due:
            with self._saving_first():
                found = self._look()
            figures |= found.figures if found else {}
        position.history = [line for line in position.history if line["epoch"] <= position.epoch] + [figures]
        position.finished = last or bool(self._team.agree(self._stale())[0])
        if position.step == schedule.per_epoch:  # an epoch cut short goes on where it was cut, should the run be
            position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        with self._saying_why():
            self._write_epoch(figures, found)
        board.note(figures, found)
        self.watcher.epoch(figures)

    def _look(self) -> Validation | None:
        """Validate what would be delivered now."""
        if self.job.settle is not None:
            self.job.settle(self.position.epoch)
        return None if self.job.validate is None else self.job.validate()

    def _write_epoch(self, figures: dict[str, Any], found: Validation | None) -> None:
        if self.folder is None:
            return
        if found is not None and found.score > self.position.best:
            self.position.best = found.score
            notes = {key: value for key, value in figures.items() if key in ("epoch", "mean_iu", "pixel_accuracy")}
            self.folder.replace_model(lambda folder: self.write_model(folder, notes))
        self._save()
        self.folder.add_metrics(figures)

    def write_model(self, folder: Path, notes: Mapping[str, Any]) -> None:
        """Write the network that is delivered as a model folder."""
        write_network(self.job, self.job.delivered, folder, notes)

    def _save(self) -> None:
        self._hear()  # no state that follows from a loss of NaN is ever saved
        if self.folder is None:
            return
        self.position.seconds = time.monotonic() - self._begun
        with self._saying_why():
            self.folder.checkpoints.save(partial(write_state, self.job, self.position), alone=self.position.finished)
        self._saved, self._kept = time.monotonic(), self._done

    @contextmanager
    def _saying_why(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = self.folder.path / LAST if self.folder else LAST
            what = f"the run's state cannot be saved ({error.strerror or error})"
            fix = "make room or make it writable, then continue with --resume: what was saved before is kept"
            raise BadFile(place, what, fix) from None

    def _restore(self) -> None:
        """Put weights, optimiser and position back as the newest whole checkpoint has them, if there is one."""
        found = self._team.told(self._newest)
        if found is not None:
            self._read(found)
        position = self.position
        if self.job.schedule.progress(self._done, position.seconds) < 1 and not self._stale():
            position.finished = False  # it may have been given more epochs or minutes
            position.history = [line for line in position.history if line["epoch"] <= position.epoch]
        self._team.meet()  # all have read what the first may now remove
        if self.folder is not None:
            if position.finished:
                self.folder.checkpoints.keep_newest()  # death may have come between the last save and this
            self.folder.write_metrics(position.history)

    def _newest(self) -> Path | None:
        if self.folder is None or not self.folder.resume:
            return None
        found, remarks = self.folder.checkpoints.newest()
        if found is None:
            remarks.append(f"{self.folder.path}: nothing whole was saved: training from the start")
        for remark in remarks:
            self.watcher.remark(remark)
        return found

    def _read(self, found: Path) -> None:
        self.position = read_state(self.job, found)
        before, self.position.processes = self.position.processes, self._team.size
        if before != self._team.size:
            self.watcher.remark(f"begun with {before} process(es), goes on with {self._team.size}: the same updates")


def _raise(problem: Exception | None) -> None:
    if problem is not None:
        raise problem
