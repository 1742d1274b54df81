"""Training on pictures, as commands do it: with progress bars, by one process or a team, scored and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

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
    print_head,
    print_inferred,
    print_report,
    print_warnings,
    stopped_in_words,
)

if TYPE_CHECKING:
    from fullyconv.data.pairs import Folder
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.folds import Folds
    from fullyconv.predict.image import Segmenter
    from fullyconv.train.chain import Chain
    from fullyconv.train.folder import RunFolder
    from fullyconv.train.prepare import Prepared
    from fullyconv.train.recipe import Recipe
    from fullyconv.train.team import Team

Found = TypeVar("Found")


@dataclass(frozen=True)
class Way:
    """Where and how a command trains, whatever it trains."""

    data: Path
    out: Path
    resume: bool
    team: Team
    skip_problems: bool = False
    trust: tuple[str, ...] = ()


@contextmanager
def _by_first(team: Team, opened: Callable[[], AbstractContextManager[Found]]) -> Iterator[Found | None]:
    """Enter a context in the first process alone; the others get nothing, and end if it cannot be."""
    with ExitStack() as stack:
        found: list[Found] = []
        team.told(lambda: found.append(stack.enter_context(opened())))
        yield found[0] if found else None


def train_one(recipe: Recipe, way: Way) -> None:
    """Train by a recipe."""
    from fullyconv.train.folder import open_run

    with _by_first(way.team, lambda: open_run(way.out, resume=way.resume)) as folder:
        train_recipe(recipe, _prepared(recipe, way), folder, trust=way.trust, team=way.team)


def train_chain(chain: Chain, way: Way) -> None:
    """Train the stages of a chain, all on the same data."""
    from fullyconv.train.folder import hold

    way.team.told(lambda: _check_begun(way))
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
    if recipe.hold_out is not None or recipe.fold is not None:
        raise ValueError("--folds holds out each part in turn: leave hold_out and fold out")
    team.told(lambda: _check_begun(way))
    with _by_first(team, lambda: hold(way.out, names=(FOLDS,))):
        for part in range(1, folds + 1):
            one, run = recipe.model_copy(update={"fold": (part, folds)}), way.out / f"fold-{part}"
            err.print(f"part {part} of {folds}: {run}")
            prepared = _prepared(one, way)
            with _by_first(team, partial(_open_begun, run, resume=way.resume)) as folder:
                evaluations.append(train_recipe(one, prepared, folder, trust=way.trust, team=team))
        found = {name: Folds(tuple(each[name] for each in evaluations)) for name in evaluations[0]}
        if team.first:
            documents = {name: each.document() for name, each in found.items()}
            first = documents.pop("")
            write_json(way.out / FOLDS, first | ({"heads": documents} if documents else {}))
    for name, each in found.items():
        print_head(name)
        print_folds(each)
    out.print(f"scores {way.out / FOLDS}")
    return found[""]


def _check_begun(way: Way) -> None:
    """Refuse to resume what was never begun: a name that is misspelt would train anew for hours."""
    from fullyconv.train.folder import begun, not_begun

    if way.resume and not begun(way.out):
        raise not_begun(way.out)


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
    from fullyconv.train.prepare import BadData, prepare

    keep_freed_memory()
    try:
        with Bars() as bars:
            prepared = prepare(recipe, data, skip_problems=skip_problems, progress=bars)
    except BadData as bad:
        print_report(bad.report)
        err.print("Training refuses this data set: correct it, or leave the bad pairs out with --skip-problems.")
        raise typer.Exit(1) from None
    print_inferred(prepared.report)
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
) -> dict[str, Evaluation]:
    """Train with progress bars, score the best model, write the report; gives the scores by heads, the first's "".

    Of several processes the first has the folder, which all must see: a disk that their machines share.
    """
    from fullyconv.networks import foreign_trunk
    from fullyconv.opening import load
    from fullyconv.runs import heads_to_score
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
    if job.heads:
        named = ", ".join(f"{name} ({len(classes)} classes)" for name, classes in job.heads.items())
        chosen = "what was chosen went by the first masks alone; " if choices else ""
        err.print(f"further heads: {named}; {chosen}the best model is that of the first head's best mean IU")
    with Bars() as bars, stopped_in_words(again):
        Run(job, folder, TrainingBars(bars, recipe.epochs)).train()
    segmenter = load(run / BEST, device=recipe.device, trust=foreign_trunk(recipe.network_name) or ())
    with Bars() as bars:
        models, pairs = heads_to_score(segmenter, prepared)
        scores = evaluate_together(models, pairs, team, progress=lambda n, total: bars("evaluating", n, total))
    found = dict(zip(("", *prepared.heads), scores, strict=True))
    if folder is not None:
        _write_scores(folder, segmenter, found, prepared)
    return found


def _write_scores(
    folder: RunFolder, segmenter: Segmenter, scores: Mapping[str, Evaluation], prepared: Prepared
) -> None:
    """Write the scores of a run's best model and its report, and print them."""
    from fullyconv.runs import write_scores
    from fullyconv.train.folder import BEST, REPORT

    with Bars() as bars:
        fits = write_scores(
            folder, segmenter, [*scores.values()], prepared, progress=lambda n, total: bars("calibrating", n, total)
        )
    for (name, evaluation), confidence in zip(scores.items(), fits, strict=True):
        print_head(name)
        print_evaluation(evaluation)
        print_fit(confidence)
    out.print(f"model {folder.path / BEST}\nreport {folder.path / REPORT}")
