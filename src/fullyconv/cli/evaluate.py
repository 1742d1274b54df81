"""``fullyconv evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fullyconv.cli.console import Bars, complain, out, print_caught, print_evaluation, print_fit, print_head
from fullyconv.cli.crf import print_comparison, with_crf
from fullyconv.cli.hsi import ScoreFiles, evaluate_on_scene
from fullyconv.cli.opening import pairs_to_score, unseen, with_views
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
    from fullyconv.outputs import Outputs
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
    Of a model with several heads each is scored on its own masks; the figures of a further head stand under its name in
    the JSON, its matrix and its report in heads/NAME beside the first's.
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


def _pages(asked: _Asked, read: list[Path], heads: list[str]) -> dict[str, Outputs]:
    """Check where the report of each head goes, if reports are wanted."""
    from fullyconv.outputs import single_output
    from fullyconv.report import FILE_NAME, head_place

    if asked.report is None:
        return {}
    files = {head: head_place(asked.report, head) / FILE_NAME for head in ("", *heads)}
    return {
        head: single_output(file, inputs=read, overwrite=asked.overwrite, by="evaluate") for head, file in files.items()
    }


def _evaluate_pictures(segmenter: Segmenter, model: Path, data: Path, asked: _Asked, team: Team) -> None:
    """Score a model over a data set; the first of several processes writes and speaks."""
    from fullyconv.checkpoint import find_own_model
    from fullyconv.data.groups import group_names
    from fullyconv.data.kinship import kin_in_words
    from fullyconv.data.matching import files_read
    from fullyconv.report import FILE_NAME, write_report

    if asked.fit_temperature:
        find_own_model(model)  # to write into, known before anything is computed
    alone = {"--crf": asked.crf, "--fit-temperature": asked.fit_temperature}
    team.told(lambda: _refuse(alone if team.size > 1 else {}, "is for one process, not for --devices"))
    folder, pairs = team.in_turn(lambda: pairs_to_score(data, asked.split, segmenter, mask_suffix=asked.mask_suffix))
    read = files_read(folder)
    heads = [name for name in segmenter.heads if name in folder.heads]
    figures = team.told(lambda: ScoreFiles(asked.json_file, inputs=read, overwrite=asked.overwrite, heads=heads))
    pages = team.told(lambda: _pages(asked, read, heads))
    for problem in folder.problems:
        complain("not scored", problem)
    pairs = unseen(model, folder, pairs, asked.split)
    groups = group_names(pairs, asked.group) if asked.group else []
    models = {"": segmenter} | {name: segmenter.heads[name] for name in heads}
    own = {name: [each.own(pair) for pair in pairs] for name, each in models.items()}
    fits = {name: _fit(each, model, own[name]) for name, each in models.items() if asked.fit_temperature}
    looking = {name: with_views(each, asked.tta) for name, each in models.items()}
    looking = {name: with_crf(each, model) for name, each in looking.items()} if asked.crf else looking
    scored = _score_all(looking, own, groups, team, crf=asked.crf)
    if not team.first:
        return
    kin = kin_in_words({"train": folder.splits.get("train", []), "these pictures": pairs}) if pages else []
    for name, (evaluation, document) in reversed(scored.items()):  # the first head's page leads to the others
        if name in fits:
            document["confidence"] = fits[name].document()
        if asked.calibration:
            document["calibration"] = _calibrate(looking[name], own[name])
        if name in pages and asked.report is not None:
            title = f"fullyconv: {data}" + (f", head {name}" if name else "")
            with pages[name].writing(FILE_NAME):
                written = write_report(
                    asked.report, looking[name], evaluation, own[name], title=title, confidence=fits.get(name), kin=kin
                )
            out.print(f"report {written}")
    first = scored[""][1] | {name: scored[name][1] for name in heads}
    figures.write(first, {name: evaluation for name, (evaluation, _) in scored.items()})


def _fit(segmenter: Segmenter, model: Path, pairs: list[Pair]) -> Fit:
    """Fit the temperature of the network's probabilities and keep it with the model."""
    from fullyconv.checkpoint import store_temperature
    from fullyconv.evaluation.confidence import LEAST_FITTED, fit

    with Bars() as bars:
        found = fit(segmenter, pairs, progress=lambda n, total: bars("calibrating", n, total))
    print_fit(found)
    if found.pictures < LEAST_FITTED:
        out.print(f"nothing saved: one picture is too few, the model keeps its temperature {segmenter.temperature:.3f}")
        return found
    store_temperature(model, found.temperature, segmenter.head)
    segmenter.temperature = found.temperature
    return found


def _calibrate(segmenter: Segmenter, pairs: list[Pair]) -> dict[str, Any]:
    """Predict once more, with probabilities; prints whether they mean what they say."""
    from fullyconv.evaluation.confidence import calibrate

    with Bars() as bars:
        found = calibrate(segmenter, pairs, progress=lambda n, total: bars("calibration", n, total))
    out.print(f"expected calibration error {found.error:.4f} (15 bins of the most probable class's probability)")
    print_caught(found)
    return found.document()


def _score_all(
    models: Mapping[str, Segmenter], pairs: Mapping[str, list[Pair]], groups: list[str], team: Team, *, crf: bool
) -> dict[str, tuple[Evaluation, dict[str, Any]]]:
    """Score each head and print its figures, with ``crf`` those before and after it; gives them, and documents."""
    from fullyconv.train.pictures import evaluate_together

    if crf:
        return {name: _compare(cast("CRFSegmenter", each), pairs[name], groups) for name, each in models.items()}
    with Bars() as bars:
        found = evaluate_together(
            [*models.values()], [*pairs.values()], team, groups=groups,
            progress=lambda n, total: bars("evaluating", n, total),
        )  # fmt: skip
    for name, evaluation in zip(models, found, strict=True):
        print_head(name)
        print_evaluation(evaluation)
    return {name: (each, each.document()) for name, each in zip(models, found, strict=True)}


def _compare(segmenter: CRFSegmenter, pairs: list[Pair], groups: list[str]) -> tuple[Evaluation, dict[str, Any]]:
    """Score before and after the CRF; gives the evaluation after it, and the document of both."""
    from fullyconv.evaluation.refinement import compare

    with Bars() as bars:
        comparison = compare(segmenter, pairs, groups=groups, progress=lambda n, total: bars("evaluating", n, total))
    print_head(segmenter.head)
    print_comparison(comparison)
    return comparison.after.evaluation, comparison.document()
