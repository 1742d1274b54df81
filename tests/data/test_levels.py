"""Pictures whose numbers do not fill their type, or of more bands than colours: one range for all, nothing dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fullyconv import build, load
from fullyconv.cli import app
from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_image, read_raster
from fullyconv.data.levels import fit_range
from fullyconv.files import BadFile
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.types import ClassSet, Levels

RNG = np.random.default_rng(3)
SIZE = (24, 32)


def data_set(root: Path, numbers: list[np.ndarray], suffix: str = ".tif", **options: Any) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index, picture in enumerate(numbers):
        path = root / "images" / f"p{index}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, picture, **options)
        else:
            Image.fromarray(picture).save(path)
        mask = np.zeros(SIZE, np.uint8)
        mask[:, index + 3 :] = 1
        Image.fromarray(mask).save(root / "masks" / f"p{index}.png")
    return root


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("u2", 300, 1300), ("f4", 0.1, 0.4), ("f4", 20, 200), ("i2", -900, 900), ("f8", 1e4, 3e4), ("u4", 10, 13)],
)
def test_numbers_are_spread_by_one_range_of_all_training_pictures(
    tmp_path: Path, kind: str, low: float, high: float
) -> None:
    pictures = [(low + (high - low) * RNG.random(SIZE)).astype(kind) for _ in range(4)]
    report = check_folder(open_folder(data_set(tmp_path, pictures)))
    assert report.problems == []
    assert report.levels is not None
    ((first, last),) = report.levels.ranges
    spread = high - low
    assert first <= low + 0.01 * spread
    assert high - 0.02 * spread - (1 if kind[0] in "iu" else 0) <= last <= max(high * 2, high)
    samples = [read_sample(pair, report.classes) for pair in report.folder.splits["all"]]
    wanted = [np.clip((each.astype(float) - first) * 255 / (last - first), 0, 255).round() for each in pictures]
    for sample, levels in zip(samples, wanted, strict=True):
        assert np.abs(sample.image[..., 0] - levels).max() <= 1
    assert report.mean[0] == pytest.approx(np.mean(wanted), abs=0.6)
    assert len(np.unique(samples[0].image)) > min(60, len(np.unique(pictures[0])) - 1)


@given(st.lists(st.integers(0, 65_535), min_size=2, max_size=50))
@settings(max_examples=80, deadline=None)
def test_a_range_holds_what_it_is_fitted_on(values: list[int]) -> None:
    numbers = np.array(values, np.uint16)
    low, high = fit_range(numbers, 16)
    assert low <= np.percentile(numbers, 0.1)
    assert high >= np.percentile(numbers, 99.9)
    assert low < high


@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16)}, {"bigtiff": True}, {"compression": "zlib", "predictor": 2}]
)
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u1", "u2", ">i2", "f4"])
@pytest.mark.parametrize("bands", [2, 4, 7])
def test_bands_of_a_tiff_are_those_of_tifffile(
    tmp_path: Path, options: dict[str, Any], planes: str, kind: str, bands: int
) -> None:
    if "predictor" in options and kind == "f4":
        options = options | {"predictor": 3}
    numbers = RNG.integers(0, 200, (*SIZE, bands)).astype(kind)
    stored = numbers if planes == "contig" else np.moveaxis(numbers, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planes, **options)
    found = read_raster(tmp_path / "a.tif").bands()
    read = tifffile.imread(tmp_path / "a.tif")
    assert np.array_equal(found, read if planes == "contig" else np.moveaxis(read, 0, 2))
    assert np.array_equal(found, numbers)
    with pytest.raises(BadFile, match=f"{bands} bands"):
        read_image(tmp_path / "a.tif")


def test_pages_are_chosen_or_taken_as_channels(tmp_path: Path) -> None:
    for name, options in (("pages.tif", {"photometric": "minisblack"}), ("stack.tif", {"imagej": True})):
        planes = RNG.integers(0, 9000, (4, *SIZE)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name, planes, **options)
        assert np.array_equal(read_raster(tmp_path / name, 2).values[..., 0], planes[2])
        assert np.array_equal(read_raster(tmp_path / name, "channels").bands(), np.moveaxis(planes, 0, 2))
        with pytest.raises(BadFile, match=r"4 pages in one file: choose one, pages=0"):
            read_raster(tmp_path / name)
        with pytest.raises(BadFile, match="no page 4"):
            read_raster(tmp_path / name, 4)
    root = data_set(tmp_path / "set", [RNG.integers(0, 255, (2, *SIZE)).astype(np.uint8)] * 3, photometric="minisblack")
    for pages, channels in ((1, 3), ("channels", 3)):
        prepared = prepare(Recipe(pages=pages), root)
        assert len(prepared.report.mean) == channels
        assert prepared.report.levels == Levels(((0, 255),), pages)
    assert "--pages is a number" in str(
        CliRunner().invoke(app, ["data", "check", str(root), "--pages", "-1"]).exception
    )


def test_a_band_called_alpha_that_holds_a_picture_is_a_channel(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 255, (*SIZE, 4)).astype(np.uint8) for _ in range(2)]
    root = data_set(tmp_path / "nir", pictures, photometric="rgb", extrasamples=["unassalpha"])
    report = check_folder(open_folder(root))
    assert len(report.mean) == 4
    assert np.array_equal(read_sample(report.folder.splits["all"][0], report.classes).image, pictures[0])
    for picture in pictures:
        picture[..., 3] = np.where(picture[..., 3] > 127, 255, 0)
    root = data_set(tmp_path / "clear", pictures, photometric="rgb", extrasamples=["unassalpha"])
    assert len(check_folder(open_folder(root)).mean) == 3


def test_pictures_of_other_bands_are_named(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 255, (*SIZE, bands)).astype(np.uint8) for bands in (5, 5, 6)]
    root = data_set(tmp_path, pictures, photometric="minisblack", planarconfig="contig")
    (problem,) = check_folder(open_folder(root)).problems
    assert "p2.tif: 6 bands of uint8, not 5 bands" in str(problem)


def test_colours_of_eight_bits_have_no_range(tmp_path: Path) -> None:
    root = data_set(tmp_path, [RNG.integers(0, 255, (*SIZE, 3)).astype(np.uint8)] * 2, suffix=".png")
    assert check_folder(open_folder(root)).levels is None


def test_a_model_of_five_bands_from_folder_to_prediction(tmp_path: Path) -> None:
    pictures = [RNG.integers(200, 900, (*SIZE, 5)).astype(np.uint16) for _ in range(4)]
    root = data_set(tmp_path / "set", pictures, photometric="minisblack", planarconfig="contig")
    run = tmp_path / "run"
    words = ["epochs=1", "network=fcn32s-resnet18", "crop=[16,16]", "batch=2", "rotation=20", "blur=1", "device=cpu"]
    options = [word for each in words for word in ("--set", each)]
    trained = CliRunner().invoke(app, ["train", "default", "--data", str(root), "--out", str(run), *options])
    assert trained.exit_code == 0, trained.output
    model = load(run)
    assert model.network.in_channels == 5
    path = root / "images" / "p0.tif"
    expected = model.predict(path)
    assert expected.image.shape == (*SIZE, 3)
    assert np.array_equal(model.predict(pictures[0]).labels, expected.labels)
    assert np.array_equal(model.predict(torch.from_numpy(np.moveaxis(pictures[0], 2, 0))).labels, expected.labels)
    with pytest.raises(BadFile, match="1 bands of uint8, not 5 bands"):
        model.predict(root / "masks" / "p0.png")
    scored = CliRunner().invoke(
        app, ["evaluate", str(run), str(root), "--split", "all", "--report", str(tmp_path / "r")]
    )
    assert scored.exit_code == 0, scored.output
    predicted = CliRunner().invoke(app, ["predict", str(run), str(path), "--out", str(tmp_path / "labels")])
    assert predicted.exit_code == 0, predicted.output
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels" / "p0.png")), expected.labels)


def test_further_channels_start_from_the_mean_of_the_colours(tmp_path: Path) -> None:
    from fullyconv.train.assemble import _widened

    narrow = build("fcn32s-resnet18", 2)
    wide = _widened(narrow, Recipe(network="fcn32s-resnet18"), 5)
    image = torch.rand(1, 3, 40, 40)
    alike = torch.cat([image, torch.zeros(1, 2, 40, 40)], 1)
    torch.testing.assert_close(wide.eval()(alike), narrow.eval()(image))
    first = next(tensor for tensor in wide.state_dict().values() if tensor.ndim == 4)
    torch.testing.assert_close(first[:, 4], first[:, :3].mean(1))


def test_ranges_that_are_none_are_refused() -> None:
    for wrong in ((1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="a range goes from"):
            Levels((wrong,))
    with pytest.raises(ValueError, match="NaN"):
        Levels(((0, 1),))(np.array([[[np.nan]]]))
    assert len(ClassSet(("a",))) == 1


def test_what_a_geotiff_calls_no_data_does_not_widen_the_range(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(500, 1500, (3, 20, 30, 4)).astype(np.int16)
    numbers[:, :5] = -9999
    place = [(33550, 12, 3, (1.0, 1.0, 0.0), True), (33922, 12, 6, (0.0, 0, 0, 5e5, 5e6, 0), True)]
    tags = [*place, (42113, 2, 6, "-9999", True)]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index, each in enumerate(numbers):
        tifffile.imwrite(
            tmp_path / f"images/{index}.tif", each, photometric="minisblack", planarconfig="contig", extratags=tags
        )
        Image.fromarray((each[..., 0] > 999).astype(np.uint8)).save(tmp_path / f"masks/{index}.png")
    levels = check_folder(open_folder(tmp_path)).levels
    assert levels is not None
    assert all(500 <= low < 510 and 1490 < high <= 1500 for low, high in levels.ranges)
