"""What data layers bring: those of the release on miniatures of their data sets, and lists of files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fullyconv import facts
from fullyconv.caffe.description import describe
from fullyconv.caffe.states import Phase, State
from fullyconv.cli import app
from fullyconv.files import BadFile
from fullyconv.solver.feeds import Feed, feed_of
from fullyconv.solver.released import Roots
from miniatures import SIZE, context, nyud, siftflow


def feed(folder: Path, layer: str, roots: Roots | None = None, *, phase: Phase = "TRAIN", seed: int = 0) -> Feed:
    path = folder / "net.prototxt"
    path.write_text(f"layer {{ name: 'data' {layer} }}")
    return feed_of(describe(path, State(phase)), roots or Roots(), seed)


def python(module: str, layer: str, values: object, *tops: str) -> str:
    named = " ".join(f"top: '{top}'" for top in tops)
    text = repr(values).replace('"', '\\"')
    return f"type: 'Python' {named} python_param {{ module: '{module}' layer: '{layer}' param_str: \"{text}\" }}"


def test_siftflow_brings_a_picture_and_both_labels(tmp_path: Path) -> None:
    values = {"siftflow_dir": str(siftflow(tmp_path)), "split": "trainval", "seed": 1337}
    found = feed(tmp_path, python("siftflow_layers", "SIFTFlowSegDataLayer", values, "data", "sem", "geo"))
    blobs = [found.batch(number) for number in range(8)]
    random = Random(1337)
    drawn = [int(random.random() * found.items) for _ in range(8)]
    assert [math.isclose(float(b["data"][0, 0, 0, 0]), float(blobs[drawn.index(d)]["data"][0, 0, 0, 0]))
            for b, d in zip(blobs, drawn, strict=True)] == [True] * 8  # fmt: skip
    assert blobs[0]["data"].shape == (1, 3, *SIZE)
    assert set(np.unique(blobs[0]["sem"])) <= {*range(33), 255}
    assert set(np.unique(blobs[0]["geo"])) <= {0, 1, 2, 255}
    again = feed(tmp_path, python("siftflow_layers", "SIFTFlowSegDataLayer", values, "data", "sem", "geo"))
    np.testing.assert_array_equal(again.batch(5)["data"], blobs[5]["data"])


def test_nyud_brings_what_its_tops_say(tmp_path: Path) -> None:
    values = {"nyud_dir": "nowhere", "split": "trainval", "tops": ["color", "depth", "hha", "label"], "seed": 1}
    root = nyud(tmp_path)
    found = feed(
        tmp_path, python("nyud_layers", "NYUDSegDataLayer", values, "color", "depth", "hha", "label"), Roots(nyud=root)
    )
    blobs = found.batch(0)
    assert found.items == 2
    assert {name: blob.shape for name, blob in blobs.items()} == {
        "color": (1, 3, *SIZE), "depth": (1, 1, *SIZE), "hha": (1, 3, *SIZE), "label": (1, 1, *SIZE),
    }  # fmt: skip
    assert float(blobs["depth"][0, 0, 0, 0]) == pytest.approx(math.log(900) - 7.844, abs=1e-4)
    assert set(np.unique(blobs["label"])) == {*range(40), 255}
    with pytest.raises(BadFile, match="the folder 'nowhere' is not there: give it by --nyud"):
        feed(tmp_path, python("nyud_layers", "NYUDSegDataLayer", values, "color"))


def test_context_counts_its_rest_and_takes_pictures_in_order_where_nothing_trains(tmp_path: Path) -> None:
    root = context(tmp_path)
    values = {"voc_dir": "nowhere", "context_dir": "nowhere", "split": "val", "seed": 1337}
    layer = python("pascalcontext_layers", "PASCALContextSegDataLayer", values, "data", "label")
    found = feed(tmp_path, layer, Roots(context=root, voc=tmp_path / "VOCdevkit"))
    blobs = found.batch(0)
    picture = np.asarray(Image.open(tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000003.jpg").convert("RGB"))
    expected = picture[..., ::-1].astype(np.float32) - np.float32(facts.CONTEXT.mean)
    np.testing.assert_allclose(blobs["data"][0].transpose(1, 2, 0), expected, atol=1e-4)
    assert blobs["label"].max() <= 59
    np.testing.assert_array_equal(found.batch(3)["data"], blobs["data"])  # one picture, again and again


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (python("my_layers", "Mine", {"split": "train"}, "data"), "my_layers.Mine is not run here: known by name are"),
        (
            python("voc_layers", "VOCSegDataLayer", {"voc_dir": "x"}, "data"),
            "write a dict of plain values with a split",
        ),
        (
            python("voc_layers", "VOCSegDataLayer", {"split": "seg11valid", "voc_dir": "."}, "data"),
            "seg11valid.txt: there is no such list: give --sbdd",
        ),
        (
            python("voc_layers", "VOCSegDataLayer", {"split": "train", "voc_dir": "."}, "data"),
            "train.txt: there is no such list: name the data set's own folder",
        ),
        (
            "type: 'Data' top: 'data' data_param { source: 'lmdb' }",
            "are not read: write the pictures as files",
        ),
        (
            python("voc_layers", "VOCSegDataLayer", {"split": "train", "seed": [1]}, "data"),
            "write a dict of plain values",
        ),
        ("type: 'DummyData' top: 'a' dummy_data_param { shape { dim: [99999, 99999] } }", "FULLYCONV_MAX_ARRAY_BYTES"),
        (
            "type: 'ImageSegData' top: 'a' transform_param { crop_size: 999999 } image_data_param { source: 'x' }",
            "FULLYCONV_MAX_PIXELS",
        ),
        ("type: 'Input' top: 'data'", "a training needs a layer that brings data"),
        ("type: 'ImageData' top: 'data' image_data_param { source: 'no.txt' }", "not a list of pictures"),
    ],
)
def test_data_that_are_not_read_say_what_is(tmp_path: Path, layer: str, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        feed(tmp_path, layer)


@pytest.fixture
def pictures(tmp_path: Path) -> np.ndarray:
    """Four pictures with a class each, and a mask that holds the picture's red."""
    values = np.random.default_rng(1).integers(0, 200, (4, 6, 8, 3), np.uint8)
    classes, masks = [], []
    for index, picture in enumerate(values):
        Image.fromarray(picture).save(tmp_path / f"a {index}.png")
        Image.fromarray(picture[..., 0] // 8).save(tmp_path / f"m{index}.png")
        classes.append(f"a {index}.png {index + 5}\n")
        masks.append(f"a {index}.png m{index}.png\n")
    (tmp_path / "classes.txt").write_text("".join(classes))
    (tmp_path / "masks.txt").write_text("\n".join(masks))
    return values


def test_a_list_of_classes(tmp_path: Path, pictures: np.ndarray) -> None:
    layer = ("type: 'ImageData' top: 'data' top: 'label' transform_param { scale: 0.5 mean_value: [1, 2, 3] } "
             "image_data_param { source: 'classes.txt' batch_size: 3 }")  # fmt: skip
    blobs = feed(tmp_path, layer).batch(1)
    assert blobs["label"].tolist() == [8, 5, 6]  # the list again from its start
    expected = (pictures[3][..., ::-1].transpose(2, 0, 1) - np.array([1.0, 2, 3])[:, None, None]) / 2
    np.testing.assert_allclose(blobs["data"][0], expected)
    shuffled = feed(tmp_path, layer.replace("batch_size: 3", "batch_size: 4 shuffle: true"))
    orders = [tuple(shuffled.batch(number)["label"]) for number in range(4)]
    assert all(sorted(order) == [5, 6, 7, 8] for order in orders)
    assert len(set(orders)) > 1


def test_crops_and_mirrors_take_mask_and_picture_together(tmp_path: Path, pictures: np.ndarray) -> None:
    layer = ("type: 'ImageSegData' top: 'data' top: 'label' top: 'size' transform_param { crop_size: 7 mirror: true "
             "mean_value: 10 } image_data_param { source: 'masks.txt' batch_size: 4 label_type: PIXEL }")  # fmt: skip
    found = feed(tmp_path, layer)
    for number in range(6):
        blobs = found.batch(number)
        red = blobs["data"][:, 2] + 10
        inside = blobs["label"][:, 0] != 255
        assert blobs["data"].shape == (4, 3, 7, 7)
        assert (blobs["label"][:, 0, 6] == 255).all()  # a row is lacking
        assert (red[~inside] == 10).all()  # the mean, filled up
        np.testing.assert_array_equal(red[inside] // 8, blobs["label"][:, 0][inside])
        assert blobs["size"].reshape(4, 2).tolist() == [[6, 8]] * 4
    middle = feed(tmp_path, layer.replace("mirror: true", "").replace("crop_size: 7", "crop_size: 4"), phase="TEST")
    np.testing.assert_array_equal(middle.batch(0)["data"][0, 2] + 10, pictures[0, 1:5, 2:6, 0])


def test_dense_labels_are_resized_and_divided(tmp_path: Path, pictures: np.ndarray) -> None:
    layer = ("type: 'DenseImageData' top: 'data' top: 'label' dense_image_data_param { source: 'masks.txt' "
             "new_height: 3 new_width: 4 label_divide_factor: 2 }")  # fmt: skip
    blobs = feed(tmp_path, layer).batch(2)
    assert blobs["data"].shape == (1, 3, 3, 4)
    np.testing.assert_array_equal(blobs["label"][0, 0], pictures[2, ::2, ::2, 0] // 8 // 2)
    means = pictures[2].reshape(3, 2, 4, 2, 3).mean((1, 3))  # half the size: the middle of four pixels
    np.testing.assert_allclose(blobs["data"][0].transpose(1, 2, 0)[..., ::-1], means, atol=0.5)


def test_dummy_data_are_drawn_anew_for_each_batch(tmp_path: Path) -> None:
    layer = ("type: 'DummyData' top: 'data' top: 'label' dummy_data_param { shape { dim: [2, 3] } shape { dim: 2 } "
             "data_filler { type: 'gaussian' std: 2 } data_filler { value: 4 } }")  # fmt: skip
    found = feed(tmp_path, layer)
    assert found.batch(0)["label"].tolist() == [4, 4]
    assert not np.array_equal(found.batch(0)["data"], found.batch(1)["data"])
    np.testing.assert_array_equal(found.batch(1)["data"], feed(tmp_path, layer).batch(1)["data"])


HDF5 = "type: 'HDF5Data' top: 'data' top: 'label' hdf5_data_param { source: 'files.txt' batch_size: 4 %s }"


def hdf5_files(folder: Path) -> dict[str, np.ndarray]:
    """Write three files of 5, 1 and 3 rows and their list; gives all rows."""
    rng = np.random.default_rng(2)
    rows = {"data": rng.standard_normal((9, 3, 4, 5)), "label": rng.integers(0, 3, (9, 1, 4, 5)).astype(np.uint8)}
    for name, part in {"a.h5": slice(0, 5), "b.h5": slice(5, 6), "c.h5": slice(6, 9)}.items():
        with h5py.File(folder / name, "w") as file:
            for top, values in rows.items():
                file[top] = values[part]
    (folder / "files.txt").write_text("a.h5\nb.h5\nc.h5\n")
    return rows


def test_hdf5_files_follow_each_other_row_by_row(tmp_path: Path) -> None:
    rows = hdf5_files(tmp_path)
    found = feed(tmp_path, HDF5 % "")
    assert found.items == 3
    for top, values in rows.items():
        together = np.concatenate([found.batch(number)[top] for number in range(9)])
        assert together.dtype == np.float32
        np.testing.assert_array_equal(together, np.concatenate([values] * 4).astype(np.float32))


def test_shuffled_hdf5_files_give_every_row_once_a_pass_and_stay_together(tmp_path: Path) -> None:
    rows = hdf5_files(tmp_path)["data"].astype(np.float32)
    found = feed(tmp_path, HDF5 % "shuffle: true", seed=5)
    drawn = np.concatenate([found.batch(number)["data"] for number in range(9)])
    order = [int(np.flatnonzero((rows == row).all((1, 2, 3)))[0]) for row in drawn]
    passes = [order[start : start + 9] for start in range(0, 36, 9)]
    assert all(sorted(each) == [*range(9)] for each in passes)
    assert len({tuple(each) for each in passes}) == 4
    files = [[np.searchsorted([5, 6, 9], row, side="right") for row in each] for each in passes]
    assert all(sum(np.diff(each) != 0) == 2 for each in files)  # a file is finished before the next begins
    np.testing.assert_array_equal(feed(tmp_path, HDF5 % "shuffle: true", seed=5).batch(7)["data"], drawn[28:32])


def test_a_net_trains_on_hdf5(tmp_path: Path) -> None:
    hdf5_files(tmp_path)
    (tmp_path / "net.prototxt").write_text(
        f"layer {{ name: 'rows' {HDF5 % ''} }} layer {{ name: 'score' type: 'Convolution' bottom: 'data' top: 'score' "
        "convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: 'xavier' } } } layer { name: 'loss' "
        "type: 'SoftmaxWithLoss' bottom: 'score' bottom: 'label' top: 'loss' }"
    )
    (tmp_path / "solver.prototxt").write_text(
        f"net: 'net.prototxt' base_lr: 0.1 lr_policy: 'fixed' max_iter: 3 snapshot_prefix: '{tmp_path}/it'"
    )
    result = CliRunner().invoke(app, ["caffe", "train", str(tmp_path / "solver.prototxt")])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob("it_iter_3.caffemodel"))


@pytest.mark.parametrize(("damage", "said"), [
    (lambda place: (place / "b.h5").write_bytes(b"no"), "b.h5: not readable as HDF5"),
    (lambda place: (place / "b.h5").unlink(), "b.h5: not readable as HDF5"),
    (lambda place: (place / "files.txt").write_text(" "), "an empty list"),
    (lambda place: (place / "files.txt").unlink(), "not a list of HDF5 files"),
    (lambda place: rewrite(place / "b.h5", {"data": np.zeros((2, 3))}), "no data set of numbers called 'label'"),
    (lambda place: rewrite(place / "b.h5", {"data": np.zeros((2, 3)), "label": np.zeros(3)}), "different numbers of"),
    (lambda place: rewrite(place / "b.h5", {"data": h5py.ExternalLink("a.h5", "data"), "label": np.zeros(3)}),
     "no data set of numbers called 'data'"),
])  # fmt: skip
def test_hdf5_files_that_are_none_are_refused_before_the_first_step(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    hdf5_files(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadFile, match=said):
        feed(tmp_path, HDF5 % "")


def test_rows_of_hdf5_unpack_to_no_more_than_their_numbers(tmp_path: Path) -> None:
    rows = hdf5_files(tmp_path)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["label"] = rows["label"][5:6]
        file.create_dataset("data", data=rows["data"][5:6], chunks=(1, 3, 4, 5), compression="gzip")
    found = feed(tmp_path, HDF5 % "")
    np.testing.assert_array_equal(found.batch(1)["data"], rows["data"][4:8].astype(np.float32))
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        stored = file["data"]
        stored.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(100 << 20), 9))
    with pytest.raises(BadFile, match=r"b\.h5: a chunk of 'data' unpacks to more than"):
        found.batch(1)


def rewrite(path: Path, values: Mapping[str, object]) -> None:
    with h5py.File(path, "w") as file:
        for name, each in values.items():
            file[name] = each


@pytest.mark.parametrize(("kind", "said"), [
    ("Data", r"databases \(LMDB, LevelDB\) are not read: write the pictures as files .*; HDF5Data reads numbers"),
    ("WindowData", "windows cut out of pictures are not read: write the pictures"), ("VideoData", "films are not read"),
    ("AnnotatedData", "boxes not learned: write"), ("MemoryData", "is fed by a program: a training needs a layer"),
    ("MultiImageData", "several pictures a line are not read"),
])  # fmt: skip
def test_layers_that_are_not_read_are_refused_by_name(kind: str, said: str, tmp_path: Path) -> None:
    more = "memory_data_param { batch_size: 1 channels: 3 height: 4 width: 5 }" if kind == "MemoryData" else ""
    with pytest.raises(BadFile, match=said) as caught:
        feed(tmp_path, f"type: '{kind}' top: 'data' {more}")
    assert kind in str(caught.value)
