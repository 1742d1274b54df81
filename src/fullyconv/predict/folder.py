"""Many images, one after the other; a bad one is reported and the rest are done."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.data.images import SUFFIXES
from fullyconv.draw import palette_image
from fullyconv.files import BadFile, whole_file
from fullyconv.predict.image import Prediction, Segmenter


@dataclass(frozen=True)
class Task:
    """An input and the stem of what is written for it, relative to the output folder."""

    image: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    task: Task
    labels: Path | None = None  # the mask that was written
    problem: str | None = None


def find_images(inputs: Iterable[Path | str]) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs to pictures, as ``find_files`` does."""
    return find_files(inputs, _is_image, "image", SUFFIXES)


def find_files(
    inputs: Iterable[Path | str], wanted: Callable[[Path], bool], what: str, suffixes: Sequence[str]
) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs; raises ``BadFile`` for an input that matches nothing.

    Of folders and globs the ``wanted`` files are taken; ``what`` they are and their ``suffixes`` are named in errors.

    Outputs are named after their inputs, in the same subfolders; inputs that would share a name keep
    their suffix in it (``a.jpg`` and ``a.png`` give ``a.jpg.png`` and ``a.png.png``).
    """
    found: dict[Path, Path] = {}  # image -> target
    for given in map(str, inputs):
        path = Path(given)
        if path.is_dir():
            matches = {file: file.relative_to(path) for file in sorted(path.rglob("*")) if wanted(file)}
        elif path.is_file():
            matches = {path: Path(path.name)}
        else:
            matches = {
                Path(file): Path(Path(file).name)
                for file in sorted(glob.glob(given, recursive=True))
                if wanted(Path(file))
            }
        if not matches:
            raise BadFile(given, f"no {what} there", f"name files, folders or globs of {', '.join(suffixes)}")
        found |= matches
    stems = [target.with_suffix("") for target in found.values()]
    return [
        Task(image, target if stems.count(target.with_suffix("")) > 1 else target.with_suffix(""))
        for image, target in found.items()
    ]


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def predict_files(
    segmenter: Segmenter, tasks: Sequence[Task], out: Path, *, probabilities: bool = False
) -> Iterator[Outcome]:
    """Predict each input and write its pictures; yields one outcome per input.

    Writes ``STEM.png`` (palette indices, exactly the input's size), ``STEM_overlay.jpg`` and, with
    ``probabilities``, ``STEM.npz`` (``probabilities``: C x H x W float16).
    """
    for task in tasks:
        try:
            prediction = segmenter.predict(task.image, probabilities=probabilities)
            yield Outcome(task, write_prediction(prediction, out / task.target))
        except (ValueError, OSError, MemoryError) as error:
            yield Outcome(task, problem=str(error) if isinstance(error, BadFile) else f"{task.image}: {error}")


def write_prediction(prediction: Prediction, target: Path) -> Path:
    """Write the pictures of one prediction beside ``target``; each appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = write_mask(prediction, target)
    picture = target.with_name(target.name + "_overlay.jpg")
    with whole_file(picture) as draft:
        prediction.overlay().save(draft, "JPEG", quality=90)
    write_probabilities(prediction, target)
    return mask


def write_mask(prediction: Prediction, target: Path) -> Path:
    """Write the labels as ``STEM.png``, palette indices."""
    mask = target.with_name(target.name + ".png")
    with whole_file(mask) as draft:
        palette_image(prediction.labels, prediction.classes).save(draft, "PNG")
    return mask


def write_probabilities(prediction: Prediction, target: Path) -> None:
    """Write the probabilities as ``STEM.npz``, if there are any."""
    if prediction.probabilities is not None:
        with whole_file(target.with_name(target.name + ".npz")) as draft, draft.open("wb") as file:
            np.savez_compressed(file, probabilities=prediction.probabilities)
