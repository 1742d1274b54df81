"""``fullyconv hsi …``, and ``train`` and ``evaluate`` on hyperspectral scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fullyconv.cli.console import Bars, SceneBars, complain, err, out, print_evaluation, stopped_in_words
from fullyconv.cli.options import OverwriteOption, SetOption

if TYPE_CHECKING:
    import numpy as np

    from fullyconv.evaluation import Evaluation
    from fullyconv.hsi.recipe import SceneRecipe
    from fullyconv.hsi.scoring import SceneEvaluation
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.types import ClassSet

HELP = """Hyperspectral scenes: splits without leakage, methods side by side.

Example: `fullyconv hsi split scene.mat --labels gt.mat --out split`
"""
app = typer.Typer(help=HELP, no_args_is_help=True)

SceneArgument = Annotated[Path, typer.Argument(help="The scene: .mat, .hdr, .tif, .npy or .npz.", show_default=False)]
RecipeOption = Annotated[str, typer.Option(help="Scene recipe (hsi, hsi-random) or a YAML file based on one.")]
LabelsOption = Annotated[Path | None, typer.Option(help="The label map, if the scene's file has none.")]
SCORES = "scores"


@app.command("split")
def split(
    scene: SceneArgument,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for split.npz and split.png.")] = None,
    labels: LabelsOption = None,
    kind: Annotated[str | None, typer.Option("--split", help="random, blocks or masks.")] = None,
    recipe: RecipeOption = "hsi",
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Split the labelled pixels of a scene; prints the counts of every class and the leakage.

    Example: `fullyconv hsi split scene.mat --labels gt.mat --split blocks --set network=fcn1s-spectral2 --out split`.
    A label map by itself will do for SCENE.
    """
    from fullyconv.draw import save_picture
    from fullyconv.hsi.report import split_picture
    from fullyconv.hsi.splits import leakage
    from fullyconv.hsi.trial import make_split, network_windows, write_split
    from fullyconv.outputs import Outputs

    chosen = _recipe(recipe, set_, labels, kind)
    outputs = None
    if out_ is not None:
        outputs = Outputs(out_, inputs=_inputs(scene, chosen), overwrite=overwrite)
        outputs.check(["split.npz", "split.png"])
    truth, classes = _labels_of(chosen, scene)
    made = make_split(chosen, truth)
    _print_table(
        _count_rows(made.counts(truth, len(classes)).tolist(), classes), title=f"{made.kind} split of {scene.name}"
    )
    windows = network_windows(chosen, (truth.shape[0], truth.shape[1]))
    guard = f"guard {made.guard} px; " if made.kind == "blocks" else ""
    share = leakage(made.train, made.test, windows)
    out.print(f"{guard}leakage with {chosen.network}: {share:.2%} of the test pixels lie in what training sees")
    for index in made.one_sided(truth):
        complain("careful", f"{classes.names[index]} is not on both sides")
    if outputs is not None:
        with outputs.writing("split.npz", "split.png"):
            write_split(made, outputs.folder / "split.npz")
            save_picture(split_picture(truth, made, classes), outputs.folder / "split.png")
        out.print(f"masks {outputs.folder / 'split.npz'}\npicture {outputs.folder / 'split.png'}")


@app.command("compare")
def compare(
    scene: SceneArgument,
    out_: Annotated[Path, typer.Option("--out", help="Folder for the tables and maps.")],
    labels: LabelsOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Train so often, with other splits and seeds.")] = 1,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="SVM, random forest, patch CNN 15×15, FCN; default: all.")
    ] = None,
    recipe: RecipeOption = "hsi",
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Train SVM, random forest, a patch CNN and the FCN on the same pixels: scores, seconds and memory side by side.

    Example: `fullyconv hsi compare scene.mat --labels gt.mat --runs 5 --out compared` writes scores.md, scores.json
    and the maps of the first run.
    """
    from fullyconv.draw import save_picture
    from fullyconv.files import write_json, write_text
    from fullyconv.hsi.comparison import METHODS
    from fullyconv.hsi.comparison import compare as run
    from fullyconv.hsi.report import scene_pictures
    from fullyconv.outputs import Outputs

    chosen = _recipe(recipe, set_, labels)
    names = [f"{SCORES}.md", f"{SCORES}.json"]
    names += [f"{_stem(method)}{end}.png" for method in methods or METHODS for end in ("", "-errors")]
    outputs = Outputs(out_, inputs=_inputs(scene, chosen), overwrite=overwrite)
    outputs.check(names)
    with Bars() as bars:
        comparison = run(
            chosen,
            chosen.files(scene).open(),
            methods=methods or tuple(METHODS),
            runs=runs,
            progress=lambda done, total, method: bars("comparing", done, total, method),
        )
    trial = comparison.trials[0]
    with outputs.writing(*names):
        write_text(out_ / f"{SCORES}.md", comparison.markdown())
        write_json(out_ / f"{SCORES}.json", comparison.document())
        for method, outcomes in comparison.outcomes.items():
            pictures = scene_pictures(trial, outcomes[0].labels)
            save_picture(pictures["map"], out_ / f"{_stem(method)}.png")
            save_picture(pictures["errors on the test pixels"], out_ / f"{_stem(method)}-errors.png")
    _print_scores(comparison.evaluations)
    _print_table(comparison.cost_rows(), title="cost")
    faster = comparison.speed_up()
    if faster is not None:
        out.print(f"the FCN labels the scene {faster.mean:.0f} times faster than the patch CNN")
    out.print(f"tables {out_ / SCORES}.md, {out_ / SCORES}.json; maps {out_}/*.png")


def train_scenes(recipe: SceneRecipe, data: Path, out_: Path, *, runs: int, resume: bool) -> None:
    """Train on a scene with a progress bar, ``runs`` times; prints the scores, or their mean and deviation."""
    from fullyconv.files import write_json, write_text
    from fullyconv.hsi.run import train_scene
    from fullyconv.hsi.scoring import markdown, summary_document, tables
    from fullyconv.machine import keep_freed_memory
    from fullyconv.train.folder import begun, hold

    keep_freed_memory()
    scene = recipe.files(data).open()
    done: list[SceneEvaluation] = []
    with hold(out_) if runs > 1 else nullcontext():
        for run in range(runs):
            place = out_ / str(run + 1) if runs > 1 else out_
            seeded = recipe.model_copy(update={"seed": recipe.seed + run})
            with Bars() as bars, stopped_in_words():
                watcher = SceneBars(bars, f"run {run + 1}/{runs}")
                done.append(train_scene(seeded, scene, place, watcher=watcher, resume=resume and begun(place)))
            if runs > 1:
                err.print(f"{place}: overall accuracy {done[-1].scores.pixel_accuracy:.4f}; {done[-1].leakage_line}")
    if runs == 1:
        _print_scene(done[0])
        out.print(f"model {out_ / 'model'}\nreport {out_ / 'report.html'}")
        return
    methods = {recipe.network: done}
    write_json(out_ / f"{SCORES}.json", summary_document(methods))
    write_text(out_ / f"{SCORES}.md", "\n".join(map(markdown, tables(methods))))
    _print_scores(methods)
    out.print(f"tables {out_ / SCORES}.md, {out_ / SCORES}.json; runs {out_}/1 … {out_}/{runs}")


class ScoreFiles:
    """The figures of an evaluation as JSON with the confusion matrix beside it, if they are wanted.

    That they may be written is checked before the scoring.
    """

    def __init__(
        self,
        json_file: Path | None,
        *,
        inputs: Iterable[Path] = (),
        overwrite: bool = False,
        heads: Sequence[str] = (),
    ) -> None:
        from fullyconv.outputs import single_output

        self._json = json_file
        if json_file is not None:
            if json_file.suffix == ".png":
                raise ValueError(f"--json {json_file}: the confusion matrix takes that name: end it in .json")
            names = {head: f"{json_file.stem}_{head}.png" if head else f"{json_file.stem}.png" for head in ("", *heads)}
            self._pictures = {head: json_file.with_name(name) for head, name in names.items()}
            files = self._pictures.values()
            self._outputs = single_output(json_file, *files, inputs=inputs, overwrite=overwrite, by="evaluate")

    def write(self, document: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> None:
        """Write the figures and the matrix of each head by its name, that of the first by ``""``."""
        from fullyconv.files import write_json
        from fullyconv.report import plot_confusion, save_figure

        if self._json is not None:
            with self._outputs.writing(self._json.name, *(each.name for each in self._pictures.values())):
                write_json(self._json, document)
                for head, picture in self._pictures.items():
                    save_figure(plot_confusion(evaluations[head]), picture)
            out.print(f"figures {self._json}")
            for picture in self._pictures.values():
                out.print(f"confusion matrix {picture}")


def evaluate_on_scene(
    model: Path,
    segmenter: SceneSegmenter,
    data: Path,
    *,
    labels: Path | None,
    masks: Path | None,
    figures: ScoreFiles,
) -> None:
    """Score a model on the test pixels of a scene, and print the leakage."""
    from fullyconv.hsi.files import SceneFiles
    from fullyconv.hsi.run import evaluate_scene

    # A model that knows a class of value 0 was trained on a map whose 0 is one.
    scene = SceneFiles(data, labels, zero="class" if 0 in segmenter.classes.values else "unlabelled").open()
    evaluation = evaluate_scene(model, segmenter, scene, masks=masks)
    _print_scene(evaluation)
    figures.write(evaluation.document(), {"": evaluation.evaluation})


def _labels_of(recipe: SceneRecipe, scene: Path) -> tuple[np.ndarray, ClassSet]:
    """Read the labels of a scene, or a label map that has no cube beside it."""
    from fullyconv.files import BadFile
    from fullyconv.hsi.normalise import choose_bands
    from fullyconv.hsi.trial import labelled

    files = recipe.files(scene)
    try:
        found = files.open()
    except BadFile:
        if recipe.labels is not None and scene != Path(recipe.labels):
            raise
        return files.open_labels()
    return labelled(found, choose_bands(found, recipe.bands, drop_bad=recipe.drop_bad))


def _recipe(name: str, set_: list[str] | None, labels: Path | None, kind: str | None = None) -> SceneRecipe:
    from fullyconv.recipes import SCENE_RECIPES, find_scene_recipe
    from fullyconv.train.recipe import change, nearest
    from fullyconv.train.settings import parse_settings

    recipe = find_scene_recipe(name)
    if recipe is None:
        raise ValueError(f"unknown scene recipe{nearest(name, SCENE_RECIPES)} (or a .yaml file with such a base)")
    given = {"labels": None if labels is None else str(labels), "split": kind}
    recipe = change(recipe, {key: value for key, value in given.items() if value is not None}, source="the command")
    return change(recipe, parse_settings(set_ or [], type(recipe)), source="--set")


def _inputs(scene: Path, recipe: SceneRecipe) -> list[Path]:
    return [scene, *(Path(each) for each in (recipe.labels, recipe.masks) if each is not None)]


def _stem(method: str) -> str:
    return method.replace(" ", "-").replace("×", "x")


def _print_scene(result: SceneEvaluation) -> None:
    print_evaluation(result.evaluation)
    scores = result.scores
    out.print(
        f"overall accuracy {scores.pixel_accuracy:.4f}  average accuracy {scores.mean_accuracy:.4f}  "
        f"kappa {scores.kappa:.4f}\n{result.leakage_line}"
    )


def _print_scores(methods: Mapping[str, Sequence[SceneEvaluation]]) -> None:
    from fullyconv.hsi.scoring import tables

    runs = len(next(iter(methods.values())))
    for rows in tables(methods):
        _print_table(rows, title=f"test pixels, %, mean ± standard deviation of {runs} runs" if runs > 1 else "%")
    for method, evaluations in methods.items():
        out.print(f"{method}: {evaluations[0].leakage_line}")


def _count_rows(counts: Sequence[Sequence[int]], classes: ClassSet) -> list[list[str]]:
    rows = [["class", "training", "test", "discarded"]]
    rows += [[name, *map(str, each)] for name, each in zip(classes.names, counts, strict=True)]
    return [*rows, ["all", *(str(sum(column)) for column in zip(*counts, strict=True))]]


def _print_table(rows: Sequence[Sequence[str]], *, title: str) -> None:
    table = Table(*rows[0], title=title)
    for row in rows[1:]:
        table.add_row(*row)
    out.print(table)
