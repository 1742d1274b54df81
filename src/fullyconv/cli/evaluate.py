"""``fullyconv evaluate``."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from fullyconv.data.pairs import Pair
    from fullyconv.evaluation import Evaluation
    from fullyconv.evaluation.confidence import Fit
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.refine import CRFSegmenter


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
    `fullyconv evaluate runs/scene/model scene.mat --labels gt.mat` scores the run's test pixels and prints the leakage.
    """
    from fullyconv.data.groups import group_names
    from fullyconv.data.kinship import kin_in_words
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.machine import arithmetic, keep_freed_memory
    from fullyconv.opening import load
    from fullyconv.outputs import single_output
    from fullyconv.report import FILE_NAME, write_report
    from fullyconv.train.tasks import SECOND, for_tasks, second_segmenter

    import_from_here(*(trust or ()))
    keep_freed_memory()
    segmenter = load(model, device=device, precision=arithmetic(precision), engine=engine, trust=trust or ())
    if isinstance(segmenter, SceneSegmenter):
        if crf or tta:
            raise ValueError(f"{'--crf' if crf else '--tta'} is for pictures: leave it out")
        figures = ScoreFiles(json_file, inputs=(data, *filter(None, (labels, masks))), overwrite=overwrite)
        evaluate_on_scene(model, segmenter, data, labels=labels, masks=masks, figures=figures)
        return
    figures = ScoreFiles(json_file, overwrite=overwrite)
    page = None if report is None else single_output(report / FILE_NAME, overwrite=overwrite)
    folder, pairs = pairs_to_score(data, split, segmenter, mask_suffix=mask_suffix)
    for problem in folder.problems:
        complain("not scored", problem)
    pairs = _unseen(model, pairs, everything=split is None and pairs is folder.splits.get("all"))
    groups = group_names(pairs, group) if group else []
    confidence = _fit(segmenter, model, pairs) if fit_temperature else None  # of the network alone
    pairs, second = for_tasks(pairs)
    heads = [(segmenter, pairs)] + ([(second_segmenter(segmenter, second), second)] if second else [])
    looking = [(with_views(head, tta), own) for head, own in heads]
    looking = [(with_crf(head, model), own) for head, own in looking] if crf else looking
    (evaluation, document), *others = [_score(head, own, groups, crf=crf) for head, own in looking]
    segmenter = looking[0][0]
    if others:
        document[SECOND] = others[0][1]
    if confidence is not None:
        document["confidence"] = confidence.document()
    if calibration:
        document["calibration"] = _calibrate(segmenter, pairs)
    if page is not None:
        with page.writing(FILE_NAME):
            kin = kin_in_words({"train": folder.splits.get("train", []), "these pictures": pairs})
            written = write_report(
                page.folder, segmenter, evaluation, pairs, title=f"fullyconv: {data}", confidence=confidence, kin=kin
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
    segmenter: Segmenter, pairs: list[Pair], groups: list[str], *, crf: bool
) -> tuple[Evaluation, dict[str, Any]]:
    """Score a task and print its figures, with ``crf`` those before and after it; gives them, and their document."""
    from fullyconv.evaluation import evaluate as score

    if crf:
        return _compare(cast("CRFSegmenter", segmenter), pairs, groups)
    with Bars() as bars:
        evaluation = score(segmenter, pairs, groups=groups, progress=lambda n, total: bars("evaluating", n, total))
    print_evaluation(evaluation)
    return evaluation, evaluation.document()


def _compare(segmenter: CRFSegmenter, pairs: list[Pair], groups: list[str]) -> tuple[Evaluation, dict[str, Any]]:
    """Score before and after the CRF; gives the evaluation after it, and the document of both."""
    from fullyconv.evaluation.refinement import compare

    with Bars() as bars:
        comparison = compare(segmenter, pairs, groups=groups, progress=lambda n, total: bars("evaluating", n, total))
    print_comparison(comparison)
    return comparison.after.evaluation, comparison.document()
