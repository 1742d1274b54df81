"""The command line. PyTorch is imported by the commands that need it, not by ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fullyconv.check import Report
    from fullyconv.evaluation import Evaluation
    from fullyconv.predict.image import Segmenter
    from fullyconv.train.recipe import Recipe

app = typer.Typer(
    help="Fully convolutional networks: an image of any size in, a class for every pixel out.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data sets, and make one to try.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

ModelArgument = Annotated[Path, typer.Argument(help="Model folder (RUN/model).", show_default=False)]
DataArgument = Annotated[Path, typer.Argument(help="Data-set folder.", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value; may be repeated.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Arithmetic: bf16 is quicker where the machine has it.")]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Bars:
    """Progress bars on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
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
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._tasks[what], completed=done, total=total, note=note)


class TrainingBars:
    """Shows a run: one bar over all its updates, and a line per epoch."""

    def __init__(self, bars: Bars, epochs: int) -> None:
        self._bars, self._epochs = bars, epochs

    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        note = f"epoch {epoch + 1}/{self._epochs} loss {loss:.3f}"
        self._bars("training", epoch * steps + step, self._epochs * steps, note)

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Print the epoch's figures."""
        scores = ""
        if "mean_iu" in figures:
            scores = f"  mean IU {figures['mean_iu']:.3f}  pixel accuracy {figures['pixel_accuracy']:.3f}"
        loss = "-" if figures["loss"] is None else f"{figures['loss']:.3f}"
        err.print(f"epoch {figures['epoch']:3d}/{self._epochs}  loss {loss}{scores}  {figures['seconds']:.0f} s")


@data_app.command("check")
def data_check(data: DataArgument) -> None:
    """Read a data set once and list what is in it and what is wrong with it; exit status 1 if anything is.

    Example: `fullyconv data check photos/`
    """
    from fullyconv.check import check_folder
    from fullyconv.data.folder import open_folder

    with Bars() as bars:
        report = check_folder(open_folder(data), progress=bars)
    _print_report(report)
    if report.inferred:
        _write_inferred_classes(report, data)
    if report.problems:
        raise typer.Exit(1)


@data_app.command("demo")
def data_demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = 320,
    val: Annotated[int, typer.Option(min=1, help="Validation pictures.")] = 40,
    seed: int = 0,
) -> None:
    """Write a generated data set to try everything on.

    Example: `fullyconv data demo shapes/ --train 320 --val 40`
    """
    from fullyconv.data.synthetic import write_dataset

    write_dataset(folder, train=train, val=val, seed=seed)
    out.print(f"{train} training and {val} validation pictures in {folder}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe: default, camvid, demo, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="Data-set folder.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    skip_problems: Annotated[
        bool, typer.Option("--skip-problems", help="Leave out pairs that data check complains of.")
    ] = False,
) -> None:
    """Train a model and measure it: RUN/model (the best), RUN/report.html, RUN/metrics.jsonl, TensorBoard events.

    Examples: `fullyconv train default --data photos/ --out runs/photos`,
    `fullyconv train camvid --data camvid/ --out runs/camvid --set minutes=30 --set network=fcn16s-resnet18`.
    Ctrl-C saves the run; `--resume` continues it.
    """
    from fullyconv.recipes import find_recipe
    from fullyconv.train.recipe import change, parse_settings

    chosen = change(find_recipe(recipe), parse_settings(set_ or []), source="--set")
    _train(chosen, data, out_, resume=resume, skip_problems=skip_problems)


def _train(recipe: Recipe, data: Path, run: Path, *, resume: bool, skip_problems: bool) -> Evaluation:
    from fullyconv.checkpoint import write_json
    from fullyconv.engine import keep_freed_memory
    from fullyconv.evaluation import evaluate
    from fullyconv.predict.image import load
    from fullyconv.report import plot_confusion, save_figure, write_report
    from fullyconv.train.assemble import RECIPE, BadData, assemble, prepare
    from fullyconv.train.loop import BEST, fit

    keep_freed_memory()
    try:
        with Bars() as bars:
            prepared = prepare(recipe, data, skip_problems=skip_problems, progress=bars)
    except BadData as bad:
        _print_report(bad.report)
        err.print("Training refuses this data set: correct it, or leave the bad pairs out with --skip-problems.")
        raise typer.Exit(1) from None
    if prepared.report.inferred:
        _write_inferred_classes(prepared.report, data)
    if prepared.report.folder.note:
        err.print(prepared.report.folder.note)
    job = assemble(recipe, prepared, run, resume=resume)
    err.print(
        f"{recipe.network}, {len(job.classes)} classes, {len(prepared.train)} training and {len(prepared.val)} "
        f"validation pairs, {job.device.type}, {job.precision}"
    )
    try:
        with Bars() as bars:
            fit(job, TrainingBars(bars, recipe.epochs), resume=resume)
    except KeyboardInterrupt:
        err.print(f"stopped; continue with: fullyconv train … --out {run} --resume")
        raise typer.Exit(130) from None
    segmenter = load(run / BEST, device=recipe.device)
    with Bars() as bars:
        evaluation = evaluate(segmenter, prepared.val, progress=lambda n, total: bars("evaluating", n, total))
    write_json(run / "evaluation.json", evaluation.document())
    save_figure(plot_confusion(evaluation), run / "confusion.png")
    write_report(
        run, segmenter, evaluation, prepared.val, title=f"fullyconv: {run.name}", recipe=(run / RECIPE).read_text()
    )
    _print_evaluation(evaluation)
    out.print(f"model {run / BEST}\nreport {run / 'report.html'}")
    return evaluation


@app.command("evaluate")
def evaluate_command(
    model: ModelArgument,
    data: DataArgument,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, and the confusion matrix beside it.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score; default: val, test or all.")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Score a model over a data set at native resolution.

    Example: `fullyconv evaluate runs/camvid/model camvid/val --json scores.json` also writes scores.png,
    the confusion matrix.
    """
    from fullyconv.checkpoint import write_json
    from fullyconv.data.folder import evaluation_split, open_folder
    from fullyconv.evaluation import evaluate
    from fullyconv.predict.image import load
    from fullyconv.report import plot_confusion, save_figure

    segmenter = load(model, device=device, precision=precision)
    folder = open_folder(data)
    pairs = evaluation_split(folder, split)
    for problem in folder.problems:
        err.print(f"[yellow]not scored:[/] {problem}")
    with Bars() as bars:
        evaluation = evaluate(segmenter, pairs, progress=lambda n, total: bars("evaluating", n, total))
    _print_evaluation(evaluation)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, evaluation.document())
        save_figure(plot_confusion(evaluation), json_file.with_suffix(".png"))
        out.print(f"figures {json_file}\nconfusion matrix {json_file.with_suffix('.png')}")


@app.command()
def predict(
    model: ModelArgument,
    inputs: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write C x H x W float16 class probabilities (.npz).")
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Label every pixel of images: a palette PNG of the same size and an overlay each.

    Examples: `fullyconv predict runs/photos/model holiday.jpg --out labelled`,
    `fullyconv predict runs/photos/model photos/ "scans/*.tif" --out labelled --probabilities`.
    A bad file is reported and skipped; exit status 1 then.
    """
    from fullyconv.predict.folder import find_images
    from fullyconv.predict.image import load

    segmenter = load(model, device=device, precision=precision)
    tasks = find_images(inputs)
    bad = _predict(segmenter, tasks, out_, probabilities=probabilities)
    out.print(f"{len(tasks) - bad} of {len(tasks)} images labelled in {out_}")
    if bad:
        raise typer.Exit(1)


def _predict(segmenter: Segmenter, tasks: list[Any], folder: Path, *, probabilities: bool) -> int:
    from fullyconv.predict.folder import predict_files

    bad = 0
    with Bars() as bars:
        outcomes = predict_files(segmenter, tasks, folder, probabilities=probabilities)
        for done, outcome in enumerate(outcomes, start=1):
            if outcome.problem is not None:
                bad += 1
                err.print(f"[red]skipped:[/] {outcome.problem}")
            bars("predicting", done, len(tasks), outcome.task.image.name)
    return bad


@app.command()
def demo(
    out_: Annotated[Path, typer.Option("--out", help="Folder for the demonstration.")] = Path("runs/demo"),
) -> None:
    """Show everything in a few minutes: make a data set, train FCN-8s on it, score, predict, report."""
    import shutil

    from fullyconv.data.folder import open_folder
    from fullyconv.data.synthetic import write_dataset
    from fullyconv.predict.folder import find_images
    from fullyconv.predict.image import load
    from fullyconv.recipes import RECIPES

    shutil.rmtree(out_, ignore_errors=True)
    data = write_dataset(out_ / "data", train=320, val=40)
    open_folder(data)
    _train(RECIPES["demo"], data, out_, resume=False, skip_problems=False)
    tasks = find_images([data / "val" / "images"])
    _predict(load(out_ / "model"), tasks, out_ / "predictions", probabilities=False)
    out.print(f"predictions {out_ / 'predictions'}\nOpen {out_ / 'report.html'} in a browser.")


def _print_report(report: Report) -> None:
    splits = Table("split", "pairs", "smallest", "largest", "void", title="pairs (sizes are width x height)")
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
    shares = Table("class", *report.splits, title="share of the labelled pixels")
    for index, name in enumerate(report.classes.names):
        shares.add_row(name, *(f"{figures.shares[index]:.2%}" for figures in report.splits.values()))
    out.print(shares)
    out.print(f"mean {report.mean}  standard deviation {report.std}  (RGB, 0..255)")
    for problem in report.problems:
        out.print(f"[red]problem:[/] {problem}", markup=True)
    out.print(f"{len(report.problems)} problem{'s' * (len(report.problems) != 1)}")


def _write_inferred_classes(report: Report, data: Path) -> None:
    from fullyconv.data.classes import FILE_NAME, write_classes

    try:
        write_classes(report.classes, data / FILE_NAME)
    except OSError:
        err.print(
            f"{len(report.classes)} classes inferred from the masks; {data} cannot be written to, so no {FILE_NAME}"
        )
        return
    err.print(f"{len(report.classes)} classes inferred from the masks: edit their names in {data / FILE_NAME}")


def _print_evaluation(evaluation: Evaluation) -> None:
    document, scores = evaluation.document(), evaluation.scores
    table = Table("class", "IU", "accuracy", title=f"{document['images']} images at native resolution")
    for name, iu, accuracy in zip(
        evaluation.classes.names, scores.per_class_iu, scores.per_class_accuracy, strict=True
    ):
        table.add_row(name, f"{iu:.3f}", f"{accuracy:.3f}")
    out.print(table)
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        out.print(f"{key.replace('_', ' ')} {document[key]:.4f}" if document[key] == document[key] else f"{key} -")
    absent = ", ".join(evaluation.absent) or "none"
    out.print(f"classes absent from the truth: {absent}; void share {evaluation.void_share:.1%}")
    out.print(f"convention: {document['convention']}")


def main() -> None:
    """Run the command line; what the user can correct ends in one line and exit status 2, not a traceback."""
    _tidy(app)


def _tidy(run: Callable[[], None]) -> None:
    try:
        run()
    except (ValueError, OSError) as error:
        err.print(f"[red]error:[/] {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
