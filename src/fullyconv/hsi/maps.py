"""Class maps of scenes, in the formats that pictures, GIS and remote-sensing programs read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fullyconv.draw import map_with_legend
from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import READERS, is_scene, label_values, write_class_numbers
from fullyconv.hsi.pictures import RGB_NM, false_colour
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.predict.folder import Outcome, Task, find_files, write_mask, write_probabilities
from fullyconv.predict.image import Prediction


@dataclass(frozen=True)
class MapOptions:
    """What is read of the scenes' files and written besides the class maps."""

    cube_key: str | None = None
    probabilities: bool = False
    rgb_nm: Sequence[float] = RGB_NM  # the wavelengths shown as red, green and blue


def find_scenes(inputs: Iterable[Path | str]) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs to scenes, as ``find_files`` does."""
    return find_files(inputs, lambda path: path.is_file() and is_scene(path), "scene", list(READERS))


def predict_scenes(
    segmenter: SceneSegmenter, tasks: Sequence[Task], out: Path, output: MapOptions | None = None
) -> Iterator[Outcome]:
    """Predict each scene and write its maps; yields one outcome per scene, a bad one's too."""
    output = output or MapOptions()
    for task in tasks:
        try:
            scene = SceneFiles(task.image, cube_key=output.cube_key).open_cube()
            prediction = segmenter.predict(scene, probabilities=output.probabilities)
            if tuple(output.rgb_nm) != RGB_NM:
                prediction = replace(prediction, image=false_colour(scene, output.rgb_nm))
            yield Outcome(task, write_maps(prediction, scene, out / task.target))
        except (ValueError, OSError, MemoryError) as error:
            yield Outcome(task, problem=str(error) if isinstance(error, BadFile) else f"{task.image}: {error}")


def write_maps(prediction: Prediction, scene: Scene, target: Path) -> Path:
    """Write what a network says of a scene beside ``target``; each file appears whole or not at all.

    ``STEM.png`` (palette indices), ``STEM_legend.png`` (painted, with the classes' names),
    ``STEM_classes.hdr`` with ``.img`` (ENVI Classification) and ``STEM_classes.tif`` (GeoTIFF), both where the
    scene lies, ``STEM_false_colour.png`` and, if there are probabilities, ``STEM.npz``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = write_mask(prediction, target)
    _write_picture(map_with_legend(prediction.labels, prediction.classes), target, "_legend.png")
    _write_picture(prediction.image, target, "_false_colour.png")
    values = label_values(prediction.labels, prediction.classes)
    for suffix in ("_classes.hdr", "_classes.tif"):
        write_class_numbers(target.with_name(target.name + suffix), values, prediction.classes, scene.georeference)
    write_probabilities(prediction, target)
    return mask


def _write_picture(pixels: np.ndarray, target: Path, suffix: str) -> None:
    with whole_file(target.with_name(target.name + suffix)) as draft:
        Image.fromarray(pixels).save(draft, "PNG")
