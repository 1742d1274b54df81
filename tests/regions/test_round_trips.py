"""Predictions written for annotation tools, read back by the readers of annotations: the same masks and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage

from fullyconv.annotations.convert import Options, convert
from fullyconv.data.check import find_classes
from fullyconv.data.dataset import read_labels
from fullyconv.data.folder import open_folder
from fullyconv.files import BadFile
from fullyconv.outputs import PREDICTIONS, Outputs
from fullyconv.predict.beside import Beside, Written
from fullyconv.predict.image import Prediction
from fullyconv.predict.work import Task
from fullyconv.types import VOID, ClassSet

CLASSES = ClassSet(("sky", "Straße: naß", "cell", "never"))
TOOLS: list[tuple[str, ...]] = [("coco",), ("yolo",), ("labelme",), ()]  # without one: GeoJSON alone
IDS = ["coco", "yolo", "labelme", "geojson"]
BLOCKS = st.integers(1, 3)


@st.composite
def label_maps(draw: st.DrawFn, least: int = VOID) -> np.ndarray:
    """Noise of single pixels and larger regions that touch, lie in each other and have holes; void among them."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    labels = draw(arrays.arrays(np.int16, shape, elements=st.integers(least, 2)))
    return np.kron(labels, np.ones((draw(BLOCKS), draw(BLOCKS)), np.int16))


def written(place: Path, pictures: dict[str, np.ndarray], beside: Beside) -> None:
    """Write pictures, and beside them, as ``predict`` does, their masks and polygons."""
    outputs = Outputs(place / "labelled", by=PREDICTIONS)
    tasks = [Task(place / "photos" / name, Path(name).stem) for name in pictures]
    files = Written(beside, CLASSES, outputs, tasks)
    (place / "photos").mkdir()
    (place / "labelled").mkdir()
    for task, labels in zip(tasks, pictures.values(), strict=True):
        pixels = np.zeros((*labels.shape, 3), np.uint8)
        if not task.image.exists():
            Image.fromarray(pixels).save(task.image)
        with outputs.writing(f"{task.target}.png", *(task.target + suffix for suffix in beside.suffixes(task))):
            Image.fromarray(np.where(labels < 0, 255, labels).astype(np.uint8)).save(
                place / "labelled" / f"{task.target}.png"
            )
            files.write(Prediction(pixels, labels, CLASSES), place / "labelled" / task.target)
    files.finish()


def read_back(place: Path, rest: str = "ignore") -> tuple[ClassSet, dict[str, np.ndarray]]:
    """Convert all that lies there, and read the labels of each picture."""
    shutil.rmtree(plain := place.with_name(f"{place.name}-{rest}"), ignore_errors=True)
    convert(place, plain, Options(rest=rest))
    folder = open_folder(plain)
    classes, _ = find_classes(folder)
    labels = {pair.name: read_labels(pair, classes) for pairs in folder.splits.values() for pair in pairs}
    shutil.rmtree(plain)
    return classes, labels


@pytest.mark.parametrize("tools", TOOLS, ids=IDS)
@settings(deadline=None, max_examples=8)
@given(labels=label_maps())
def test_polygons_of_every_tool_give_the_masks_and_classes_back(tools: tuple[str, ...], labels: np.ndarray) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder, "set")
        place.mkdir()
        whole = np.array([[0, 1]], np.int16)  # so that something is drawn
        written(place, {"a.png": labels, "b.jpg": whole}, Beside(polygons=True, tools=tools))
        classes, found = read_back(place)
        assert classes.names == CLASSES.names
        assert found.keys() == {"a", "b"}
        assert np.array_equal(found["a"], labels)
        assert np.array_equal(found["b"], whole)


def test_what_is_not_drawn_is_background_unless_it_is_not_scored(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    labels = np.array([[VOID, 0], [2, 1]], np.int16)
    written(tmp_path / "set", {"a.png": labels}, Beside(tools=("coco",)))
    classes, found = read_back(tmp_path / "set", "background")
    assert classes.names == ("background", *CLASSES.names)
    assert np.array_equal(found["a"], labels + 1)


@pytest.mark.parametrize("tools", TOOLS, ids=IDS)
@settings(deadline=None, max_examples=6)
@given(labels=label_maps(least=0), tolerance=st.sampled_from([0.5, 1.0, 1.5]))
def test_simpler_polygons_change_pixels_near_outlines_alone(
    tools: tuple[str, ...], labels: np.ndarray, tolerance: float
) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder, "set")
        place.mkdir()
        written(place, {"a.png": labels}, Beside(polygons=True, tools=tools, tolerance=tolerance))
        classes, found = read_back(place)
        changed = found["a"] != labels
        framed = np.pad(labels, 1, constant_values=-2)
        near = np.zeros((2 * labels.shape[0] + 1, 2 * labels.shape[1] + 1), bool)  # edges' middles, then their ends
        near[::2, 1::2] = framed[1:, 1:-1] != framed[:-1, 1:-1]
        near[1::2, ::2] = framed[1:-1, 1:] != framed[1:-1, :-1]
        near[::2, ::2] = ndimage.binary_dilation(near)[::2, ::2]
        away = ndimage.distance_transform_edt(~near)[1::2, 1::2] / 2  # of each pixel's middle from an outline
        assert classes.names == CLASSES.names
        assert not changed.any() or away[changed].max() <= tolerance


def test_holes_are_simplified_as_outlines_are(tmp_path: Path) -> None:
    """Runs of a hole whose edges are slanted: two regions that share a corner, in a third."""
    labels = np.ones((7, 7), np.int16)
    labels[3, 3:5] = labels[4:6, 5] = 0
    (tmp_path / "set").mkdir()
    written(tmp_path / "set", {"a.png": labels}, Beside(tools=("coco",), tolerance=1.0))
    changed = read_back(tmp_path / "set")[1]["a"] != labels
    assert not changed[5:, 3:5].any()  # below them, and not beside either
    assert changed.sum() <= 4


def geotiff(path: Path, size: tuple[int, int], epsg: int = 32633) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, epsg)
    tags = [
        (33550, "d", 3, (0.3, 0.3, 0.0)),
        (33922, "d", 6, (0, 0, 0, 412345.67, 5412345.6, 0)),
        (34735, "H", 12, keys),
    ]
    tifffile.imwrite(path, np.full((*size, 3), 9, np.uint8), photometric="rgb", extratags=tags)


def test_features_of_a_picture_that_lies_somewhere_come_back_to_its_pixels(tmp_path: Path) -> None:
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (9, 8)), np.ones((3, 4), int)).astype(np.int16)
    place = tmp_path / "set"
    geotiff(place / "photos" / "a.tif", labels.shape)
    (place / "labelled").mkdir()
    outputs = Outputs(place / "labelled", by=PREDICTIONS)
    files = Written(Beside(polygons=True), CLASSES, outputs, [Task(place / "photos" / "a.tif", "a")])
    with outputs.writing("a.geojson", "a_classes.tif"):
        files.write(Prediction(np.zeros((*labels.shape, 3), np.uint8), labels, CLASSES), place / "labelled" / "a")
    document = json.loads((place / "labelled" / "a.geojson").read_text())
    assert document["features"][0]["geometry"]["coordinates"][0][0][0] > 400_000
    assert np.array_equal(read_back(place)[1]["a"], labels)
    document["crs"]["properties"]["name"] = "urn:ogc:def:crs:OGC:1.3:CRS84"
    (place / "labelled" / "a.geojson").write_text(json.dumps(document))
    with pytest.raises(BadFile, match=r"in urn:.*CRS84, and its picture in EPSG:32633"):
        read_back(place)
    del document["crs"]
    (place / "labelled" / "a.geojson").write_text(json.dumps(document))
    with pytest.raises(BadFile, match=r"WGS 84, as nothing else is said"):
        read_back(place)
