"""Pictures whose channels are files of their own: nnU-Net's cases, and folders that classes.yaml names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fullyconv import build, load
from fullyconv.annotations.convert import convert
from fullyconv.cli import app
from fullyconv.data.channels import read_channels
from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_picture
from fullyconv.data.folder import open_folder
from fullyconv.data.raster import levels_of
from fullyconv.files import BadFile
from fullyconv.predict.finding import find_images
from fullyconv.predict.image import Segmenter
from fullyconv.types import ClassSet, Levels, Preprocess

SIZE = (24, 30)
RNG = np.random.default_rng(0)
CLASSES = "classes: [ground, thing]\n"


def write(path: Path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, numbers)
    else:
        Image.fromarray(numbers).save(path, quality=100) if path.suffix == ".jpg" else Image.fromarray(numbers).save(
            path
        )


def mask(path: Path) -> None:
    write(path, (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 7 == 0).astype(np.uint8))


def nnunet(root: Path, count: int = 3, cases: int = 4) -> dict[str, np.ndarray]:
    """Write a set of so many channels, grey of 8 bits, grey of 16 bits, …; returns the numbers of each case."""
    found = {}
    for case in range(cases):
        kinds = [np.uint8, np.uint16, np.float32, np.uint8, np.uint8]
        planes = [RNG.integers(0, 250, SIZE).astype(kinds[place]) * (place + 1) for place in range(count)]
        for place, plane in enumerate(planes):
            suffix = ".tif" if plane.dtype.kind == "f" else ".png"
            write(root / "imagesTr" / f"c{case}_{place:04d}{suffix}", plane.astype(kinds[place]))
        found[f"c{case}"] = np.stack(
            [plane.astype(kinds[place]).astype(np.float64) for place, plane in enumerate(planes)], 2
        )
        mask(root / "labelsTr" / f"c{case}.png")
    write(root / "imagesTs" / "t_0000.png", np.zeros(SIZE, np.uint8))
    names = {str(place): f"m{place}" for place in range(count)}
    (root / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": {"ground": 0, "thing": 1}}))
    return found


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_cases_of_several_files_are_pictures_of_as_many_channels(tmp_path: Path, count: int) -> None:
    numbers = nnunet(tmp_path / "set", count)
    folder = open_folder(tmp_path / "set")
    report = check_folder(folder)
    assert report.problems == []
    assert "_0000 to" in folder.note
    assert "left out: 1 image of split 'test', which has no masks" in folder.note
    assert report.classes.names == ("ground", "thing")
    assert len(report.mean) == max(3, count)
    assert report.levels is not None
    for pair in folder.splits["train"]:
        own = numbers[pair.image.stem.removesuffix("_0000")]
        assert np.array_equal(read_channels(pair.image, pair.levels).values, own)
        shown = own[..., [0, 1, 1]] if count == 2 else own
        assert np.array_equal(read_picture(pair), report.levels(shown))
    convert(tmp_path / "set", tmp_path / "plain")  # one file each, of all channels
    plain = open_folder(tmp_path / "plain")
    assert plain.beside == ()
    for pair in plain.splits["train"]:
        assert np.array_equal(tifffile.imread(pair.image), numbers[pair.image.stem.removesuffix("_0000")])


def test_a_case_without_one_of_its_files_is_named(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "c1_0001.png").unlink()
    write(tmp_path / "imagesTr" / "c2_0001.png", np.zeros((5, 6), np.uint16))
    report = check_folder(open_folder(tmp_path))
    assert [(Path(bad.path).name, bad.what) for bad in report.problems] == [
        ("c1_0000.png", "lacks its channel c1_0001"),
        ("c2_0001.png", "a channel of 6 x 5, of a picture of 30 x 24"),
    ]


def test_frames_of_films_are_no_channels(tmp_path: Path) -> None:
    for film in "ab":
        for frame in range(3):
            write(tmp_path / "images" / f"{film}_{frame:04d}.png", np.full((*SIZE, 3), 9, np.uint8))
            mask(tmp_path / "masks" / f"{film}_{frame:04d}.png")
    folder = open_folder(tmp_path)
    assert (len(folder.splits["all"]), folder.beside) == (6, ())


@pytest.mark.parametrize(
    ("images", "depth"),
    [
        ("images/{}.jpg", "depth/{}.png"),
        ("train/images/{}.jpg", "train/depth/{}.png"),
        ("images/train/{}.jpg", "depth/train/{}.png"),
        ("images/site/{}.jpg", "images/site/depth/{}.png"),
    ],
)
def test_folders_that_are_named_hold_further_channels(tmp_path: Path, images: str, depth: str) -> None:
    for name in "abc":
        colours, far = RNG.integers(0, 255, (*SIZE, 3), np.uint8), RNG.integers(300, 4000, SIZE).astype(np.uint16)
        write(tmp_path / images.format(name), colours)
        write(tmp_path / depth.format(name), far)
        mask(tmp_path / images.replace("images", "masks").format(name).replace(".jpg", ".png"))
    assert check_folder(open_folder(tmp_path)).levels is None or "depth" in images  # colours alone
    (tmp_path / "classes.yaml").write_text(CLASSES + "channels: [depth]\n")
    folder = open_folder(tmp_path)
    report = check_folder(folder)
    assert (report.problems, len(report.mean)) == ([], 4)
    (pairs,) = folder.splits.values()
    assert len(pairs) == 3
    found = read_channels(pairs[-1].image, report.levels).values
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 3], far)
    assert report.levels is not None
    assert [task.image.suffix for task in find_images([tmp_path], levels=report.levels)].count(".jpg") == 3
    assert not [task for task in find_images([tmp_path], levels=report.levels) if "depth" in task.image.parts]
    with pytest.raises(BadFile, match="lacks its channel depth/c"):  # itself is not its own
        read_channels(tmp_path / depth.format("c"), report.levels)
    (tmp_path / "classes.yaml").write_text(CLASSES + "channels: [nir]\n")
    with pytest.raises(BadFile, match="lacks its channel nir/a"):
        open_folder(tmp_path)
    (tmp_path / "classes.yaml").write_text(CLASSES + "channels: [depth]\n")
    (tmp_path / depth.format("b")).unlink()
    assert "b.jpg: lacks its channel depth/b" in str(open_folder(tmp_path).problems[0])


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    nnunet(tmp_path)
    for name in ("../images", "/etc", "..", "a/b"):
        (tmp_path / "classes.yaml").write_text(f"{CLASSES}channels: ['{name}']\n")
        with pytest.raises(BadFile, match=r"channels.0"):
            open_folder(tmp_path)
        with pytest.raises(ValueError, match="no name of"):
            Levels(((0, 1),), beside=(name,))


def test_a_model_finds_the_channels_of_a_picture(tmp_path: Path) -> None:
    numbers = nnunet(tmp_path / "set", 2)
    levels = Levels(((0, 255), (0, 500), (0, 500)), beside=("_0001",))
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 2, channels=3)
    nn.init.normal_(network.heads[0].weight)
    model = Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(levels=levels), device="cpu")
    folder = tmp_path / "set" / "imagesTr"
    assert [task.image.name for task in find_images([folder], levels=levels)] == [f"c{n}_0000.png" for n in range(4)]
    expected = model.predict(folder / "c0_0000.png").labels
    assert expected.any()
    assert np.array_equal(model.predict(levels(numbers["c0"][..., [0, 1, 1]])).labels, expected)
    with pytest.raises(BadFile, match=r"c0_0001.png: no first channel .* take the file that ends with _0000"):
        model.predict(folder / "c0_0001.png")
    with pytest.raises(BadFile, match="others are called _0001"):
        model.predict((folder / "c0_0000.png").read_bytes())
    pytest.importorskip("fastapi")
    from fullyconv.serve import make_app

    with pytest.raises(ValueError, match="sees several files of a picture"):
        make_app({"two": model})


@pytest.mark.slow
def test_a_model_of_several_files_from_folder_to_prediction(tmp_path: Path) -> None:
    nnunet(tmp_path / "set", 2)
    run = tmp_path / "run"
    words = ["epochs=1", "network=fcn1s-spectral2", "crop=[16,16]", "batch=2", "device=cpu"]
    options = [word for each in words for word in ("--set", each)]
    trained = CliRunner().invoke(
        app, ["train", "default", "--data", str(tmp_path / "set"), "--out", str(run), *options]
    )
    assert trained.exit_code == 0, trained.output
    assert (run / "report.html").is_file()
    model = load(run)
    assert isinstance(model, Segmenter)
    levels = model.preprocess.levels
    assert levels is not None
    assert levels.beside == ("_0001",)
    folder = tmp_path / "set" / "imagesTr"
    expected = model.predict(folder / "c0_0000.png")
    predicted = CliRunner().invoke(app, ["predict", str(run), str(folder), "--out", str(tmp_path / "labels")])
    assert predicted.exit_code == 0, predicted.output
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels" / "c0_0000.png")), expected.labels)
    scored = CliRunner().invoke(app, ["evaluate", str(run), str(tmp_path / "set"), "--split", "train"])
    assert scored.exit_code == 0, scored.output


def test_a_range_for_each_band_reads_deep_colours_by_it_too() -> None:
    from fullyconv.data.raster import Raster

    levels = Levels(((0, 100), (0, 1000), (0, 10_000)))
    deep = Raster(np.array([[[50, 500, 5000]]], np.uint16), "rgb", 16)
    assert levels_of(deep, levels).ravel().tolist() == [128, 128, 128]
