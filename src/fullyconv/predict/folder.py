"""Many images: what is read, predicted and written of each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
from fullyconv.predict.image import Segmenter, looks_once, predict_by_heads
from fullyconv.predict.inputs import Pixels
from fullyconv.predict.large import label_large, refuse_beside, write_large
from fullyconv.predict.prediction import Prediction
from fullyconv.predict.uncertainty import Doubter
from fullyconv.predict.work import Outcome, Pace, Task, Work, work_through

NOTHING = Beside()
PICTURE, LABELLED = 3, 5  # bytes a pixel of a picture on its way; of its labels, the overlay and the mask's numbers


def predict_files(  # noqa: PLR0913 (the choices of one command)
    segmenter: Segmenter | Mapping[str, Segmenter],
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
        segmenter: The model; or several heads of one, which computes what they share once, by the folders below
            ``out`` that each fills: ``""`` is ``out`` itself.
        tasks: What to predict, as ``find_images`` gives it.
        out: The output folder.
        probabilities: Write ``STEM.npz`` as well.
        overwrite: Replace outputs of earlier runs that have been changed since or were made of another input, too.
        pace: Takes the seconds of computing and waiting.
        beside: What else is written. Of pictures that lie somewhere (GeoTIFF) always a map that lies there, too:
            ``STEM_classes.tif``.

    Yields:
        One outcome per input, in their order; its labels are those of the first head.

    Raises:
        BadFile: Before the first prediction if an output would replace an input, a file that is not ours or one
            made of another input, or if the folder takes no files; after some if the disk has become full.
    """
    models = segmenter if isinstance(segmenter, Mapping) else {"": segmenter}
    each = list(models.values())
    doubts = isinstance(each[0], Doubter)
    per_pixel = PICTURE + LABELLED * len(each) + probabilities * _chances_bytes(each)
    extras = (".npz", ".npy") * probabilities + ("_entropy.png", "_spread.png") * doubts
    inputs = [task.image for task in tasks]
    folders = [Outputs(out / name, inputs=inputs, overwrite=overwrite, by=PREDICTIONS) for name in models]
    written = [Written(beside, model.classes, outputs, tasks) for model, outputs in zip(each, folders, strict=True)]
    refused = [*beside.at_once(), *(["--uncertainty"] * doubts)]
    by_rows = ByRows(each, folders, tasks, refused, probabilities=probabilities)

    def write(found: Sequence[Prediction | Draft], target: Path) -> Path:
        stem = target.relative_to(out)
        masks = [
            _write(one, outputs.folder / stem, by_rows.place_of(stem), own)
            for one, outputs, own in zip(found, folders, written, strict=True)
        ]
        return masks[0]

    def predict(picture: Pixels | Rows) -> Sequence[Prediction | Draft]:
        if isinstance(picture, Rows):
            return by_rows.predict(picture)
        return predict_by_heads(each, picture, probabilities=probabilities)

    def finish() -> None:
        for own in written:
            own.finish()

    work: Work[Pixels | Rows, Sequence[Prediction | Draft]] = Work(
        suffixes=(".png", "_overlay.jpg", *extras),
        read=by_rows.read,
        predict=predict,
        write=write,
        more=beside.suffixes,
        size=lambda picture: picture.values.size // COLOURS * per_pixel if isinstance(picture, Pixels) else 0,
    )
    yield from work_through(tasks, folders, work, pace=pace, once=beside.once(), finish=finish)


def _chances_bytes(models: Sequence[Segmenter]) -> int:
    """Return the bytes that the probabilities of a pixel take."""
    return 2 * sum(len(each.classes) for each in models)


def _write(found: Prediction | Draft, target: Path, place: Place | None, written: Written) -> Path:
    """Write what one head found in one picture; returns the mask's path."""
    if isinstance(found, Draft):
        mask = write_large(found, target, written.classes, place, legend=written.beside.legend)
        written.write_large(found, target)
        found.remove()  # now that nothing is made of it any more
        return mask
    mask = write_prediction(found, target, legend=written.beside.legend)
    written.write(found, target)
    return mask


def sight_of(segmenter: Segmenter) -> Sight:
    """Return what a model sees of files."""
    return Sight(segmenter.preprocess.levels, segmenter.network.in_channels, segmenter.level)


class ByRows:
    """Pictures that are too large to be held, among others.

    Args:
        models: The heads of a model; the first one's ``picture_memory`` says what is too large.
        folders: That of each.
        tasks: All pictures.
        refused: What was asked for that is made of all labels at once.
        probabilities: Whether they are wanted.
    """

    def __init__(
        self,
        models: Sequence[Segmenter],
        folders: Sequence[Outputs],
        tasks: Sequence[Task],
        refused: Sequence[str],
        *,
        probabilities: bool = False,
    ) -> None:
        self._models, self._folders, self._refused = models, folders, refused
        self._probabilities = probabilities
        self._tasks = {task.image: task for task in tasks}
        self._places: dict[Path, Place | None] = {}

    def read(self, task: Task) -> Pixels | Rows:
        """Read a picture, or open one that is too large."""
        first = self._models[0]
        memory = first.picture_memory
        budget = free_memory() // 4 if memory is None else memory
        sight = sight_of(first)
        per_pixel = 11 + LABELLED * len(self._models) + self._probabilities * _chances_bytes(self._models)
        found = open_rows(task.image, budget, sight, per_pixel=per_pixel) if sight.by_rows else None
        if found is None:
            return first.read(task.image)
        refuse_beside(found, *self._refused)
        self._places[task.target] = read_place(task.image, sight.level)
        return found

    def predict(self, rows: Rows) -> list[Draft]:
        """Label it by each head."""
        target, wanted = self._tasks[rows.path].target, self._probabilities
        if looks_once(self._models):
            return label_large(self._models, rows, self._folders, target, probabilities=wanted)
        pairs = zip(self._models, self._folders, strict=True)
        return [label_large([each], rows, [folder], target, probabilities=wanted)[0] for each, folder in pairs]

    def place_of(self, target: Path) -> Place | None:
        """Return where a picture lies that is read by rows, by the stem of what is written of it."""
        return self._places.get(target)


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
