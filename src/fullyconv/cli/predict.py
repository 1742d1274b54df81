"""``fullyconv predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import Bars, complain, out
from fullyconv.cli.crf import with_crf
from fullyconv.cli.options import CRFOption, DeviceOption, ModelArgument, PrecisionOption

if TYPE_CHECKING:
    from fullyconv.predict.folder import Task
    from fullyconv.predict.image import Segmenter


def predict(
    model: ModelArgument,
    inputs: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write C x H x W float16 class probabilities (.npz).")
    ] = False,
    crf: CRFOption = False,
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
    segmenter = with_crf(segmenter, model) if crf else segmenter
    tasks = find_images(inputs)
    bad = predict_tasks(segmenter, tasks, out_, probabilities=probabilities)
    out.print(f"{len(tasks) - bad} of {len(tasks)} images labelled in {out_}")
    if bad:
        raise typer.Exit(1)


def predict_tasks(segmenter: Segmenter, tasks: list[Task], folder: Path, *, probabilities: bool) -> int:
    """Predict with a progress bar; gives the number of bad files."""
    from fullyconv.predict.folder import predict_files

    bad = 0
    with Bars() as bars:
        outcomes = predict_files(segmenter, tasks, folder, probabilities=probabilities)
        for done, outcome in enumerate(outcomes, start=1):
            if outcome.problem is not None:
                bad += 1
                complain("skipped", outcome.problem)
            bars("predicting", done, len(tasks), outcome.task.image.name)
    return bad
