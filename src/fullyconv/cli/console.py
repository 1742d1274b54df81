"""What commands print: progress, tables, figures."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fullyconv.data.problems import group
from fullyconv.files import FileWarning, counted, printable

if TYPE_CHECKING:
    from fullyconv.data.check import Report
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.confidence import Fit
    from fullyconv.evaluation.folds import Folds
    from fullyconv.files import BadFile
    from fullyconv.hsi.files import SceneReport
    from fullyconv.scores.bounds import Bounds
    from fullyconv.scores.calibration import Calibration
    from fullyconv.train.auto import Choice
    from fullyconv.types import ClassSet


class _Plain(Console):
    """A console that prints names of classes and files as they are, on one rule for all text that comes to it.

    "[b]" and ":car:" are no markup; what a terminal would obey, and what is no text, is printed as its code.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Bring all text to what is shown, in tables and progress bars too; codes for colours come later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


out = _Plain()
err = _Plain(stderr=True)


def hush() -> None:
    """Print nothing any more, for a process beside one that speaks; its own errors are still told."""
    out.quiet = err.quiet = True


def complain(what: str, message: object) -> None:
    """Print a message to standard error behind a red word."""
    err.quiet = err.quiet and what != "error"
    err.print(behind(what, "red", message))


def behind(word: str, colour: str, message: object) -> Text:
    """Put a message behind a coloured word and a colon."""
    return Text.assemble((f"{word}:", colour), f" {message}")


def show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning of Python's ``warnings`` as a line of ours, without the line of code that gave it.

    Of what holds for many files the first is named; ``count_warnings`` says in the end how many there were.
    """
    if isinstance(message, FileWarning):
        _files_warned[message.what] += 1
        if _files_warned[message.what] > 1:
            return
    err.print(behind("warning", "yellow", message))


_files_warned: Counter[str] = Counter()


def count_warnings() -> None:
    """Say of how many more files what was warned of once holds, and forget it."""
    for what, count in _files_warned.items():
        if count > 1:
            err.print(behind("warning", "yellow", f"{counted(count - 1, 'more file')}: {what}"))
    _files_warned.clear()


AGAIN = "run the same command with --resume to continue"


@contextmanager
def stopped_in_words(again: str = AGAIN) -> Iterator[None]:
    """End the command with status 130 when a run was stopped, and say how to continue it."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"stopped; {again}")
        raise typer.Exit(130) from None


class Bars:
    """Progress bars on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of ``what``."""
        what, note = printable(what), printable(note)
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._tasks[what], completed=done, total=total, note=note)


class TrainingBars:
    """Shows a run on pictures: one bar over all its updates, and a line per epoch."""

    def __init__(self, bars: Bars, epochs: int) -> None:
        self._bars, self._epochs = bars, epochs

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """Move the bar."""
        self._bars("training", done, total, f"epoch {epoch + 1}/{self._epochs} loss {loss:.3f}")

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Print the epoch's figures."""
        scores = ""
        if figures.get("mean_iu") is not None:
            scores = f"  mean IU {figures['mean_iu']:.3f}  pixel accuracy {figures['pixel_accuracy']:.3f}"
            further = {key.removesuffix("_mean_iu"): figures[key] for key in figures if key.endswith("_mean_iu")}
            scores += "".join(f"  {name} {score:.3f}" for name, score in further.items() if score is not None)
        loss = "-" if figures["loss"] is None else f"{figures['loss']:.3f}"
        err.print(f"epoch {figures['epoch']:3d}/{self._epochs}  loss {loss}{scores}  {figures['seconds']:.0f} s")

    def remark(self, text: str) -> None:
        """Print what a person should know."""
        complain("careful", text)


class SceneBars(TrainingBars):
    """Shows a run on a scene: its epochs are only as long as what is saved at once, and get no line."""

    def __init__(self, bars: Bars, name: str) -> None:
        super().__init__(bars, 0)
        self._name = name

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """Move the bar."""
        self._bars(self._name, done, total, f"loss {loss:.3f}")

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Keep silent."""


def print_choices(choices: Sequence[Choice]) -> None:
    """Print what was chosen for a run, and why."""
    for choice in choices:
        err.print(f"{choice.key}={json.dumps(choice.value)}: {choice.reason}")


def print_report(report: Report) -> None:
    """Print what a data set holds and what is wrong with it."""
    _print_masks(report)
    for name, own in report.heads.items():
        _print_masks(own, f" of head {name}")
    channels = "RGB" if len(report.mean) == 3 else "of each channel"
    out.print(f"mean {report.mean}  standard deviation {report.std}  ({channels}, 0..255)")
    print_warnings(report.warnings)
    print_problems(report.problems)


def _print_masks(report: Report, of: str = "") -> None:
    title = f"pairs{of} (sizes are width x height, each by itself)"
    splits = Table("split", "pairs", "smallest", "largest", "void", title=title)
    for name, figures in report.splits.items():
        total = int(figures.pixels.sum()) + figures.void
        splits.add_row(
            name,
            str(figures.pairs),
            f"{figures.smallest[1]} x {figures.smallest[0]}",
            f"{figures.largest[1]} x {figures.largest[0]}",
            f"{figures.void / max(1, total):.1%}",
        )
    out.print(splits)
    shares = Table("class", *report.splits, title=f"share of the labelled pixels{of}")
    for index, name in enumerate(report.classes.names):
        shares.add_row(name, *(f"{figures.shares[index]:.2%}" for figures in report.splits.values()))
    out.print(shares)


def inferred_in_words(report: Report) -> str:
    """Say that classes were inferred, and how to name them; of a further head under which key."""
    from fullyconv.data.classes import FILE_NAME
    from fullyconv.data.matching import listed

    root = report.folder.root
    if task := report.folder.task:
        said = (
            f"{len(report.classes)} classes of head {task!r} inferred from its masks ({listed(report.classes.names)})"
        )
        return f"{said}: name them in {FILE_NAME}, heads: {{{task}: {{classes: [...]}}}}"
    words = f"{shlex.quote(str(root))}{' --instances' if report.classes.instances else ''} --write-classes"
    how = f"to name them, 'fullyconv data check {words}' writes {root / FILE_NAME}"
    return f"{len(report.classes)} classes inferred from the masks ({listed(report.classes.names)}): {how}"


def print_inferred(report: Report, *, first: bool = True) -> None:
    """Say of the first masks, and of those of each further head, where their classes were inferred."""
    for own in [report] * first + [*report.heads.values()]:
        if own.inferred:
            err.print(inferred_in_words(own))


def print_bounds(bounds: Bounds, classes: ClassSet) -> None:
    """Print the best IU that predictions at several strides can reach, and which stride to take."""
    if not bounds.pictures:
        return
    from fullyconv.scores.bounds import advise
    from fullyconv.scores.metrics import shown

    heads = map(str, bounds.strides)
    table = Table("class", *heads, title="best IU of a prediction at stride …: by blocks, bilinear")
    for index, name in enumerate(classes.names):
        cells = (f"{shown(blocks, 2)} {shown(smooth, 2)}" for blocks, smooth in bounds.class_iu(index).values())
        table.add_row(name, *cells)
    table.add_row("mean IU", *(f"{shown(blocks, 2)} {shown(smooth, 2)}" for blocks, smooth in bounds.mean_ius.values()))
    out.print(table)
    out.print(advise(bounds, classes.names))


def print_scene(report: SceneReport) -> None:
    """Print what a scene holds and what is wrong with it."""
    scene = report.scene
    height, width, bands = scene.cube.shape
    out.print(f"{height} x {width} pixels (rows x columns), {bands} bands of {scene.cube.dtype}")
    span = f"{min(scene.wavelengths):g} to {max(scene.wavelengths):g} nm" if scene.wavelengths else "not said"
    out.print(
        f"wavelengths {span}, values {report.low:g} to {report.high:g}, georeference {_whether(scene.georeference)}"
    )
    out.print(f"bad bands {_whether(scene.bad_bands)}, constant bands {_whether(report.constant)} (counted from 0)")
    if scene.classes is not None:
        labelled = max(1, int(report.pixels.sum()))
        table = Table(
            "label", "class", "pixels", "share", title=f"{labelled / (height * width):.1%} of the pixels labelled"
        )
        for value, name, count in zip(scene.classes.values, scene.classes.names, report.pixels, strict=True):
            table.add_row(str(value), name, str(count), f"{count / labelled:.2%}")
        out.print(table)
    else:
        out.print("no labels" + (f"; of the rest nothing is used: {report.others}" if report.others else ""))
    if report.missing:
        unread = f", {report.unread} labelled ones among them" if report.unread else ""
        share = report.missing / (height * width)
        out.print(f"no data in {report.missing} pixels ({share:.1%}){unread}: not trained on, not scored, 0 in maps")
    print_warnings(report.warnings)
    print_problems(report.problems)


def _whether(value: object) -> str:
    if value is None or isinstance(value, list | tuple):
        return ", ".join(map(str, value or ())) or "none"
    return "given"


def print_warnings(warnings: Sequence[BadFile]) -> None:
    """Print what is worth knowing of a data set, a few lines for each kind."""
    for each in group(warnings):
        out.print(behind("warning", "yellow", "\n".join(each.lines())))


def print_problems(problems: Sequence[BadFile]) -> None:
    """Print what is wrong with a data set, a few lines for each kind, and how much."""
    for each in group(problems):
        out.print(behind("problem", "red", "\n".join(each.lines())))
    out.print(f"{counted(len(problems), 'problem')}")


def print_head(name: str) -> None:
    """Print whose figures follow, where they are a further head's."""
    if name:
        out.print(f"head {name}:")


def print_evaluation(evaluation: Evaluation) -> None:
    """Print scores per class and for the whole set."""
    from fullyconv.scores.metrics import CONVENTION, shown

    scores = evaluation.scores
    intervals = evaluation.intervals
    spans = ["–"] * len(evaluation.classes) if intervals is None else map(_span, intervals.per_class_iu)
    title = f"{counted(len(evaluation.image_iu), 'image')} at native resolution"
    table = Table("class", "IU", "95 %", "accuracy", "F1", title=title)
    figures = (scores.per_class_iu, scores.per_class_accuracy, scores.per_class_f1)
    for name, span, iu, *values in zip(evaluation.classes.names, spans, *figures, strict=True):
        table.add_row(name, shown(iu), span, *map(shown, values))
    out.print(table)
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        span = "" if intervals is None else f"  ({_span(getattr(intervals, key))})"
        out.print(f"{key.replace('_iu', ' IU').replace('_', ' ')} {shown(getattr(scores, key), 4)}{span}")
    if evaluation.absent:
        out.print(f"mean IU of the classes in the truth {shown(scores.mean_iu_present, 4)}")
    absent = ", ".join(evaluation.absent) or "none"
    out.print(f"classes absent from the truth: {absent}; void share {evaluation.void_share:.1%}")
    out.print(f"convention: {CONVENTION}")
    if intervals is not None:
        out.print(intervals.convention)


def print_fit(fit: Fit) -> None:
    """Print what a temperature does to a model's probabilities."""
    error = f"{fit.before.error:.4f} before, {fit.after.error:.4f} after (of {counted(fit.pictures, 'picture')})"
    out.print(f"temperature of the probabilities {fit.temperature:.3f}; expected calibration error {error}")
    print_caught(fit.after)


def print_caught(found: Calibration) -> None:
    """Print which share of the errors the least certain pixels hold."""
    if math.isnan(found.caught):
        out.print("no pixel is wrong, so the least certain ones hold no errors")
    else:
        out.print(f"the 10 % least certain pixels hold {found.caught:.1%} of all errors")


def print_folds(folds: Folds) -> None:
    """Print the scores of each part that was held out, their mean and how far they lie apart."""
    keys = ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu")
    heads = (key.replace("_iu", " IU").replace("_", " ") for key in keys)
    table = Table("part", "pictures", *heads, title="each part scored by the model that has not seen it")
    for part, evaluation in enumerate(folds.parts, start=1):
        values = (f"{getattr(evaluation.scores, key):.3f}" for key in keys)
        table.add_row(str(part), str(len(evaluation.image_iu)), *values)
    table.add_row("mean", "", *(f"{mean:.3f} ± {apart:.3f}" for mean, apart in map(folds.mean, keys)))
    out.print(table)
    print_evaluation(folds.together)


def _span(interval: tuple[float, float]) -> str:
    return "–" if math.isnan(interval[0]) else f"{interval[0]:.3f}–{interval[1]:.3f}"
