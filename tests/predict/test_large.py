"""Pictures that are too large to be held: the same labels as of one that is, also after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from fullyconv import ClassSet, Preprocess, Segmenter, build, save
from fullyconv.data.images import read_image
from fullyconv.data.place import read_place
from fullyconv.files import BadFile
from fullyconv.outputs import MANIFEST
from fullyconv.predict.beside import Beside
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files

RNG = np.random.default_rng(0)
GEO = [(33550, 12, 3, (2.0, 2.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0), True)]


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    return Segmenter(network, classes=ClassSet(("a", "b", "c"), values=(3, 5, 9)), preprocess=Preprocess())


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1)
    monkeypatch.setattr("fullyconv.predict.bands.HEIGHTS", (1,))
    monkeypatch.setattr("fullyconv.predict.draft.VIEW_SIDE", 100)
    monkeypatch.setattr("fullyconv.predict.draft.BAND_PIXELS", 1 << 14)
    monkeypatch.setattr("fullyconv.predict.large.NOTE_ROWS", 32)


def labelled(model: Segmenter, picture: Path, out: Path, *, probabilities: bool = False) -> None:
    tools = ("gpkg",) if probabilities else ()
    beside = Beside(polygons=True, tools=tools, areas=True, least=4, tolerance=0.5)
    outcomes = list(predict_files(model, find_images([picture]), out, probabilities=probabilities, beside=beside))
    assert [outcome.problem for outcome in outcomes] == [None]


def said(file: Path) -> object:
    """What a file of regions says, in whatever order the regions come."""
    if file.suffix == ".csv":
        return file.read_text()
    document = json.loads(file.read_text())
    document["features"].sort(key=str)
    return document


def rows_of(package: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(package)) as database:
        return database.execute("SELECT geom, class, value, pixels FROM regions").fetchall()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_by_rows_as_whole(tmp_path: Path, narrow: None, suffix: str) -> None:
    pixels = RNG.integers(1, 256, (470, 210, 3)).astype(np.uint8)
    picture = tmp_path / f"x{suffix}"
    if suffix == ".png":
        Image.fromarray(pixels).save(picture)
    else:
        pixels[200:260, 50:90] = 0
        extra = [*GEO, (42113, 2, 0, "0", True)]
        tifffile.imwrite(picture, pixels, tile=(64, 64), photometric="rgb", extratags=extra)
    model = segmenter()
    more = suffix == ".tif"
    labelled(model, picture, tmp_path / "whole", probabilities=more)
    model.picture_memory = model.memory = 1
    labelled(model, picture, tmp_path / "rows", probabilities=more)
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert sorted(file.name for file in (tmp_path / "rows").iterdir()) == [name.replace("npz", "npy") for name in names]
    whole, rows = (np.asarray(Image.open(tmp_path / place / "x.png")) for place in ("whole", "rows"))
    np.testing.assert_array_equal(rows, whole)
    assert Image.open(tmp_path / "rows/x.png").getpalette() == Image.open(tmp_path / "whole/x.png").getpalette()
    assert Image.open(tmp_path / "rows/x_overlay.jpg").size == (42, 94)
    for name in ("x.geojson", "areas.csv"):
        assert said(tmp_path / "rows" / name) == said(tmp_path / "whole" / name)
    if more:
        chances = np.load(tmp_path / "rows/x.npy", mmap_mode="r")
        expected = np.load(tmp_path / "whole/x.npz")["probabilities"]
        assert (chances.dtype, chances.shape) == (np.float16, (3, 470, 210))
        np.testing.assert_allclose(chances.astype(np.float32), expected.astype(np.float32), atol=1e-3)
        regions = [sorted(rows_of(tmp_path / place / "x.gpkg")) for place in ("whole", "rows")]
        assert regions[0] == regions[1]
        assert len(regions[0]) == len(json.loads((tmp_path / "rows/x.geojson").read_text())["features"])
        maps = [tmp_path / place / "x_classes.tif" for place in ("whole", "rows")]
        np.testing.assert_array_equal(*map(tifffile.imread, maps))
        assert (tifffile.imread(maps[1])[210, 60:80] == 255).all()
        assert read_place(maps[1]) == read_place(maps[0])


def test_what_is_made_of_all_labels_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "x.png")
    model = segmenter()
    model.picture_memory = 1
    tasks, beside = find_images([tmp_path / "x.png"]), Beside(tools=("yolo", "gpkg"))
    (outcome,) = predict_files(model, tasks, tmp_path / "out", beside=beside)
    assert "50 x 50 pixels are labelled in bands, without --polygons-to yolo: leave it out" in str(outcome.problem)


def test_probabilities_that_the_disk_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "x.png")
    model = segmenter()
    model.picture_memory = 1
    monkeypatch.setattr("fullyconv.predict.large.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 14_999))
    (outcome,) = predict_files(model, find_images([tmp_path / "x.png"]), tmp_path / "out", probabilities=True)
    assert "the probabilities of 3 classes take 0.0 GiB, 0.0 are free: make room" in str(outcome.problem)


def test_what_is_finished_is_not_done_again(tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (900, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    model = segmenter()
    expected = model.predict(pixels).labels
    model.picture_memory, model.memory = 1, 8 << 20  # bands of 288 rows, one strip
    bands = model.prepared().bands
    assert bands is not None
    maps, computed = bands.maps, []

    def dying(rows: np.ndarray, *given: object) -> list[torch.Tensor]:
        computed.append(rows.shape[1])
        if sum(computed) > 700:
            raise KeyboardInterrupt
        return maps(rows, *given)

    monkeypatch.setattr(bands, "maps", dying)
    with pytest.raises(KeyboardInterrupt):
        labelled(model, tmp_path / "x.png", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text().splitlines()]
    done = [line["rows"] for line in lines if line["file"] == ".x.labels.part"][-1]
    assert 200 < done < 700
    computed.clear()
    monkeypatch.setattr(bands, "maps", lambda rows, *given: computed.append(rows.shape[1]) or maps(rows, *given))
    labelled(model, tmp_path / "x.png", tmp_path / "out")
    assert sum(computed) < 900 - done + model.network.plans[0].reach + 64
    mask = np.asarray(Image.open(tmp_path / "out" / "x.png"))
    np.testing.assert_array_equal(mask, np.array([3, 5, 9])[expected])
    assert not list((tmp_path / "out").glob(".*.part"))


@pytest.mark.parametrize("runs", [((1200, True),), ((700, True), (1200, False))])
def test_probabilities_after_runs_that_died_are_those_of_one_pass(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch, runs: tuple[tuple[int, bool], ...]
) -> None:
    pixels = RNG.integers(0, 256, (1300, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    model = segmenter()
    expected = model.predict(pixels, probabilities=True)
    model.picture_memory, model.memory = 1, 8 << 20
    bands = model.prepared().bands
    assert bands is not None
    maps, seen = bands.maps, [0, 0]

    def dying(rows: np.ndarray, *given: object) -> list[torch.Tensor]:
        seen[0] += rows.shape[1]
        if seen[0] > seen[1]:
            raise KeyboardInterrupt
        return maps(rows, *given)

    def run(*, probabilities: bool) -> None:
        tasks = find_images([tmp_path / "x.png"])
        (done,) = predict_files(model, tasks, tmp_path / "out", probabilities=probabilities)
        assert done.problem is None

    monkeypatch.setattr(bands, "maps", dying)
    for most, probabilities in runs:
        seen[:] = 0, most
        with pytest.raises(KeyboardInterrupt):
            run(probabilities=probabilities)
    seen[:] = 0, 1 << 20
    run(probabilities=True)
    assert (seen[0] < 1300) == (len(runs) == 1 and runs[0][1])  # only such a run is gone on with
    np.testing.assert_allclose(np.load(tmp_path / "out/x.npy"), expected.probabilities, atol=2e-3)
    assert not list((tmp_path / "out").glob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("chances", [False, True])
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, chances: bool) -> None:
    model = segmenter()
    save(model.network, tmp_path / "model", classes=model.classes, preprocess=model.preprocess)
    pixels = RNG.integers(0, 256, (9000, 1500, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, tile=(256, 256), photometric="rgb")
    command = [sys.executable, "-m", "fullyconv", "predict", "model", "x.tif", "--out", "out", "--memory", "800MiB"]
    command += ["--probabilities"] * chances
    running = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    manifest, part = tmp_path / "out" / MANIFEST, ".x.labels.part"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (manifest.exists() and '"rows"' in manifest.read_text()):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert 0 < [line["rows"] for line in lines if line["file"] == part][-1] < 9000
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)
    mask = np.asarray(Image.open(tmp_path / "out" / "x.png"))
    whole = model.predict(read_image(tmp_path / "x.tif"), probabilities=chances)
    expected = whole.labels
    if chances:
        apart = np.abs(np.load(tmp_path / "out" / "x.npy").astype(np.float32) - whole.probabilities)
        assert apart.max() < 0.01
    assert (mask == np.array([3, 5, 9])[expected]).mean() > 0.9999


def test_nothing_is_left_of_a_picture_that_ends_too_early(tmp_path: Path, narrow: None) -> None:
    Image.fromarray(RNG.integers(1, 256, (470, 210, 3)).astype(np.uint8)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(content[: len(content) * 3 // 4])
    model = segmenter()
    model.picture_memory = 1
    for _ in range(2):
        (outcome,) = predict_files(model, find_images([tmp_path / "x.png"]), tmp_path / "out")
        assert "truncated" in str(outcome.problem)
        assert not [*(tmp_path / "out").glob(".*.part")]


def test_a_zarr_store_is_labelled_as_the_same_tiff(tmp_path: Path, narrow: None) -> None:
    zarr = pytest.importorskip("zarr")
    pixels = RNG.integers(1, 256, (3, 150, 90)).astype(np.uint8)
    place = tmp_path / "stores" / "x.zarr"
    zarr.create_array(store=place, shape=pixels.shape, dtype="u1", chunks=(1, 32, 50), dimension_names=["c", "y", "x"])
    zarr.open(place)[:] = pixels
    tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(pixels, 0, 2), photometric="rgb")
    Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2))).save(tmp_path / "stores/beside.png")
    model = segmenter()
    labelled(model, tmp_path / "x.tif", tmp_path / "tiff")
    expected = np.asarray(Image.open(tmp_path / "tiff/x.png"))
    for memory, out in ((None, tmp_path / "whole"), (1, tmp_path / "rows"), (1, tmp_path / "rows")):
        model.picture_memory = model.memory = memory
        tasks = find_images([tmp_path / "stores"])  # of a folder, a store is one picture
        assert [task.target.as_posix() for task in tasks] == ["beside", "x"]
        outcomes = list(predict_files(model, tasks, out, beside=Beside(polygons=True)))
        assert [outcome.problem for outcome in outcomes] == [None, None]
        np.testing.assert_array_equal(np.asarray(Image.open(out / "x.png")), expected)
        labels = zarr.open(out / "x_classes.zarr", mode="r")
        np.testing.assert_array_equal(labels[:], expected)
        assert labels.attrs["classes"] == ["a", "b", "c"]
        assert {task.image.name for task in find_images([tmp_path], out=out)} == {"beside.png", "x.tif", "x.zarr"}
    with pytest.raises(BadFile, match="lies in the Zarr store"):
        list(predict_files(model, tasks, place / "out"))
    (tmp_path / "rows/x_classes.zarr/notes").write_text("of someone else")
    with pytest.raises(BadFile, match=r"x_classes\.zarr: has been changed since fullyconv wrote it"):
        list(predict_files(model, tasks, out, beside=Beside()))


def test_a_level_lies_where_the_full_size_does(tmp_path: Path, narrow: None) -> None:
    pixels = RNG.integers(1, 256, (400, 240, 3)).astype(np.uint8)
    pixels[200:260, 40:90] = 0
    keys = (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2, 3072, 0, 1, 32633), True)  # numbers are of middles
    extra = [*GEO, keys, (42113, 2, 0, "0", True)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(pixels, tile=(64, 64), photometric="rgb", subifds=0, extratags=extra, metadata=None)
        half = np.ascontiguousarray(pixels[::2, ::2])
        file.write(half, tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None)
    model = segmenter()
    model.level = 1
    expected = np.where((half == 0).all(2), 255, np.array([3, 5, 9])[model.predict(half).labels])
    place = read_place(tmp_path / "x.tif")
    assert place is not None
    a, b, c, d, e, f = place.transform
    for memory, out in ((None, tmp_path / "whole"), (1, tmp_path / "rows")):
        model.picture_memory = model.memory = memory
        (outcome,) = predict_files(model, find_images([tmp_path / "x.tif"]), out, beside=Beside(areas=True, level=1))
        assert outcome.problem is None
        np.testing.assert_array_equal(np.asarray(Image.open(out / "x.png")), expected)
        found = read_place(out / "x_classes.tif")
        assert found is not None
        assert found.transform == pytest.approx((2 * a, b, c, d, 2 * e, f))
        assert found.epsg == 32633
        np.testing.assert_array_equal(tifffile.imread(out / "x_classes.tif"), expected)
        sizes = {tuple(line.split(",")[3:7:2]) for line in (out / "areas.csv").read_text().splitlines()[1:]}
        assert all(float(area) == 16 * int(pixels) for pixels, area in sizes)  # 4 m x 4 m
