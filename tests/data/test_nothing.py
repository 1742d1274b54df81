"""Pixels of "no data" and NaN: filled where they are read, not trained on, not scored, not labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_image, read_raster
from fullyconv.data.masks import decode_mask, read_raw_mask
from fullyconv.data.nothing import find_lone
from fullyconv.data.rows import open_rows
from fullyconv.networks import build
from fullyconv.predict.beside import Beside
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files
from fullyconv.predict.image import Segmenter
from fullyconv.predict.predictor import Predictor
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.predict.uncertainty import Doubter
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.types import VOID, ClassSet, Levels, Preprocess

HOLE = np.zeros((20, 30), np.bool_)
HOLE[:6, 3:20] = True
HOLES = [  # type of the numbers, what stands in the hole, GDAL's tag
    (np.float32, np.nan, None),
    (np.float32, np.nan, "nan"),
    (np.float32, np.inf, None),
    (np.float64, -np.inf, None),
    (np.float32, -9999, "-9999"),
    (np.float32, np.float32(-3.4e38), "-3.4e+38"),
    (np.float32, -np.finfo(np.float32).max, "-3.4028234663852886e+38"),
    (np.float64, -np.finfo(np.float64).max, "-1.7976931348623157e+308"),
    (np.int16, -9999, "-9999"),
    (np.uint16, 65535, "65535"),
    (np.int64, -(2**63), "-9223372036854775808"),
]


def write(path: Path, numbers: np.ndarray, tag: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    extra = [] if tag is None else [(42113, 2, len(tag) + 1, tag, True)]
    layout = {"planarconfig": "contig"} if numbers.ndim == 3 and numbers.shape[2] > 1 else {}
    tifffile.imwrite(path, numbers, photometric="minisblack", extratags=extra, **layout)


@pytest.mark.parametrize(("kind", "filler", "tag"), HOLES)
def test_what_holds_nothing_is_neither_trained_nor_scored_nor_in_the_range(
    tmp_path: Path, kind: type, filler: float, tag: str | None
) -> None:
    rng, classes = np.random.default_rng(0), ClassSet(("low", "high"))
    for index in range(3):
        whole = rng.integers(1100, 1900, (20, 30, 1)).astype(kind)
        numbers = whole.copy()
        numbers[HOLE] = filler
        write(tmp_path / "images" / f"{index}.tif", numbers, tag)
        write(tmp_path / "masks" / f"{index}.tif", (whole[..., 0] > 1500).astype(np.uint8))
    report = check_folder(open_folder(tmp_path), classes)
    assert (report.problems, report.warnings) == ([], [])
    assert "3 pictures with pixels of 'no data' or NaN" in report.folder.note
    assert report.levels is not None
    assert 1090 < report.levels.ranges[0][0] < report.levels.ranges[0][1] < 1910
    assert report.splits["all"].void == 3 * HOLE.sum()
    sample = read_sample(report.folder.splits["all"][2], classes)
    assert np.array_equal(sample.labels < 0, HOLE)
    assert (sample.image[HOLE] == 0).all()
    assert np.array_equal(sample.image[~HOLE], report.levels(whole)[~HOLE].repeat(3, 1))
    with pytest.warns(UserWarning, match="hold nothing"):
        alone = read_image(tmp_path / "images" / "2.tif")  # by its own white, which is 4095
    assert np.array_equal(alone[~HOLE], Levels(((0, 4095),))(whole)[~HOLE].repeat(3, 1))


def test_single_bands_without_a_number_leave_the_pixel(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).uniform(0.2, 0.9, (20, 30, 5)).astype(np.float32)
    numbers[..., 1][HOLE] = np.nan
    numbers[0, 0] = np.nan
    write(tmp_path / "images" / "a.tif", numbers)
    write(tmp_path / "masks" / "a.tif", np.ones((20, 30), np.uint8))
    report = check_folder(open_folder(tmp_path), ClassSet(("no", "yes")))
    assert all(0 <= low < 0.25 and 0.85 < high <= 1 for low, high in report.levels.ranges)  # type: ignore[union-attr]
    sample = read_sample(report.folder.splits["all"][0], ClassSet(("no", "yes")))
    assert np.argwhere(sample.labels == VOID).tolist() == [[0, 0]]
    assert (sample.image[HOLE][:, 1] == 0).all()
    assert (sample.image[HOLE][:, 0] > 0).all()


def test_a_picture_of_nothing_else_is_named(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", np.full((8, 8), np.nan, np.float32))
    write(tmp_path / "masks" / "a.tif", np.zeros((8, 8), np.uint8))
    report = check_folder(open_folder(tmp_path), ClassSet(("no", "yes")))
    assert [problem.what for problem in report.problems] == ["holds nothing but 'no data'"]


FILLERS = [
    (np.float32, -9999), (np.float32, -32768), (np.float32, 1e20), (np.float32, 9.969209968386869e36),
    (np.float32, np.finfo(np.float32).min), (np.float64, -999), (np.float32, -77_777), (np.int16, -9999),
    (np.int16, -32768), (np.uint16, 65535), (np.int32, -2147483648),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "filler"), FILLERS)
def test_a_number_that_may_stand_for_nothing_is_said(tmp_path: Path, kind: type, filler: float) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        whole = rng.integers(1100, 1900, (20, 30, 1)).astype(kind)
        write(tmp_path / "masks" / f"{index}.tif", (whole[..., 0] > 1500).astype(np.uint8))
        whole[HOLE] = filler
        write(tmp_path / "images" / f"{index}.tif", whole)
    report = check_folder(open_folder(tmp_path))
    assert report.problems == []
    said = [odd for odd in report.warnings if "no data" in odd.what]
    assert [Path(odd.path).name for odd in said] == ["0.tif", "1.tif", "2.tif"]
    assert said[0].what.startswith(f"{float(np.asarray(filler, kind)):g} stands in {HOLE.mean():.2%} of its pixels")
    assert "gdal_edit.py -a_nodata" in said[0].fix


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_measured_is_not_taken_for_nothing(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    draw = data.draw(st.sampled_from([rng.normal, rng.uniform, rng.laplace, rng.exponential, rng.poisson]))
    values = draw(size=2000) * data.draw(st.floats(0.01, 1e4)) + data.draw(st.floats(-1e4, 1e4))
    kind = data.draw(st.sampled_from([np.float32, np.float64, np.int16, np.uint16, np.int32]))
    values = values.clip(0, 65535).astype(kind) if kind == np.uint16 else values.clip(-3e4, 3e4).astype(kind)
    assert find_lone(values) is None  # saturated at an end, too
    least, most = float(values.min()), float(values.max())
    filler = least - 3 * (most - least) - 1
    if kind not in (np.int16, np.uint16) and len(np.unique(values)) > 20:
        holed = values.copy()
        holed[:20] = filler
        found = find_lone(holed)
        assert found is not None
        assert (found.number, found.share) == (float(kind(filler)), 0.01)


@pytest.mark.parametrize(("filler", "tag"), [(np.nan, None), (-9999, "-9999"), (-1, "-1")])
def test_masks_hold_no_class_where_they_say_so(tmp_path: Path, filler: float, tag: str | None) -> None:
    write(tmp_path / "m.tif", np.where(HOLE, filler, 1).astype(np.float32), tag)
    labels = decode_mask(read_raw_mask(tmp_path / "m.tif"), ClassSet(("no", "yes")), tmp_path / "m.tif")
    assert np.array_equal(labels, np.where(HOLE, VOID, 1))


def test_a_class_that_a_mask_calls_no_data_stays_one(tmp_path: Path) -> None:
    """GIS programs write 0, the background, as "no data" of the maps that they make of outlines."""
    write(tmp_path / "m.tif", (~HOLE).astype(np.uint8), "0")
    labels = decode_mask(read_raw_mask(tmp_path / "m.tif"), ClassSet(("no", "yes")), tmp_path / "m.tif")
    assert np.array_equal(labels, ~HOLE)


@pytest.mark.parametrize("tiled", [False, True])
def test_a_mask_inside_a_geotiff_says_what_holds_nothing(tmp_path: Path, tiled: bool) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(0, 255, (3, 90, 70), np.uint8)
    inside = np.ones((90, 70), np.bool_)
    inside[30:65, 11:50] = False
    options = {"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {"blockysize": 7}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=90, width=70, count=3, dtype="uint8", **options
        ) as file,
    ):
        file.write(values)
        file.write_mask(inside)
    missing = read_raster(tmp_path / "a.tif").missing
    assert missing is not None
    assert np.array_equal(missing, ~inside)
    rows = open_rows(tmp_path / "a.tif", 1)
    assert rows is not None
    for first, last in ((0, 40), (33, 71), (60, 90)):
        assert np.array_equal(rows[first:last, 0:70], values.transpose(1, 2, 0)[first:last])
        assert np.array_equal(rows.empty(first, last), ~inside[first:last])


@pytest.mark.filterwarnings("ignore:.*hold nothing")
def test_every_way_of_predicting_leaves_out_what_holds_nothing(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).uniform(0, 1, (20, 30)).astype(np.float32)
    numbers[HOLE] = np.nan
    write(tmp_path / "in" / "a.tif", numbers)
    network, classes = build("fcn1s-spectral2", 2, channels=3), ClassSet(("class_0", "class_1"))
    network.heads[0].bias.data[1] = 1e6
    segmenter = Segmenter(network, classes=classes, preprocess=Preprocess(), device="cpu")
    path, wanted = tmp_path / "in" / "a.tif", np.where(HOLE, VOID, 1)
    with pytest.warns(UserWarning, match=r"a.tif: pixels that hold nothing \('no data', NaN\) are void"):
        plain = segmenter.predict(path, probabilities=True)
    looking = [CRFSegmenter(segmenter), ViewsSegmenter(segmenter, Views(flip=True)), Doubter(segmenter)]
    found = [plain, segmenter.predict([path.read_bytes()], probabilities=True)[0]]
    found += [each.predict(path, probabilities=True) for each in looking]
    masked = np.ma.masked_invalid(np.repeat(numbers[..., None], 3, 2))
    found.append(segmenter.predict(masked, probabilities=True, span=(0, 1)))
    for each in found:
        assert each.probabilities is not None
        assert np.array_equal(each.labels, wanted)
        assert not each.probabilities[:, HOLE].any()
        assert (each.probabilities[1, ~HOLE] > 0.5).all()
    assert found[-2].uncertainty is not None
    assert not found[-2].uncertainty.entropy[HOLE].any()
    assert np.array_equal(found[-1].image, plain.image)
    assert all(np.array_equal(each, wanted) for each in (Predictor(segmenter)(path), *Predictor(segmenter)([path])))
    for memory in (None, 1):  # at once, and by rows
        segmenter.picture_memory = memory
        out = tmp_path / f"out{memory}"
        tasks = find_images([tmp_path / "in"])
        done = [*predict_files(segmenter, tasks, out, beside=Beside(areas=True), probabilities=True)]
        assert [outcome.problem for outcome in done] == [None]
        assert np.array_equal(read_raster(out / "a.png").values[..., 0], np.where(HOLE, 255, 1))
        assert f"a,class_1,0,{(~HOLE).sum()}," in (out / "areas.csv").read_text()
        chances = np.load(out / "a.npy") if memory else np.load(out / "a.npz")["probabilities"]
        assert np.array_equal(chances, plain.probabilities)
