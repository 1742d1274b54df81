"""A run's folder: whose it is, what lies in it, and how it stays whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fullyconv.checkpoint import CONFIG, WEIGHTS
from fullyconv.files import (
    BadFile,
    draft_file,
    parse_json,
    settle_folder,
    sync,
    take_lock,
    whole_file,
    whole_folder,
    without_nan,
    write_json,
)
from fullyconv.train.checkpoints import STATE, Checkpoints
from fullyconv.train.optim import Descent
from fullyconv.train.recipe import read_recipe, write_recipe

if sys.platform != "win32":
    pass

BEST, LAST, BOARD = "model", "last", "tensorboard"
METRICS, RECIPE, DATA = "metrics.jsonl", "recipe.yaml", "data.json"
CLASSES, TRANSPLANT = "classes.yaml", "transplant.json"
EVALUATION, CONFUSION, REPORT = "evaluation.json", "confusion.png", "report.html"
CHOICES = "choices.json"
HEADS = "heads"  # pages and figures of further heads, in folders of their names
FILES = (METRICS, RECIPE, DATA, CLASSES, TRANSPLANT, CHOICES, EVALUATION, CONFUSION, REPORT)
NAMES = (BEST, LAST, BOARD, HEADS, *FILES)

LOCK, MARK = ".lock", "a folder of fullyconv; a run in it: process "
_held: set[Path] = set()


class RunFolder:
    """The folder of a run that this process holds; get one by ``open_run``.

    ``resume`` tells whether the run continues an earlier one.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.checkpoints = Checkpoints(path / LAST)

    def begin(self, recipe: Descent, data: Mapping[str, Any]) -> None:
        """Write down what the run is, or make sure that it is the one that was begun.

        ``data`` is what identifies the data set, as plain values. Raises ``BadFile`` if the run to resume had another
        recipe or other data.
        """
        data = without_nan(data)
        if self.resume and (self.path / DATA).is_file():
            _check_same_data(data, self.path / DATA)
        if self.resume and (self.path / RECIPE).is_file():
            _check_same_recipe(recipe, self.path / RECIPE)
        write_json(self.path / DATA, data)
        write_recipe(recipe, self.path / RECIPE)
        for name in (DATA, RECIPE):
            sync(self.path / name)
        sync(self.path)

    def replace_model(self, fill: Callable[[Path], object]) -> None:
        """Put a model in the place of the one that was best so far, both files at once."""
        with whole_folder(self.path / BEST) as draft:
            fill(draft)

    def write_metrics(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.jsonl`` anew: so it has one line per epoch, whatever a death has left in it."""
        with whole_file(self.path / METRICS) as draft:
            draft.write_text("".join(_line(figures) for figures in epochs))

    def add_metrics(self, figures: Mapping[str, Any]) -> None:
        """Append the line of an epoch."""
        with (self.path / METRICS).open("a") as file:
            file.write(_line(figures))

    def check_room(self, needed: int) -> None:
        """Raise ``BadFile`` if the disk cannot take so many bytes, those that the run has taken already among them."""
        taken = sum(file.stat().st_size for name in (BEST, LAST) for file in (self.path / name).rglob("*"))
        room = shutil.disk_usage(self.path).free + taken
        if room < needed:
            what = f"its disk has room for {room / 1e6:,.0f} MB, and this run needs {needed / 1e6:,.0f} MB"
            raise BadFile(self.path, what, "make room, or choose another --out")

    def settle(self) -> None:
        """Sweep up what a death left; of a run that never came to save its state, all that would mislead."""
        for name in FILES:
            draft_file(self.path / name).unlink(missing_ok=True)
        settle_folder(self.path / BEST)
        self.checkpoints.sweep()
        if not self.checkpoints.numbers():
            self.clear()

    def clear(self) -> None:
        """Remove what a run has written, and nothing else."""
        self.checkpoints.clear()
        written = (BEST, WEIGHTS), (BEST, CONFIG), (BOARD, "events.out.tfevents.*")
        for folder, pattern in (*written, (HEADS, f"*/{CONFUSION}"), (HEADS, f"*/{REPORT}")):
            for file in (self.path / folder).glob(pattern):
                file.unlink()
        for place in (*(self.path / HEADS).glob("*"), *(self.path / name for name in (BEST, BOARD, HEADS))):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)


@contextmanager
def open_run(out: Path, *, resume: bool, also: Sequence[str] = ()) -> Iterator[RunFolder]:
    """Hold the folder of a run, new or to be resumed, for as long as the block lasts.

    ``also`` names files that the run writes beside those that every run does. Raises ``BadFile`` if the folder cannot
    be written, if another process holds it, if it holds files of that name which no run has written, if it already
    holds a run and ``resume`` is false, or none and ``resume`` is true.
    """
    with hold(out, names=(*NAMES, *also)) as begun:
        run = RunFolder(out, resume=resume)
        if resume and not begun:
            raise not_begun(out)
        if run.checkpoints.numbers() and not resume:
            raise BadFile(out, "already holds a run", "continue it with --resume, or choose another --out")
        run.settle()
        yield run


@contextmanager
def hold(out: Path, *, names: Sequence[str] = ()) -> Iterator[bool]:
    """Make a folder if there is none, mark it as ours and keep other processes from it; gives whether it was ours.

    Raises ``BadFile`` if that cannot be, or if it is not ours and holds one of ``names``.
    """
    mark = (out / LOCK).read_text(errors="replace") if (out / LOCK).is_file() and out.resolve() not in _held else None
    ours = mark is not None and mark.startswith(MARK)
    foreign = [name for name in names if (out / name).exists()]
    if foreign and not ours:
        what = f"holds {', '.join(foreign)}, which no run of this version has written"
        raise BadFile(out, what, "choose another --out, or move them away")
    made = not out.exists()
    with _locked(out):
        try:
            yield ours or mark == ""  # empty: dead before it could be written
        finally:
            if made and os.listdir(out) == [LOCK]:  # refused before anything came of it
                (out / LOCK).unlink()
                out.rmdir()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    place = out.resolve()
    if place in _held:  # closing the file a second time would release the lock
        raise BadFile(out, "this process is writing into it already", "choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BadFile(out, f"cannot be written ({error.strerror})", "choose another --out") from None
    try:
        if not take_lock(handle):
            holder = os.read(handle, 99).decode(errors="replace").removeprefix(MARK).strip()
            what = f"another run (process {holder or 'unknown'}) is writing into it"
            raise BadFile(out, what, "wait until it ends, or choose another --out")
        _held.add(place)
        try:
            os.write(handle, f"{MARK}{os.getpid():<10}\n".encode())  # of one length: never half of it
        except OSError as error:
            raise BadFile(out, f"cannot be written ({error.strerror})", "make room, or choose another --out") from None
        try:
            yield
        finally:
            _held.discard(place)
    finally:
        os.close(handle)


def begun(run: Path) -> bool:
    """Return whether a folder holds a run that can be resumed."""
    return (run / LOCK).is_file()


def not_begun(run: Path) -> BadFile:
    """Make the error for a run that is to be resumed, where there is none."""
    return BadFile(run, "no run to resume", "leave out --resume to start anew")


def finished(run: Path) -> bool:
    """Return whether the run in a folder has come to the end of its schedule."""
    numbers = Checkpoints(run / LAST).numbers()
    try:
        return bool(numbers) and bool(parse_json((run / LAST / str(numbers[-1]) / STATE).read_bytes())["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # damaged: the resume will say so


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a run's ``metrics.jsonl``; gives the whole lines, and how many are damaged."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    whole = []
    for line in filter(str.strip, lines):
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"epoch", "loss", "learning_rate"} <= entry.keys() and _plain(entry):
            whole.append(entry)
    return whole, sum(bool(line.strip()) for line in lines) - len(whole)


def _plain(entry: dict[str, Any]) -> bool:
    return all(isinstance(value, int | float | list | None) for value in entry.values()) and entry["epoch"] is not None


def _line(figures: Mapping[str, Any]) -> str:
    return json.dumps(figures, allow_nan=False) + "\n"


def _check_same_recipe(recipe: Descent, path: Path) -> None:
    """Refuse to continue a run with choices that would make it another one."""
    before = read_recipe(path, {"default": type(recipe)()})
    changed = [
        key
        for key in type(recipe).model_fields
        if key not in recipe.changeable and getattr(before, key) != getattr(recipe, key)
    ]
    if changed:
        raise BadFile(
            path,
            f"the run was started with another {', '.join(changed)}",
            f"resume with the same recipe and settings (only {', '.join(recipe.changeable)} may change)",
        )


def _check_same_data(data: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run on other data; names what has changed."""
    try:
        before = parse_json(path.read_bytes())
    except ValueError:
        raise BadFile(path, "is damaged", "start a new run") from None
    changes = [change for key in sorted({*before, *data}) for change in _changes(key, before.get(key), data.get(key))]
    if changes:
        fix = "restore the data, or train on the new ones with another --out"
        raise BadFile(path, f"the data set has changed since the run began: {'; '.join(changes)}", fix)


def _changes(key: str, before: Any, now: Any) -> list[str]:
    if json.dumps(before) == json.dumps(now):  # the order of pairs and classes counts too
        return []
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [f"{key} was {before}, is {now}" if len(f"{before}{now}") < 200 else f"{key} is another"]
    found = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [name for name in before if name in now and before[name] != now[name]],
    }
    if not any(found.values()):
        return [f"{key} come in another order"]
    return [
        f"{len(names)} of {key} {what} ({', '.join(names[:3])}{', …' * (len(names) > 3)})"
        for what, names in found.items()
        if names
    ]
