"""Many inputs, one after the other; a bad one is reported and the rest are done.

Three things happen side by side: the next inputs are read, one is computed, earlier ones are written. What is written,
and what is said of each input in which order, is as if one were done after the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from fullyconv.files import BadFile, counted
from fullyconv.machine import out_of_memory
from fullyconv.outputs import Outputs, out_of_room
from fullyconv.predict.ahead import FLYING, Carried, Room, reading_ahead

Read = TypeVar("Read")
"""An input as it is read."""
Found = TypeVar("Found")
"""What a model says of one input."""


@dataclass(frozen=True)
class Task:
    """An input and the stem of what is written for it, relative to the output folder."""

    image: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    task: Task
    labels: Path | None = None  # the mask that was written
    problem: BadFile | None = None


@dataclass(frozen=True)
class Work(Generic[Read, Found]):
    """What is done with each input.

    Attributes:
        suffixes: Those of all that ``write`` writes, behind the target that it is given.
        read: Reads an input, in a thread of its own.
        predict: Computes, in the thread that asks for outcomes.
        write: Writes behind a target, in a thread of its own; returns the mask's path.
        size: The bytes that an input takes between reading and writing, with what is computed from it.
        most: How many inputs may be on their way at once; 1 for one after the other, in one thread at a time.
        more: Further suffixes, of what is written of some inputs alone.
    """

    suffixes: Sequence[str]
    read: Callable[[Task], Read]
    predict: Callable[[Read], Found]
    write: Callable[[Found, Path], Path]
    size: Callable[[Read], int] = lambda _: 0
    most: int = FLYING
    more: Callable[[Task], Sequence[str]] = lambda _: ()

    def names(self, task: Task) -> list[str]:
        """Return what is written of an input, relative to the output folder."""
        return [f"{task.target.as_posix()}{suffix}" for suffix in (*self.suffixes, *self.more(task))]


@dataclass
class Pace:
    """Where the time of many inputs went.

    Attributes:
        inputs: How many are done.
        computing: Seconds in which the model computed.
        waiting: Seconds in which it waited for files: for the next to be read, or for room as the last are written.
        started: When the work began, by ``clock``.
        clock: Seconds that pass.

    >>> Pace(inputs=200, computing=11.8, waiting=0.3, started=0.0, clock=lambda: 12.3).words("picture")
    '200 pictures in 12.3 s: 11.8 computing, 0.3 waiting'
    """

    inputs: int = 0
    computing: float = 0.0
    waiting: float = 0.0
    started: float | None = None
    clock: Callable[[], float] = field(default=time.perf_counter)

    def words(self, what: str) -> str:
        """Say it in a line.

        Args:
            what: What an input is called.

        Returns:
            How many there were, in how many seconds.
        """
        whole = 0.0 if self.started is None else self.clock() - self.started
        return (
            f"{counted(self.inputs, what)} in {whole:.1f} s: {self.computing:.1f} computing, {self.waiting:.1f} waiting"
        )

    @contextmanager
    def _computes(self) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            self.computing += self.clock() - started

    @contextmanager
    def _waits(self) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            self.waiting += self.clock() - started


def work_through(
    tasks: Sequence[Task],
    outputs: Outputs | Sequence[Outputs],
    work: Work[Read, Found],
    *,
    pace: Pace | None = None,
    once: Sequence[str] = (),
    finish: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Read, predict and write many inputs; what is wrong with one does not stop the rest.

    Args:
        tasks: The inputs.
        outputs: Where they are written; it keeps the list of what is ours. Of several folders ``write``, which is told
            of the first, writes files of the same names into each.
        work: What is done with each.
        pace: Takes the seconds of computing and waiting.
        once: Names of what is written of all inputs together, relative to the output folder.
        finish: Writes it, after the last input, unless all were bad.

    Yields:
        One outcome per input, in their order.

    Raises:
        BadFile: Before the first input if an output may not be written, or another process is writing into the folder;
            after some if the disk has become full.
    """
    # A list, for names that are needed twice would be one key.
    names = [(name, task.image) for task in tasks for name in work.names(task)]
    folders = [outputs] if isinstance(outputs, Outputs) else outputs
    for each_folder in folders:
        each_folder.check([*once, *(name for name, _ in names)], made_of=dict(names))
    line = _Line(folders, work, len(tasks), pace or Pace())
    reading = reading_ahead(tasks, work.read, size=work.size, room=Room(most=work.most))
    with _all(each_folder.alone() for each_folder in folders), line.writing(), reading as carried:
        for task in tasks:
            with line.pace._waits():
                each = next(carried)
            try:
                line.compute(task, each)
            except Exception:
                each.arrived()
                yield from line.outcomes(every=True)  # what was computed before is written, as if it had been at once
                raise
            yield from line.outcomes()
        yield from line.outcomes(every=True)
        if line.good:
            finish()


@contextmanager
def _all(contexts: Iterable[AbstractContextManager[object]]) -> Iterator[None]:
    """Enter several contexts one after the other, and leave them in the end."""
    with ExitStack() as stack:
        for each in contexts:
            stack.enter_context(each)
        yield


class _Line(Generic[Read, Found]):
    """The inputs between reading and the end of writing."""

    def __init__(self, folders: Sequence[Outputs], work: Work[Read, Found], total: int, pace: Pace) -> None:
        self._folders, self._work, self._total, self.pace = folders, work, total, pace
        self._writer = ThreadPoolExecutor(1, "writing")  # one, for the list of what is ours has one end
        self._written: deque[Future[Outcome]] = deque()  # or being written, or bad; in order
        self._full: BadFile | None = None
        self._submitted = 0
        self.good = 0  # inputs of which something was written
        pace.started = pace.clock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Leave nothing half-written, however the block ends: what is being written is finished, the rest dropped."""
        try:
            yield
        finally:
            self._writer.shutdown(wait=True, cancel_futures=True)

    def compute(self, task: Task, each: Carried[Read]) -> None:
        """Predict one input and hand it to the writer."""
        try:
            found = self._predicted(task, each)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            each.arrived()
            bad: Future[Outcome] = Future()
            bad.set_result(Outcome(task, problem=said_of(task, error)))
            self._written.append(bad)
        else:
            self._written.append(self._writer.submit(self._write, task, found, each, self._submitted))
        self._submitted += 1

    def _predicted(self, task: Task, each: Carried[Read]) -> Found:
        """Predict; where memory runs out, once more when nothing else is on its way."""
        try:
            value = each.value()
            with self.pace._computes():
                return self._work.predict(value)
        except (MemoryError, RuntimeError, BadFile) as error:
            if not _starved(error) or not self._written:
                raise
        self._wait()
        value = self._work.read(task)
        with self.pace._computes():
            return self._work.predict(value)

    def _wait(self) -> None:
        with self.pace._waits():
            for each in self._written:
                each.exception()  # waits; whatever it is comes up in its turn

    def _write(self, task: Task, found: Found, each: Carried[Read], before: int) -> Outcome:
        """Write one prediction, in the writer's thread."""
        names = self._work.names(task)
        try:
            if self._full is not None:
                raise self._full
            with _all(each_folder.writing(*names, made_of=task.image) for each_folder in self._folders):
                return Outcome(task, self._work.write(found, self._folders[0].folder / task.target))
        except OSError as error:
            if out_of_room(error):
                what = f"no more room after {before} of {self._total} ({error.strerror})"
                self._full = BadFile(self._folders[0].folder, what, "make room and run the same command again")
                raise self._full from None
            return Outcome(task, problem=said_of(task, error))
        except (BadFile, MemoryError) as error:
            if error is self._full:
                raise
            return Outcome(task, problem=said_of(task, error))
        finally:
            each.arrived()

    def outcomes(self, *, every: bool = False) -> Iterator[Outcome]:
        """Yield what is done, in order; of ``every`` input that was computed if that is asked for."""
        while self._written and (every or self._written[0].done()):
            with self.pace._waits():
                outcome = self._written.popleft().result()
            self.pace.inputs += 1
            self.good += outcome.problem is None
            yield outcome


def _starved(error: Exception) -> bool:
    """Return whether memory ran out, also where a reader has put that into words."""
    return out_of_memory(error) or isinstance(error.__context__, MemoryError)


def said_of(task: Task, error: Exception) -> BadFile:
    """Say what is wrong with an input and what to do, in one line that begins with its name."""
    if isinstance(error, BadFile):
        return error
    if isinstance(error, RuntimeError) or not str(error):
        return BadFile(task.image, "not enough memory for it", "close other programs, or cut it into parts")
    what, _, fix = str(error).rpartition(": ")
    return BadFile(task.image, what or fix, fix if what else "correct it, or leave it out")
