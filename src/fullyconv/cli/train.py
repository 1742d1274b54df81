"""``fullyconv train`` and ``fullyconv demo``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from fullyconv.cli.console import (
    AGAIN,
    Bars,
    TrainingBars,
    err,
    out,
    print_choices,
    print_evaluation,
    print_fit,
    print_folds,
    print_report,
    print_warnings,
    stopped_in_words,
)
from fullyconv.cli.data import write_inferred_classes
from fullyconv.cli.hsi import train_scenes
from fullyconv.cli.options import SetOption, TrustOption, import_from_here
from fullyconv.cli.processes import joined_silently, start
from fullyconv.cli.progress import predict_tasks

if TYPE_CHECKING:
    from fullyconv.data.pairs import Folder
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.folds import Folds
    from fullyconv.predict.image import Segmenter
    from fullyconv.train.assemble import Prepared
    from fullyconv.train.chain import Chain
    from fullyconv.train.folder import RunFolder
    from fullyconv.train.recipe import Recipe
    from fullyconv.train.team import Team

Found = TypeVar("Found")


def _print_keys(wanted: bool) -> None:
    """Print what ``--set`` can change: each key with its default and what it means."""
    if not wanted:
        return
    from fullyconv.train.explain import explain
    from fullyconv.train.recipe import Recipe

    for key, default, words in explain(Recipe):
        out.print(f"{key}={default}", markup=False, highlight=False)
        out.print(f"    {words}", markup=False, highlight=False)
    raise typer.Exit


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
    devices: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine that share every update, one per GPU or part of the CPU."),
    ] = 1,
    trust: TrustOption = None,
    _list: Annotated[
        bool,
        typer.Option("--list", callback=_print_keys, is_eager=True, help="Explain every key of --set, and exit."),
    ] = False,
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
    `--devices 4` trains in four processes; on several machines, `torchrun --nnodes 2 --nproc-per-node 8 … -m fullyconv
    train …`. The recipe means the same whatever their number: they share the batches of every update.
    """
    from fullyconv.recipes import find_scene_recipe
    from fullyconv.train.launch import launched
    from fullyconv.train.recipe import change, parse_settings

    settings = parse_settings(set_ or [])
    words = [*map(str, settings.values()), *(trust or ())]
    import_from_here(*words)
    scene_recipe = find_scene_recipe(recipe)
    if scene_recipe is not None:
        if devices > 1 or launched():
            raise ValueError("several processes are for pictures: a scene trains in one")
        changed_scene = change(scene_recipe, settings, source="--set")
        _check_trust(recipe, [changed_scene.network], words)
        train_scenes(changed_scene, data, out_, runs=runs, resume=resume)
        return
    _check_pictures(recipe, data)
    if runs > 1:
        raise ValueError(f"--runs is for scene recipes (hsi); {recipe} is none: train it again with --set seed=…")
    work = _picture_training(recipe, settings, words, folds=folds)
    kept = "what was saved before is kept, and the same command with --resume continues"
    start(devices, lambda: kept if out_.exists() else "nothing was saved before, so run the same command again")
    with joined_silently() as team:
        work(Way(data, out_, resume, team, skip_problems, tuple(trust or ())))


@dataclass(frozen=True)
class Way:
    """Where and how a command trains, whatever it trains."""

    data: Path
    out: Path
    resume: bool
    team: Team
    skip_problems: bool = False
    trust: tuple[str, ...] = ()


def _picture_training(
    recipe: str, settings: dict[str, Any], words: Sequence[str], *, folds: int | None
) -> Callable[[Way], object]:
    """Choose what a recipe's or a chain's name and settings stand for."""
    from fullyconv.recipes import find_chain, find_recipe
    from fullyconv.train.chain import change_chain
    from fullyconv.train.recipe import change

    chain = find_chain(recipe)
    if chain is not None:
        if folds is not None:
            raise ValueError("--folds is for recipes, not for chains of them")
        changed = change_chain(chain, settings, source="--set")
        _check_trust(recipe, [stage.network_name for stage in changed.stages.values()], words)
        return lambda way: _train_chain(changed, way)
    chosen = change(find_recipe(recipe), settings, source="--set")
    _check_trust(recipe, [chosen.network_name], words)
    if folds is not None:
        return lambda way: train_folds(chosen, way, folds=folds)
    return lambda way: _train_one(chosen, way)


@contextmanager
def _by_first(team: Team, opened: Callable[[], AbstractContextManager[Found]]) -> Iterator[Found | None]:
    """Enter a context in the first process alone; the others get nothing, and end if it cannot be."""
    with ExitStack() as stack:
        found: list[Found] = []
        team.told(lambda: found.append(stack.enter_context(opened())))
        yield found[0] if found else None


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


def _train_one(recipe: Recipe, way: Way) -> None:
    from fullyconv.train.folder import open_run

    with _by_first(way.team, lambda: open_run(way.out, resume=way.resume)) as folder:
        train_recipe(recipe, _prepared(recipe, way), folder, trust=way.trust, team=way.team)


def _train_chain(chain: Chain, way: Way) -> None:
    from fullyconv.train.folder import hold

    with _by_first(way.team, lambda: hold(way.out)):
        prepared = _prepared(next(iter(chain.stages.values())), way)
        train_stages(chain, dict.fromkeys(chain.stages, prepared), way)


def train_stages(chain: Chain, prepared: Mapping[str, Prepared], way: Way) -> dict[str, Path]:
    """Train the stages of a chain that are not finished, each on its data; gives each stage's evaluation file."""
    from fullyconv.train.chain import place
    from fullyconv.train.folder import EVALUATION, open_run

    files = {}
    stages = way.team.told(lambda: [(each, (each.run / EVALUATION).is_file()) for each in place(chain, way.out)])
    for stage, scored in stages:
        files[stage.name] = stage.run / EVALUATION
        if way.resume and stage.finished and scored:
            err.print(f"{stage.name}: finished before, {stage.run}")
            continue
        err.print(f"{stage.name}: {stage.run}")
        resume = way.resume and stage.begun
        with _by_first(way.team, partial(open_run, stage.run, resume=resume)) as folder:
            train_recipe(stage.recipe, prepared[stage.name], folder, trust=way.trust, team=way.team)
    return files


def train_folds(recipe: Recipe, way: Way, *, folds: int) -> Folds:
    """Train and score with each of the parts held out in turn, into RUN/fold-K; writes the mean into RUN/folds.json."""
    from fullyconv.evaluation.folds import FOLDS, Folds
    from fullyconv.files import write_json
    from fullyconv.train.folder import hold

    evaluations, team = [], way.team
    with _by_first(team, lambda: hold(way.out, names=(FOLDS,))):
        for part in range(1, folds + 1):
            one, run = recipe.model_copy(update={"fold": (part, folds)}), way.out / f"fold-{part}"
            err.print(f"part {part} of {folds}: {run}")
            prepared = _prepared(one, way)
            with _by_first(team, partial(_open_begun, run, resume=way.resume)) as folder:
                evaluations.append(train_recipe(one, prepared, folder, trust=way.trust, team=team))
        found = Folds(tuple(evaluations))
        if team.first:
            write_json(way.out / FOLDS, found.document())
    print_folds(found)
    out.print(f"scores {way.out / FOLDS}")
    return found


def _open_begun(run: Path, *, resume: bool) -> AbstractContextManager[RunFolder]:
    from fullyconv.train.folder import begun, open_run

    return open_run(run, resume=resume and begun(run))


def _prepared(recipe: Recipe, way: Way) -> Prepared:
    """Let the first process check the data for all."""
    from fullyconv.machine import keep_freed_memory

    keep_freed_memory()
    return way.team.told(lambda: prepare_data(recipe, way.data, skip_problems=way.skip_problems))


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
    recipe: Recipe,
    prepared: Prepared,
    folder: RunFolder | None,
    *,
    trust: Sequence[str] = (),
    again: str = AGAIN,
    team: Team | None = None,
) -> Evaluation:
    """Train with progress bars, score the best model, write the report.

    Of several processes the first has the folder, which all must see: a disk that their machines share.
    """
    from fullyconv.networks import foreign_trunk
    from fullyconv.opening import load
    from fullyconv.train.assemble import assemble
    from fullyconv.train.configure import configure
    from fullyconv.train.folder import BEST
    from fullyconv.train.job import precision_of
    from fullyconv.train.pictures import evaluate_together
    from fullyconv.train.run import Run
    from fullyconv.train.team import ALONE

    team = team or ALONE
    with Bars() as bars:
        recipe, choices = team.told(
            lambda: configure(recipe, prepared, cast("RunFolder", folder), trust=trust, progress=bars)
        )
    print_choices(choices)
    run = team.told(lambda: cast("RunFolder", folder).path)
    job = assemble(recipe, prepared, folder, trust=trust, team=team)
    shared = f", {team.size} processes, each {job.share.words}" if team.size > 1 else ""
    err.print(
        f"{recipe.network_name}, {len(job.classes)} classes, {len(prepared.train)} training and {len(prepared.val)} "
        f"validation pairs, {job.fabric.device.type}, {precision_of(job.fabric)}{shared}"
    )
    with Bars() as bars, stopped_in_words(again):
        Run(job, folder, TrainingBars(bars, recipe.epochs)).train()
    segmenter = load(run / BEST, device=recipe.device, trust=foreign_trunk(recipe.network_name) or ())
    with Bars() as bars:
        evaluation = evaluate_together(
            segmenter, prepared.val, team, progress=lambda n, total: bars("evaluating", n, total)
        )
    if folder is not None:
        _write_scores(folder, segmenter, evaluation, prepared)
    return evaluation


def _write_scores(folder: RunFolder, segmenter: Segmenter, evaluation: Evaluation, prepared: Prepared) -> None:
    """Write the scores of a run's best model and its report, and print them."""
    from fullyconv.runs import write_scores
    from fullyconv.train.folder import BEST, REPORT

    with Bars() as bars:
        confidence, second = write_scores(
            folder, segmenter, evaluation, prepared, progress=lambda n, total: bars("calibrating", n, total)
        )
    print_evaluation(evaluation)
    if second is not None:
        print_evaluation(second)
    print_fit(confidence)
    out.print(f"model {folder.path / BEST}\nreport {folder.path / REPORT}")


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
