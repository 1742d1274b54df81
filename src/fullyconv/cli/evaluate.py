"""``fullyconv evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fullyconv.cli.console import Bars, complain, out, print_evaluation, print_fit
from fullyconv.cli.crf import print_comparison, with_crf
from fullyconv.cli.hsi import ScoreFiles, evaluate_on_scene
from fullyconv.cli.opening import pairs_to_score, with_views
from fullyconv.cli.options import (
    CRFOption,
    DeviceOption,
    EngineOption,
    MaskSuffixOption,
    ModelArgument,
    OverwriteOption,
    PrecisionOption,
    TrustOption,
    ViewsOption,
    import_from_here,
)
from fullyconv.cli.processes import joined_silently, start

if TYPE_CHECKING:
    from fullyconv.data.pairs import Pair
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.confidence import Fit
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.refine import CRFSegmenter
    from fullyconv.train.team import Team


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="Data-set folder, or a scene's file.", show_default=False)],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, and the confusion matrix beside it.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score; default: val, test or all.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Scenes: the label map, if the scene's file has none.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Scenes: split (.npz) whose test pixels to score; default: that of the run.")
    ] = None,
    crf: CRFOption = False,
    tta: ViewsOption = None,
    group: Annotated[
        str | None,
        typer.Option(help="What pictures belong to (drive, patient): a regular expression on names, or folders up."),
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also tell whether probabilities mean what they say (a second pass).")
    ] = False,
    fit_temperature: Annotated[
        bool,
        typer.Option("--fit-temperature", help="Fit the probabilities on these pictures; kept with the model."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write report.html with the best and worst images into this folder.")
    ] = None,
    devices: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine that share the pictures, one per GPU or part of a CPU."),
    ] = 1,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    mask_suffix: MaskSuffixOption = None,
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Score a model over a data set at native resolution.

    Example: `fullyconv evaluate runs/camvid/model camvid/val --json scores.json` also writes scores.png,
    the confusion matrix. Every score has a 95 % interval (bootstrap over pictures; with --group '^[^_]+' over groups).
    Of a folder without splits, the pictures that the model was trained on are left out.
    `--fit-temperature` makes probabilities mean what they say and keeps that with the model; labels stay.
    Of a network with two heads (SIFT Flow) both are scored; the second's figures are `geometric` in the JSON.
    With --crf all scores, and those of boundaries, before and after a dense CRF.
    With `--devices 4` four processes share the pictures; the scores are exactly those of one.
    `fullyconv evaluate runs/scene/model scene.mat --labels gt.mat` scores the run's test pixels and prints the leakage.
    """
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.machine import arithmetic, keep_freed_memory
    from fullyconv.opening import load

    import_from_here(*(trust or ()))
    keep_freed_memory()
    asked = _Asked(
        split=split, mask_suffix=mask_suffix, group=group, json_file=json_file, report=report, crf=crf, tta=tta,
        calibration=calibration, fit_temperature=fit_temperature, overwrite=overwrite,
    )  # fmt: skip
    start(devices, lambda: "run the same command again")
    with joined_silently() as team:
        segmenter = load(model, device=device, precision=arithmetic(precision), engine=engine, trust=trust or ())
        if not isinstance(segmenter, SceneSegmenter):
            _evaluate_pictures(segmenter, model, data, asked, team)
            return
        _refuse({"--crf": crf, "--tta": tta, "--devices": team.size > 1}, "is for pictures")
        figures = ScoreFiles(json_file, inputs=(data, *filter(None, (labels, masks))), overwrite=overwrite)
        evaluate_on_scene(model, segmenter, data, labels=labels, masks=masks, figures=figures)


@dataclass(frozen=True)
class _Asked:
    """The options of an evaluation of pictures."""

    split: str | None
    mask_suffix: str | None
    group: str | None
    json_file: Path | None
    report: Path | None
    crf: bool
    tta: str | None
    calibration: bool
    fit_temperature: bool
    overwrite: bool


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse the first option that was given."""
    for option, given in options.items():
        if given:
            raise ValueError(f"{option} {why}: leave it out")


def _evaluate_pictures(segmenter: Segmenter, model: Path, data: Path, asked: _Asked, team: Team) -> None:
    """Score a model over a data set; the first of several processes writes and speaks."""
    from fullyconv.data.groups import group_names
    from fullyconv.data.kinship import kin_in_words
    from fullyconv.data.matching import files_read
    from fullyconv.outputs import single_output
    from fullyconv.report import FILE_NAME, write_report
    from fullyconv.train.tasks import SECOND, for_tasks, second_segmenter

    alone = {"--crf": asked.crf, "--fit-temperature": asked.fit_temperature}
    team.told(lambda: _refuse(alone if team.size > 1 else {}, "is for one process, not for --devices"))
    folder, pairs = team.in_turn(lambda: pairs_to_score(data, asked.split, segmenter, mask_suffix=asked.mask_suffix))
    read = files_read(folder)
    figures = team.told(lambda: ScoreFiles(asked.json_file, inputs=read, overwrite=asked.overwrite))
    page = None
    if (file := asked.report and asked.report / FILE_NAME) is not None:
        page = team.told(lambda: single_output(file, inputs=read, overwrite=asked.overwrite, by="evaluate"))
    for problem in folder.problems:
        complain("not scored", problem)
    pairs = _unseen(model, pairs, everything=asked.split is None and pairs is folder.splits.get("all"))
    groups = group_names(pairs, asked.group) if asked.group else []
    confidence = _fit(segmenter, model, pairs) if asked.fit_temperature else None  # of the network alone
    pairs, second = for_tasks(pairs)
    heads = [(segmenter, pairs)] + ([(second_segmenter(segmenter, second), second)] if second else [])
    looking = [(with_views(head, asked.tta), own) for head, own in heads]
    looking = [(with_crf(head, model), own) for head, own in looking] if asked.crf else looking
    (evaluation, document), *others = [_score(head, own, groups, team, crf=asked.crf) for head, own in looking]
    if not team.first:
        return
    segmenter = looking[0][0]
    if others:
        document[SECOND] = others[0][1]
    if confidence is not None:
        document["confidence"] = confidence.document()
    if asked.calibration:
        document["calibration"] = _calibrate(segmenter, pairs)
    if page is not None:
        with page.writing(FILE_NAME):
            kin = kin_in_words({"train": folder.splits.get("train", []), "these pictures": pairs})
            title = f"fullyconv: {data}"
            written = write_report(
                page.folder, segmenter, evaluation, pairs, title=title, confidence=confidence, kin=kin
            )
        out.print(f"report {written}")
    figures.write(document, evaluation)


def _fit(segmenter: Segmenter, model: Path, pairs: list[Pair]) -> Fit:
    """Fit the temperature of the network's probabilities and keep it with the model."""
    from fullyconv.checkpoint import store_temperature
    from fullyconv.evaluation.confidence import fit

    with Bars() as bars:
        found = fit(segmenter, pairs, progress=lambda n, total: bars("calibrating", n, total))
    store_temperature(model, found.temperature)
    segmenter.temperature = found.temperature
    print_fit(found)
    return found


def _calibrate(segmenter: Segmenter, pairs: list[Pair]) -> dict[str, Any]:
    """Predict once more, with probabilities; prints whether they mean what they say."""
    from fullyconv.evaluation.confidence import calibrate

    with Bars() as bars:
        found = calibrate(segmenter, pairs, progress=lambda n, total: bars("calibration", n, total))
    out.print(f"expected calibration error {found.error:.4f} (15 bins of the most probable class's probability)")
    out.print(f"the 10 % least certain pixels hold {found.caught:.1%} of all errors")
    return found.document()


def _unseen(model: Path, pairs: list[Pair], *, everything: bool) -> list[Pair]:
    """Say which pictures the model was trained on; leave them out where nobody asked for them (``everything``)."""
    from fullyconv.checkpoint import read_config
    from fullyconv.data.dataset import trained_on
    from fullyconv.files import BadFile

    seen = {pair.image for pair in trained_on(pairs, read_config(model).notes)}
    if not seen:
        return pairs
    what = f"the model was trained on {len(seen)} of {len(pairs)} pictures"
    if not everything:
        complain("careful", f"{what}: their scores flatter it")
        return pairs
    left = [pair for pair in pairs if pair.image not in seen]
    if not left:
        raise BadFile(pairs[0].image.parent, what, "score pictures that it has not seen, or these with --split all")
    complain("careful", f"{what}: they are left out, {len(left)} are scored (--split all scores all)")
    return left


def _score(
    segmenter: Segmenter, pairs: list[Pair], groups: list[str], team: Team, *, crf: bool
) -> tuple[Evaluation, dict[str, Any]]:
    """Score a task and print its figures, with ``crf`` those before and after it; gives them, and their document."""
    from fullyconv.train.pictures import evaluate_together

    if crf:
        return _compare(cast("CRFSegmenter", segmenter), pairs, groups)
    with Bars() as bars:
        evaluation = evaluate_together(
            segmenter, pairs, team, groups=groups, progress=lambda n, total: bars("evaluating", n, total)
        )
    print_evaluation(evaluation)
    return evaluation, evaluation.document()


def _compare(segmenter: CRFSegmenter, pairs: list[Pair], groups: list[str]) -> tuple[Evaluation, dict[str, Any]]:
    """Score before and after the CRF; gives the evaluation after it, and the document of both."""
    from fullyconv.evaluation.refinement import compare

    with Bars() as bars:
        comparison = compare(segmenter, pairs, groups=groups, progress=lambda n, total: bars("evaluating", n, total))
    print_comparison(comparison)
    return comparison.after.evaluation, comparison.document()
