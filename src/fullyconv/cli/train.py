"""``fullyconv train`` and ``fullyconv demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import (
    AGAIN,
    Bars,
    TrainingBars,
    err,
    out,
    print_evaluation,
    print_folds,
    print_report,
    print_warnings,
    stopped_in_words,
)
from fullyconv.cli.data import write_inferred_classes
from fullyconv.cli.hsi import train_scenes
from fullyconv.cli.options import SetOption, TrustOption, import_from_here
from fullyconv.cli.predict import predict_tasks

if TYPE_CHECKING:
    from fullyconv.data.pairs import Folder
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.folds import Folds
    from fullyconv.train.assemble import Prepared
    from fullyconv.train.chain import Chain
    from fullyconv.train.folder import RunFolder
    from fullyconv.train.recipe import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe (default, camvid, hsi, voc-fcn32s, …), chain (voc-staged), or a YAML file.")
    ],
    data: Annotated[Path, typer.Option(help="Data-set folder; of scene recipes (hsi) the scene's file.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    skip_problems: Annotated[
        bool, typer.Option("--skip-problems", help="Leave out pairs that data check complains of.")
    ] = False,
    runs: Annotated[int, typer.Option(min=1, help="Scene recipes: train so often, with other splits and seeds.")] = 1,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Pictures: train so often, each time with another part held out.")
    ] = None,
    trust: TrustOption = None,
) -> None:
    """Train a model and measure it: RUN/model (the best), RUN/report.html, RUN/metrics.jsonl, TensorBoard events.

    Examples: `fullyconv train default --data photos/ --out runs/photos`,
    `fullyconv train camvid --data camvid/ --out runs/camvid --set minutes=30 --set network=fcn16s-resnet18`.
    A chain trains its stages one after the other, each from the best model of the one before, into RUN/STAGE:
    `fullyconv train voc-staged --data voc/ --out runs/staged --set start_from=vgg16.safetensors --set fcn16s.epochs=6`.
    `--set split=group --set group='^[^_]+'` validates on whole groups (drives, patients), `--folds 5` on each of five
    parts in turn: RUN/fold-K, and their mean in RUN/folds.json.
    Ctrl-C saves the run; `--resume` continues it. One hyperspectral scene: `fullyconv train hsi --data scene.mat
    --set labels=gt.mat --out runs/scene --runs 5`.
    """
    from fullyconv.recipes import find_chain, find_recipe, find_scene_recipe
    from fullyconv.train.chain import change_chain
    from fullyconv.train.folder import hold, open_run
    from fullyconv.train.recipe import change, parse_settings

    settings = parse_settings(set_ or [])
    words = [*map(str, settings.values()), *(trust or ())]
    import_from_here(*words)
    scene_recipe = find_scene_recipe(recipe)
    if scene_recipe is not None:
        changed_scene = change(scene_recipe, settings, source="--set")
        _check_trust(recipe, [changed_scene.network], words)
        train_scenes(changed_scene, data, out_, runs=runs, resume=resume)
        return
    _check_pictures(recipe, data)
    if runs > 1:
        raise ValueError(f"--runs is for scene recipes (hsi); {recipe} is none: train it again with --set seed=…")
    chain = find_chain(recipe)
    if folds is not None and chain is not None:
        raise ValueError("--folds is for recipes, not for chains of them")
    if chain is not None:
        changed = change_chain(chain, settings, source="--set")
        _check_trust(recipe, [stage.network_name for stage in changed.stages.values()], words)
        with hold(out_):
            prepared = prepare_data(next(iter(changed.stages.values())), data, skip_problems=skip_problems)
            train_stages(changed, prepared, out_, resume=resume, trust=trust or ())
        return
    chosen = change(find_recipe(recipe), settings, source="--set")
    _check_trust(recipe, [chosen.network_name], words)
    if folds is not None:
        train_folds(chosen, data, out_, folds=folds, skip_problems=skip_problems, resume=resume, trust=trust or ())
        return
    with open_run(out_, resume=resume) as folder:
        train_recipe(chosen, prepare_data(chosen, data, skip_problems=skip_problems), folder, trust=trust or ())


def _check_pictures(recipe: str, data: Path) -> None:
    """Refuse a scene's file where a recipe learns from pictures."""
    from fullyconv.files import BadFile
    from fullyconv.hsi.formats.by_suffix import is_scene

    if data.is_file() and is_scene(data):
        what = f"a scene's file, and recipe {recipe} learns from a folder of pictures with masks"
        raise BadFile(data, what, f"for a scene the recipe is hsi: fullyconv train hsi --data {data}")


def _check_trust(source: str, networks: Sequence[str], words: Sequence[str]) -> None:
    """Refuse to call a function that a recipe's file names, unless it is among the words of the command."""
    from fullyconv.files import BadFile
    from fullyconv.networks import foreign_trunk

    for code in filter(None, map(foreign_trunk, networks)):
        if not any(word.endswith(code) for word in words):
            what = f"training with it calls {code}, which is not fullyconv's, timm's or torchvision's"
            raise BadFile(source, what, f"if you know that function, say so: --trust {code}")


def train_stages(
    chain: Chain, prepared: Prepared, out_: Path, *, resume: bool, trust: Sequence[str] = ()
) -> dict[str, Path]:
    """Train the stages of a chain that are not finished; gives each stage's evaluation file."""
    from fullyconv.train.chain import place
    from fullyconv.train.folder import EVALUATION, open_run

    files = {}
    for stage in place(chain, out_):
        files[stage.name] = stage.run / EVALUATION
        if resume and stage.finished and files[stage.name].is_file():
            err.print(f"{stage.name}: finished before, {stage.run}")
            continue
        err.print(f"{stage.name}: {stage.run}")
        with open_run(stage.run, resume=resume and stage.begun) as folder:
            train_recipe(stage.recipe, prepared, folder, trust=trust)
    return files


def train_folds(
    recipe: Recipe,
    data: Path,
    out_: Path,
    *,
    folds: int,
    skip_problems: bool = False,
    resume: bool = False,
    trust: Sequence[str] = (),
) -> Folds:
    """Train and score with each of the parts held out in turn, into RUN/fold-K; writes the mean into RUN/folds.json."""
    from fullyconv.evaluation.folds import FOLDS, Folds
    from fullyconv.files import write_json
    from fullyconv.train.folder import begun, hold, open_run

    evaluations = []
    with hold(out_, names=(FOLDS,)):
        for part in range(1, folds + 1):
            one, run = recipe.model_copy(update={"fold": (part, folds)}), out_ / f"fold-{part}"
            err.print(f"part {part} of {folds}: {run}")
            prepared = prepare_data(one, data, skip_problems=skip_problems)
            with open_run(run, resume=resume and begun(run)) as folder:
                evaluations.append(train_recipe(one, prepared, folder, trust=trust))
        found = Folds(tuple(evaluations))
        write_json(out_ / FOLDS, found.document())
    print_folds(found)
    out.print(f"scores {out_ / FOLDS}")
    return found


def prepare_data(recipe: Recipe, data: Path | Folder, *, skip_problems: bool) -> Prepared:
    """Check a data set with progress bars; prints what is wrong with it and exits if training refuses it."""
    from fullyconv.machine import keep_freed_memory
    from fullyconv.train.assemble import BadData, prepare

    keep_freed_memory()
    try:
        with Bars() as bars:
            prepared = prepare(recipe, data, skip_problems=skip_problems, progress=bars)
    except BadData as bad:
        print_report(bad.report)
        err.print("Training refuses this data set: correct it, or leave the bad pairs out with --skip-problems.")
        raise typer.Exit(1) from None
    if prepared.report.inferred:
        write_inferred_classes(prepared.report, prepared.report.folder.root)
    print_warnings(prepared.report.warnings)
    if prepared.report.folder.note:
        err.print(prepared.report.folder.note)
    return prepared


def train_recipe(
    recipe: Recipe, prepared: Prepared, folder: RunFolder, *, trust: Sequence[str] = (), again: str = AGAIN
) -> Evaluation:
    """Train with progress bars, score the best model, write the report."""
    from fullyconv.evaluation import evaluate
    from fullyconv.files import write_json
    from fullyconv.networks import foreign_trunk
    from fullyconv.opening import load
    from fullyconv.report import plot_confusion, save_figure, write_report
    from fullyconv.train.assemble import assemble
    from fullyconv.train.folder import BEST, CONFUSION, EVALUATION, RECIPE, REPORT
    from fullyconv.train.job import precision_of
    from fullyconv.train.run import Run

    job, run = assemble(recipe, prepared, folder, trust=trust), folder.path
    err.print(
        f"{recipe.network_name}, {len(job.classes)} classes, {len(prepared.train)} training and {len(prepared.val)} "
        f"validation pairs, {job.fabric.device.type}, {precision_of(job.fabric)}"
    )
    with Bars() as bars, stopped_in_words(again):
        Run(job, folder, TrainingBars(bars, recipe.epochs)).train()
    segmenter = load(run / BEST, device=recipe.device, trust=foreign_trunk(recipe.network_name) or ())
    with Bars() as bars:
        evaluation = evaluate(segmenter, prepared.val, progress=lambda n, total: bars("evaluating", n, total))
    write_json(run / EVALUATION, evaluation.document())
    save_figure(plot_confusion(evaluation), run / CONFUSION)
    write_report(
        run, segmenter, evaluation, prepared.val, title=f"fullyconv: {run.name}", recipe=(run / RECIPE).read_text()
    )
    print_evaluation(evaluation)
    out.print(f"model {run / BEST}\nreport {run / REPORT}")
    return evaluation


def demo(
    out_: Annotated[Path, typer.Option("--out", help="Folder for the demonstration.")] = Path("runs/demo"),
    set_: SetOption = None,
) -> None:
    """Show everything in a few minutes: make a data set, train FCN-8s on it, score, predict, report.

    Example: `fullyconv demo --out runs/demo --set minutes=1`
    """
    from fullyconv.data.synthetic import write_dataset
    from fullyconv.opening import load
    from fullyconv.predict.folder import find_images
    from fullyconv.recipes import RECIPES
    from fullyconv.train.folder import NAMES, RunFolder, hold
    from fullyconv.train.recipe import change, parse_settings

    recipe = change(RECIPES["demo"], parse_settings(set_ or []), source="--set")
    with hold(out_, names=(*NAMES, "data", "predictions")):
        folder = RunFolder(out_, resume=False)
        folder.clear()  # of an earlier demonstration
        again = f"continue it with fullyconv train demo --data {out_ / 'data'} --out {out_} --resume"
        data = write_dataset(out_ / "data", train=320, val=40)
        train_recipe(recipe, prepare_data(recipe, data, skip_problems=False), folder, again=again)
    tasks = find_images([data / "val" / "images"])
    predict_tasks(load(out_ / "model"), tasks, out_ / "predictions", probabilities=False)
    out.print(f"predictions {out_ / 'predictions'}\nOpen {out_ / 'report.html'} in a browser.")
