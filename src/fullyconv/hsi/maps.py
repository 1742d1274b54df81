"""Class maps of scenes, in the formats that pictures, GIS and remote-sensing programs read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from fullyconv.draw import map_with_legend, save_picture
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import READERS, is_scene, label_values, write_class_numbers
from fullyconv.hsi.pictures import RGB_NM, false_colour
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.outputs import PREDICTIONS, Outputs, Predictions
from fullyconv.predict.finding import find_files
from fullyconv.predict.folder import write_mask, write_probabilities
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.work import Outcome, Pace, Task, Work, work_through

MAPS = (".png", "_legend.png", "_false_colour.png", "_classes.hdr", "_classes.img", "_classes.tif")
"""What ``write_maps`` writes of every scene, behind the stem of its name."""


@dataclass(frozen=True)
class MapOptions:
    """What is read of the scenes' files and written besides the class maps."""

    cube_key: str | None = None
    probabilities: bool = False
    rgb_nm: Sequence[float] = RGB_NM  # the wavelengths shown as red, green and blue
    overwrite: bool = False  # outputs of earlier runs that have been changed since


def find_scenes(inputs: Iterable[Path | str], *, out: Path | None = None) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs to scenes, as ``find_files`` does."""
    return find_files(inputs, lambda path: path.is_file() and is_scene(path), "scene", list(READERS), out=out)


def predict_scenes(
    segmenter: SceneSegmenter,
    tasks: Sequence[Task],
    out: Path,
    output: MapOptions | None = None,
    *,
    pace: Pace | None = None,
) -> Iterator[Outcome]:
    """Predict each scene and write its maps.

    Args:
        segmenter: The model.
        tasks: Scenes and where their maps go, from ``find_scenes``.
        out: The folder of the maps.
        output: What to read and write besides.
        pace: Takes the seconds of computing and waiting.

    Yields:
        One outcome per scene; that of a bad one names the problem.

    Raises:
        BadFile: Before the first prediction, if an output would replace an input, a file that is not ours or one
            made of another input.

    """
    output = output or MapOptions()

    def predict(task: Task) -> tuple[Prediction, Scene]:
        scene = SceneFiles(task.image, cube_key=output.cube_key).open_cube()
        prediction = segmenter.predict(scene, probabilities=output.probabilities)
        if tuple(output.rgb_nm) != RGB_NM:
            prediction = replace(prediction, image=false_colour(scene, output.rgb_nm))
        return prediction, scene

    work: Work[Task, tuple[Prediction, Scene]] = Work(
        suffixes=(*MAPS, *((".npz",) if output.probabilities else ())),
        read=lambda task: task,
        predict=predict,
        write=lambda found, target: write_maps(*found, target),
        most=1,  # scenes are large
    )
    outputs = Outputs(out, inputs=_read(tasks), overwrite=output.overwrite, by=PREDICTIONS)
    yield from work_through(tasks, outputs, work, pace=pace)


def _read(tasks: Sequence[Task]) -> Iterator[Path]:
    """List all files that scenes are read from: an ENVI header has its data beside it, and maybe our map of it."""
    predictions = Predictions()
    for task in tasks:
        yield task.image
        beside = task.image.parent.glob(f"{escape(task.image.stem)}.*")
        yield from (file for file in beside if file not in predictions)


def write_maps(prediction: Prediction, scene: Scene, target: Path) -> Path:
    """Write what a network says of a scene beside ``target``; each file appears whole or not at all.

    ``STEM.png`` (palette indices), ``STEM_legend.png`` (painted, with the classes' names),
    ``STEM_classes.hdr`` with ``.img`` (ENVI Classification) and ``STEM_classes.tif`` (GeoTIFF), both where the
    scene lies, ``STEM_false_colour.png`` and, if there are probabilities, ``STEM.npz``.

    Args:
        prediction: What the network says.
        scene: The scene, for its place.
        target: The folder and ``STEM``.

    Returns:
        The path of ``STEM.png``.

    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = write_mask(prediction, target)
    legend = map_with_legend(prediction.labels, prediction.classes)
    save_picture(legend, target.with_name(target.name + "_legend.png"))
    save_picture(prediction.image, target.with_name(target.name + "_false_colour.png"))
    values = label_values(prediction.labels, prediction.classes)
    for suffix in ("_classes.hdr", "_classes.tif"):
        write_class_numbers(target.with_name(target.name + suffix), values, prediction.classes, scene.georeference)
    write_probabilities(prediction, target)
    return mask
