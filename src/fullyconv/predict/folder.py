"""Many images: what is read, predicted and written of each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fullyconv.data.place import Place, read_place
from fullyconv.data.raster import COLOURS
from fullyconv.data.rows import Rows, Sight, open_rows
from fullyconv.draw import palette_image, save_picture
from fullyconv.files import whole_file
from fullyconv.machine import free_memory
from fullyconv.outputs import PREDICTIONS, Outputs
from fullyconv.predict.beside import Beside, Written
from fullyconv.predict.draft import Draft
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Pixels
from fullyconv.predict.large import label_large, refuse_beside, write_large
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.uncertainty import Doubter
from fullyconv.predict.work import Outcome, Pace, Task, Work, work_through

NOTHING = Beside()
BYTES_PER_PIXEL = 8  # of a picture on its way: itself, its labels, the overlay and the mask's numbers


def predict_files(  # noqa: PLR0913 (the choices of one command)
    segmenter: Segmenter,
    tasks: Sequence[Task],
    out: Path,
    *,
    probabilities: bool = False,
    overwrite: bool = False,
    pace: Pace | None = None,
    beside: Beside = NOTHING,
) -> Iterator[Outcome]:
    """Predict each input and write its pictures: ``STEM.png``, ``STEM_overlay.jpg`` and perhaps ``STEM.npz``.

    The mask has palette indices and exactly the input's size; ``STEM.npz`` holds ``probabilities``, C x H x W float16
    (of a picture that is read by rows ``STEM.npy`` does). A ``Doubter`` writes ``STEM_entropy.png`` and
    ``STEM_spread.png``, too: grey, 255 is an uncertainty of 1. Pictures are read and written in threads beside the
    computing.

    Args:
        segmenter: The model.
        tasks: What to predict, as ``find_images`` gives it.
        out: The output folder.
        probabilities: Write ``STEM.npz`` as well.
        overwrite: Replace outputs of earlier runs that have been changed since or were made of another input, too.
        pace: Takes the seconds of computing and waiting.
        beside: What else is written. Of pictures that lie somewhere (GeoTIFF) always a map that lies there, too:
            ``STEM_classes.tif``.

    Yields:
        One outcome per input, in their order.

    Raises:
        BadFile: Before the first prediction if an output would replace an input, a file that is not ours or one
            made of another input, or if the folder takes no files; after some if the disk has become full.
    """
    per_pixel = BYTES_PER_PIXEL + (2 * len(segmenter.classes) if probabilities else 0)
    extras = (".npz", ".npy") * probabilities + ("_entropy.png", "_spread.png") * isinstance(segmenter, Doubter)
    outputs = Outputs(out, inputs=(task.image for task in tasks), overwrite=overwrite, by=PREDICTIONS)
    written = Written(beside, segmenter.classes, outputs, tasks)
    refused = [*beside.at_once(), *(["--uncertainty"] * isinstance(segmenter, Doubter))]
    by_rows = ByRows(segmenter, outputs, tasks, refused, probabilities=probabilities)

    def write(prediction: Prediction | Draft, target: Path) -> Path:
        if isinstance(prediction, Draft):
            mask = by_rows.write(prediction, target, legend=beside.legend)
            written.write_large(prediction, target)
            prediction.remove()  # now that nothing is made of it any more
            return mask
        mask = write_prediction(prediction, target, legend=beside.legend)
        written.write(prediction, target)
        return mask

    def predict(picture: Pixels | Rows) -> Prediction | Draft:
        if isinstance(picture, Rows):
            return by_rows.predict(picture)
        found: Prediction = segmenter.predict(picture, probabilities=probabilities)
        return found

    work: Work[Pixels | Rows, Prediction | Draft] = Work(
        suffixes=(".png", "_overlay.jpg", *extras),
        read=by_rows.read,
        predict=predict,
        write=write,
        more=beside.suffixes,
        size=lambda picture: picture.values.size // COLOURS * per_pixel if isinstance(picture, Pixels) else 0,
    )
    yield from work_through(tasks, outputs, work, pace=pace, once=beside.once(), finish=written.finish)


def sight_of(segmenter: Segmenter) -> Sight:
    """Return what a model sees of files."""
    return Sight(segmenter.preprocess.levels, segmenter.network.in_channels, segmenter.level)


class ByRows:
    """Pictures that are too large to be held, among others.

    Args:
        segmenter: The model; its ``picture_memory`` says what is too large.
        outputs: The folder.
        tasks: All pictures.
        refused: What was asked for that is made of all labels at once.
        probabilities: Whether they are wanted.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        outputs: Outputs,
        tasks: Sequence[Task],
        refused: Sequence[str],
        *,
        probabilities: bool = False,
    ) -> None:
        self._segmenter, self._outputs, self._refused = segmenter, outputs, refused
        self._probabilities = probabilities
        self._tasks = {task.image: task for task in tasks}
        self._places: dict[str, Place | None] = {}

    def read(self, task: Task) -> Pixels | Rows:
        """Read a picture, or open one that is too large."""
        memory = self._segmenter.picture_memory
        budget = free_memory() // 4 if memory is None else memory
        sight = sight_of(self._segmenter)
        per_pixel = 16 + (2 * len(self._segmenter.classes) if self._probabilities else 0)
        found = open_rows(task.image, budget, sight, per_pixel=per_pixel) if sight.by_rows else None
        if found is None:
            return self._segmenter.read(task.image)
        refuse_beside(found, *self._refused)
        self._places[task.target.as_posix()] = read_place(task.image, sight.level)
        return found

    def predict(self, rows: Rows) -> Draft:
        """Label it."""
        target = self._tasks[rows.path].target
        return label_large(self._segmenter, rows, self._outputs, target, probabilities=self._probabilities)

    def write(self, draft: Draft, target: Path, *, legend: bool = False) -> Path:
        """Write its labels."""
        return write_large(draft, target, self._segmenter.classes, self._places[draft.name], legend=legend)


def write_prediction(prediction: Prediction, target: Path, *, legend: bool = False) -> Path:
    """Write the pictures of one prediction beside ``target``; each appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = write_mask(prediction, target)
    picture = target.with_name(target.name + "_overlay.jpg")
    with whole_file(picture) as draft:
        prediction.overlay(legend=legend).save(draft, "JPEG", quality=90)
    write_probabilities(prediction, target)
    if prediction.uncertainty is not None:
        for name in ("entropy", "spread"):
            levels = np.rint(255 * getattr(prediction.uncertainty, name)).astype(np.uint8)
            save_picture(levels, target.with_name(f"{target.name}_{name}.png"))
    return mask


def write_mask(prediction: Prediction, target: Path) -> Path:
    """Write the labels as ``STEM.png``, palette indices; returns its path."""
    mask = target.with_name(target.name + ".png")
    save_picture(palette_image(prediction.labels, prediction.classes), mask)
    return mask


def write_probabilities(prediction: Prediction, target: Path) -> None:
    """Write the probabilities as ``STEM.npz``, if there are any."""
    if prediction.probabilities is not None:
        with (
            whole_file(target.with_name(target.name + ".npz")) as draft,
            # np.savez_compressed with zlib's quickest level: 0.6 of its time, 3 % more bytes.
            zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("probabilities.npy", "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array(file, prediction.probabilities, allow_pickle=False)
