"""``fullyconv train`` and ``fullyconv demo``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.cli.console import out
from fullyconv.cli.hsi import train_scenes
from fullyconv.cli.options import SetOption, TrustOption, import_from_here
from fullyconv.cli.processes import joined_silently, start
from fullyconv.cli.progress import predict_tasks
from fullyconv.cli.training import (
    Way,
    prepare_data,
    train_chain,
    train_folds,
    train_one,
    train_recipe,
)


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
    Of pictures with several masks ('heads' in classes.yaml) one network learns all, a head each; losses are added,
    weighed by `--set 'head_weights={geometry: 0.5}'`; the best model is that of the first head's best mean IU.
    Ctrl-C saves the run; `--resume` continues it. One hyperspectral scene: `fullyconv train hsi --data scene.mat
    --set labels=gt.mat --out runs/scene --runs 5` (`default` and `auto` take `hsi` for a scene's file).
    `--devices 4` trains in four processes; on several machines, `torchrun --nnodes 2 --nproc-per-node 8 … -m fullyconv
    train …`. The recipe means the same whatever their number: they share the batches of every update.
    """
    from fullyconv.hsi.recipe import SceneRecipe
    from fullyconv.recipes import find_scene_recipe
    from fullyconv.train.launch import launched
    from fullyconv.train.recipe import Recipe, change
    from fullyconv.train.settings import parse_settings

    settings = parse_settings(set_ or [], SceneRecipe if _is_scene(data) else Recipe)
    words = [*map(str, settings.values()), *(trust or ())]
    import_from_here(*words)
    scene_recipe = find_scene_recipe(_for_scene(recipe, data))
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
        return lambda way: train_chain(changed, way)
    chosen = change(find_recipe(recipe), settings, source="--set")
    _check_trust(recipe, [chosen.network_name], words)
    if folds is not None:
        return lambda way: train_folds(chosen, way, folds=folds)
    return lambda way: train_one(chosen, way)


def _check_trust(source: str, networks: Sequence[str], words: Sequence[str]) -> None:
    """Refuse to call a function that a recipe's file names, unless it is among the words of the command."""
    from fullyconv.checkpoint import check_trust
    from fullyconv.networks import foreign_trunk

    typed = [*words, *filter(None, map(foreign_trunk, words))]  # --set network=fcn8s-package.module:function
    for network in networks:
        check_trust(network, source, typed, doing="training with it")


def _for_scene(recipe: str, data: Path) -> str:
    """Return the recipe that learns from a scene, where the data are one and it was left open; else the one named."""
    from fullyconv.recipes import RECIPES

    if recipe not in RECIPES or not RECIPES[recipe].auto or not _is_scene(data):
        return recipe
    out.print(f"{data} is a scene: it trains by recipe hsi, whose network, split and steps hold for every scene")
    return "hsi"


def _is_scene(data: Path) -> bool:
    from fullyconv.hsi.formats.by_suffix import is_scene

    return data.is_file() and is_scene(data)


def _check_pictures(recipe: str, data: Path) -> None:
    """Refuse a scene's file where a recipe learns from pictures."""
    from fullyconv.files import BadFile

    if _is_scene(data):
        what = f"a scene's file, and recipe {recipe} learns from a folder of pictures with masks"
        raise BadFile(data, what, f"for a scene the recipe is hsi: fullyconv train hsi --data {data}")


def demo(
    out_: Annotated[Path, typer.Option("--out", help="Folder for the demonstration.")] = Path("runs/demo"),
    set_: SetOption = None,
) -> None:
    """Show everything in a few minutes: make a data set, train FCN-8s on it, score, predict, report.

    Example: `fullyconv demo --out runs/demo --set minutes=1`
    """
    from fullyconv.data.synthetic import write_dataset
    from fullyconv.opening import load
    from fullyconv.predict.finding import find_images
    from fullyconv.recipes import RECIPES
    from fullyconv.train.folder import NAMES, RunFolder, hold
    from fullyconv.train.recipe import change
    from fullyconv.train.settings import parse_settings

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
