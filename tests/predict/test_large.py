"""Pictures that are too large to be held: the same labels as of one that is, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
from fullyconv.outputs import MANIFEST
from fullyconv.predict.beside import Beside
from fullyconv.predict.folder import find_images, predict_files

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
    monkeypatch.setattr("fullyconv.predict.image.WHOLE_PIXELS", 1)
    monkeypatch.setattr("fullyconv.predict.bands.LEAST_ROWS", 1)
    monkeypatch.setattr("fullyconv.predict.large.VIEW_SIDE", 100)
    monkeypatch.setattr("fullyconv.predict.large.BAND_PIXELS", 1 << 14)
    monkeypatch.setattr("fullyconv.predict.large.NOTE_ROWS", 32)


def labelled(model: Segmenter, picture: Path, out: Path) -> None:
    beside = Beside(polygons=True, areas=True, least=4, tolerance=0.5)
    outcomes = list(predict_files(model, find_images([picture]), out, beside=beside))
    assert [outcome.problem for outcome in outcomes] == [None]


def said(file: Path) -> object:
    """What a file of regions says, in whatever order the regions come."""
    if file.suffix == ".csv":
        return file.read_text()
    document = json.loads(file.read_text())
    document["features"].sort(key=str)
    return document


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
    labelled(model, picture, tmp_path / "whole")
    model.picture_memory = model.memory = 1
    labelled(model, picture, tmp_path / "rows")
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert sorted(file.name for file in (tmp_path / "rows").iterdir()) == names
    whole, rows = (np.asarray(Image.open(tmp_path / place / "x.png")) for place in ("whole", "rows"))
    np.testing.assert_array_equal(rows, whole)
    assert Image.open(tmp_path / "rows/x.png").getpalette() == Image.open(tmp_path / "whole/x.png").getpalette()
    assert Image.open(tmp_path / "rows/x_overlay.jpg").size == (42, 94)
    for name in ("x.geojson", "areas.csv"):
        assert said(tmp_path / "rows" / name) == said(tmp_path / "whole" / name)
    if suffix == ".tif":
        maps = [tmp_path / place / "x_classes.tif" for place in ("whole", "rows")]
        np.testing.assert_array_equal(*map(tifffile.imread, maps))
        assert (tifffile.imread(maps[1])[210, 60:80] == 255).all()
        assert read_place(maps[1]) == read_place(maps[0])


def test_what_is_made_of_all_labels_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "x.png")
    model = segmenter()
    model.picture_memory = 1
    (outcome,) = predict_files(model, find_images([tmp_path / "x.png"]), tmp_path / "out", probabilities=True)
    assert "50 x 50 pixels are labelled in bands, without --probabilities" in str(outcome.problem)


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


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    model = segmenter()
    save(model.network, tmp_path / "model", classes=model.classes, preprocess=model.preprocess)
    pixels = RNG.integers(0, 256, (9000, 1500, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, tile=(256, 256), photometric="rgb")
    command = [sys.executable, "-m", "fullyconv", "predict", "model", "x.tif", "--out", "out", "--memory", "800MiB"]
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
    expected = model.predict(read_image(tmp_path / "x.tif")).labels
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
