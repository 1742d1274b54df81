"""Whole runs from Python, as the command line has them: check a data set, train on it, score what came out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullyconv.augment import Change
from fullyconv.checkpoint import store_temperature
from fullyconv.data.check import Report, check_folder
from fullyconv.data.folder import open_folder
from fullyconv.data.kinship import kin_in_words
from fullyconv.data.levels import Pages
from fullyconv.data.own import Items, write_items
from fullyconv.data.pairs import Folder, Pair
from fullyconv.data.problems import group
from fullyconv.evaluation import Evaluation, evaluate_heads
from fullyconv.evaluation.confidence import Fit, fit
from fullyconv.files import write_json
from fullyconv.networks import foreign_trunk
from fullyconv.opening import load
from fullyconv.predict.image import Segmenter
from fullyconv.recipes import find_recipe
from fullyconv.report import head_place, plot_confusion, save_figure, write_report
from fullyconv.train.assemble import assemble
from fullyconv.train.configure import configure
from fullyconv.train.folder import BEST, CONFUSION, EVALUATION, REPORT, RunFolder, open_run
from fullyconv.train.prepare import Prepared, prepare
from fullyconv.train.recipe import Recipe, change
from fullyconv.train.run import Run
from fullyconv.train.told import Callback, tell
from fullyconv.types import ClassSet

OWN = "data"  # the folder of a run for items that no folder holds


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes:
        folder: The run's folder.
        model: Its best model.
        evaluation: That model's scores on the validation pairs.
        report: ``report.html``.

    >>> run = train("demo", data="shapes/", out="runs/shapes", minutes=2)  # doctest: +SKIP
    >>> run.model.predict("photo.jpg").save("labelled/")  # doctest: +SKIP
    """

    folder: Path
    model: Segmenter
    evaluation: Evaluation
    report: Path


def check(data: Path | str, *, mask_suffix: str | None = None, pages: Pages = None, instances: bool = False) -> Report:
    """Read a data set once and list what is in it and what is wrong with it, as ``fullyconv data check`` does.

    Args:
        data: Its folder.
        mask_suffix: What masks' names have after the images', where counting finds another.
        pages: Of pictures of several pages the one to take, or all as ``channels``.
        instances: Whether the masks number things, each its own: background and object are the classes then.

    Returns:
        The classes, figures of each split, ``problems`` and ``warnings``.

    Raises:
        BadFile: If it holds no pairs, or its classes cannot be told.

    >>> import tempfile
    >>> from fullyconv.data.synthetic import write_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = check(write_dataset(Path(folder), train=1, val=1))
    >>> report.problems, report.splits["train"].pairs
    ([], 1)
    """
    return check_folder(open_folder(Path(data), mask_suffix), pages=pages, instances=instances)


def train(  # noqa: PLR0913 (a run has as many sides as the command has options)
    recipe: str | Recipe = "default",
    *,
    data: Path | str | Folder | Items | Mapping[str, Items],
    out: Path | str,
    classes: ClassSet | Sequence[str] | None = None,
    resume: bool = False,
    skip_problems: bool = False,
    callbacks: Sequence[Callback] = (),
    augment: Change | None = None,
    trust: Sequence[str] = (),
    **settings: Any,
) -> Trained:
    """Train a model and measure it, as ``fullyconv train`` does.

    Args:
        recipe: A recipe's name or YAML file, or a ``Recipe``.
        data: A folder of images and masks; or items of your own, (image, labels) each, by split
            (``{"train": …, "val": …}``) or together. Items are read once and written into ``out/data``.
        out: The folder of the run.
        classes: Of items of your own, the classes or their names.
        resume: Continue the run in ``out``.
        skip_problems: Leave out pairs that ``check`` complains of.
        callbacks: Told how the run goes: functions that take the figures of each epoch, objects with ``step``,
            ``epoch`` or ``remark`` (``fullyconv.train.job.Watcher``), loggers of Lightning (W&B, MLflow, …), which have
            ``log_metrics``.
        augment: Changes image and labels of every training view before the recipe's own variations: called with
            ``image=`` and ``mask=``, gives both under these names. Any ``Compose`` of albumentations is one.
        trust: Functions ``package.module:function`` that may be called to make the network's classifier.
        settings: Changes of the recipe, ``epochs=20``.

    Returns:
        The best model, its scores, and where the report is.

    Raises:
        BadData: If anything is wrong with the data set (a ``ValueError`` that lists it).
        BadFile: If a file cannot be used, or ``out`` holds a run already.
        ValueError: For an unknown key or a value that is none.
    """
    chosen = change(find_recipe(recipe) if isinstance(recipe, str) else recipe, settings, source="train")
    with open_run(Path(out), resume=resume) as folder:
        told, source = tell(callbacks), _source(data, folder, classes)
        prepared = prepare(chosen, source, skip_problems=skip_problems)
        for each in group(prepared.report.warnings):
            warnings.warn("\n".join(each.lines()), stacklevel=2)
        chosen, _ = configure(chosen, prepared, folder, trust=trust)
        job = assemble(chosen, prepared, folder, trust=trust, augment=augment)
        Run(job, folder, told).train()
        model = load(folder.path / BEST, device=chosen.device, trust=foreign_trunk(chosen.network_name) or ())
        if not isinstance(model, Segmenter):
            raise ValueError(f"{folder.path / BEST} labels no pictures")
        evaluations = evaluate_heads(*heads_to_score(model, prepared))
        write_scores(folder, model, evaluations, prepared)
    return Trained(folder.path, model, evaluations[0], folder.path / REPORT)


def _source(data: Any, folder: RunFolder, classes: ClassSet | Sequence[str] | None) -> Path | Folder:
    """Open what a run learns from; items of the caller's own are written into the run's folder first."""
    if isinstance(data, Path | str):
        return Path(data)
    if isinstance(data, Folder):
        return data
    named = classes if isinstance(classes, ClassSet) or classes is None else ClassSet(tuple(classes))
    splits = data if isinstance(data, Mapping) else {"all": data}
    place = folder.path / OWN
    if not (folder.resume and place.is_dir()):
        write_items(place, splits, named)
    return place


def heads_to_score(segmenter: Segmenter, prepared: Prepared) -> tuple[list[Segmenter], list[list[Pair]]]:
    """Return a run's model and its further heads, and the validation pairs of each."""
    heads = [segmenter.heads[name] for name in prepared.heads]
    return [segmenter, *heads], [prepared.val, *prepared.heads.values()]


def write_scores(
    folder: RunFolder,
    segmenter: Segmenter,
    evaluations: Sequence[Evaluation],
    prepared: Prepared,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Fit]:
    """Write the scores of a run's best model and its report.

    Args:
        folder: The run's.
        segmenter: Its best model; gets the temperature at which its probabilities mean most.
        evaluations: The scores of its heads, in the order of ``heads_to_score``.
        prepared: The data set.
        progress: Called with (done, total) while probabilities are calibrated.

    Returns:
        What the probabilities of each head mean.
    """
    run = folder.path
    kin = kin_in_words({"train": prepared.train, "validation": prepared.val})
    models, pairs_of = heads_to_score(segmenter, prepared)
    names = [model.head for model in models]
    scored = dict(zip(names, zip(models, evaluations, pairs_of, strict=True), strict=True))
    found, documents = {}, {}
    for name, (model, scores, pairs) in scored.items():
        found[name] = fit(model, pairs, progress=progress)
        store_temperature(run / BEST, found[name].temperature, name)
        model.temperature = found[name].temperature
        documents[name] = scores.document() | {"confidence": found[name].document()}
    first = documents.pop("")
    write_json(run / EVALUATION, first | documents)
    for name, (model, scores, pairs) in reversed(scored.items()):  # the first head's page leads to the others
        title = f"fullyconv: {run.name}" + (f", head {name}" if name else "")
        write_report(run, model, scores, pairs, title=title, confidence=found[name], kin=kin)
        save_figure(plot_confusion(scores), head_place(run, name) / CONFUSION)
    return list(found.values())
