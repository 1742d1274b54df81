"""What ``fullyconv predict`` does once it is known what is asked: pictures, films and scenes, here or on a cluster."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fullyconv.cli.console import complain, out
from fullyconv.cli.crf import with_crf
from fullyconv.cli.opening import with_doubt, with_views
from fullyconv.cli.progress import follow, paint_films
from fullyconv.files import counted

if TYPE_CHECKING:
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.predict.beside import Beside
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.ray import Choices
    from fullyconv.predict.work import Outcome, Task


@dataclass(frozen=True)
class Asked:
    """What the command is to write, and how the model is to look."""

    folder: Path
    beside: Beside
    probabilities: bool
    sheet: bool
    overwrite: bool
    crf: bool
    tta: str | None
    uncertainty: bool
    cube_key: str | None
    rgb: tuple[float, float, float] | None

    @property
    def of_pictures(self) -> dict[str, object]:
        """The options that are for pictures alone."""
        return {
            "--crf": self.crf, "--tta": self.tta, "--uncertainty": self.uncertainty,
            "--polygons": self.beside.polygons, "--areas": self.beside.areas, "--legend": self.beside.legend,
            "--sheet": self.sheet, "--level": self.beside.level,
        }  # fmt: skip

    @property
    def of_scenes(self) -> dict[str, object]:
        """The options that are for scenes alone."""
        return {"--cube-key": self.cube_key, "--rgb": self.rgb}


def looking(segmenter: Segmenter, model: Path, asked: Asked) -> Segmenter:
    """Let a model look at pictures as it is asked to."""
    segmenter = with_views(segmenter, asked.tta)
    segmenter = with_crf(segmenter, model) if asked.crf else segmenter
    return with_doubt(segmenter) if asked.uncertainty else segmenter


def label_scenes(segmenter: SceneSegmenter, inputs: list[str], asked: Asked) -> bool:
    """Label scenes; returns whether some were bad."""
    from fullyconv.hsi.maps import MapOptions, find_scenes, predict_scenes
    from fullyconv.hsi.pictures import RGB_NM
    from fullyconv.predict.work import Pace

    tasks, pace = find_scenes(inputs, out=asked.folder), Pace()
    output = MapOptions(asked.cube_key, asked.probabilities, asked.rgb or RGB_NM, asked.overwrite)
    bad = follow("predicting", predict_scenes(segmenter, tasks, asked.folder, output, pace=pace), len(tasks))
    out.print(f"{len(tasks) - bad} of {len(tasks)} scenes labelled in {asked.folder}")
    out.print(pace.words("scene"))
    return bad > 0


def label_by_heads(segmenter: Segmenter, model: Path, inputs: list[str], asked: Asked) -> bool:
    """Label films and pictures by the first head, and by each further one into a folder of its name."""
    models = {"": segmenter, **segmenter.heads}
    return label_pictures({name: looking(each, model, asked) for name, each in models.items()}, inputs, asked)


def _refuse_folders(tasks: list[Task], heads: Collection[str]) -> None:
    """Refuse pictures whose labels by the first head would lie where those by another belong."""
    mixed = {task.target.parts[0] for task in tasks if len(task.target.parts) > 1} & set(heads)
    if mixed:
        name = min(mixed)
        raise ValueError(f"the folder {name}/ among the inputs is called as a head of the model: predict it by itself")


def label_pictures(models: Mapping[str, Segmenter], inputs: list[str], asked: Asked) -> bool:
    """Label films and pictures by the heads of a model, each in the folder of its name; returns if some were bad."""
    from fullyconv.data.rows import refuse_level
    from fullyconv.outputs import Outputs
    from fullyconv.predict.finding import find_images
    from fullyconv.predict.folder import predict_files, sight_of
    from fullyconv.predict.work import Pace
    from fullyconv.report.sheet import SHEET, write_sheet

    place, overwrite, segmenter = asked.folder, asked.overwrite, next(iter(models.values()))
    others = {"--probabilities": asked.probabilities, **asked.of_pictures, "--uncertainty": None}
    bad_films, rest = 0, inputs
    for name, each in models.items():
        bad, rest = paint_films(each, inputs, place / name, asked=others, overwrite=overwrite)
        bad_films += bad
    if inputs and not rest:
        return bad_films > 0
    tasks, pace = find_images(rest, out=place, levels=segmenter.preprocess.levels), Pace()
    _refuse_folders(tasks, models.keys())
    if segmenter.level:
        refuse_level((task.image for task in tasks), sight_of(segmenter))
    folders = {name: Outputs(place / name, overwrite=overwrite) for name in models}
    for outputs in folders.values():
        outputs.check([SHEET] if asked.sheet else [])
    chances, beside = asked.probabilities, asked.beside
    outcomes = predict_files(models, tasks, place, probabilities=chances, overwrite=overwrite, pace=pace, beside=beside)
    done: list[Outcome] = []
    bad = follow("predicting", _noted(outcomes, done), len(tasks))
    if asked.sheet and bad < len(tasks):
        for name, each in models.items():
            out.print(f"{write_sheet(folders[name], done, each.classes)}")
    heads = ", ".join(str(place / name) for name in models if name)
    below = f", by the further heads in {heads}" if heads else ""
    out.print(f"{len(tasks) - bad} of {len(tasks)} images labelled in {place}{below}")
    out.print(pace.words("image"))
    return bool(bad or bad_films)


def predict_on_cluster(model: Path, inputs: list[str], place: str, choices: Choices, *, column: str) -> None:
    """Predict with a progress bar on a Ray cluster; exits with status 1 where files are bad."""
    from fullyconv.checkpoint import read_config
    from fullyconv.predict.ray import RayJob
    from fullyconv.predict.remote import list_images

    if heads := read_config(model).heads:
        what = f"a model of {1 + len(heads)} heads: on a cluster labels are those of the first"
        complain("careful", f"{what}; predict without --engine ray has those of {', '.join(heads)}")
    images = list_images(inputs, place, column=column)
    job = RayJob(model, images, place, choices)
    if job.before:
        out.print(f"{job.before} of {len(images)} images were labelled before")
    started = time.monotonic()
    bad = follow("predicting", job.outcomes(), len(job.left))
    out.print(f"{len(images) - bad} of {len(images)} images labelled in {place}")
    out.print(f"{counted(len(job.left), 'image')} in {time.monotonic() - started:.1f} s")
    if bad:
        raise typer.Exit(1)


def _noted(outcomes: Iterator[Outcome], done: list[Outcome]) -> Iterator[Outcome]:
    """Pass outcomes on, and keep them."""
    for outcome in outcomes:
        done.append(outcome)
        yield outcome
