from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import miniatures
from fullyconv.data.dataset import read_sample
from fullyconv.data.depth import Intrinsics, hha
from fullyconv.data.folder import open_folder
from fullyconv.data.nyud import (
    depth_hha,
    depth_path,
    log_depth,
    open_nyud,
    read_colour_depth,
    read_depth,
    write_hha,
)
from fullyconv.facts import NYUD
from fullyconv.files import BadFile


def test_streams_have_the_same_pictures_in_the_same_order(tmp_path: Path) -> None:
    root = miniatures.nyud(tmp_path)
    colour, hha = open_nyud(root, "colour"), open_nyud(root, "hha")
    for split in ("train", "val", "test"):
        (first,), (second,) = colour.splits[split], hha.splits[split]
        assert first.name == second.name
        assert first.mask == second.mask
        assert (first.image.parent.name, second.image.parent.name) == ("images", "hha")
        assert depth_path(first) == depth_path(second)
        assert depth_path(first).is_file()
    with pytest.raises(ValueError, match="choose one of colour, hha"):
        open_nyud(root, "depth")


def test_log_depth_is_the_logarithm_of_millimetres(tmp_path: Path) -> None:
    pair = open_nyud(miniatures.nyud(tmp_path)).splits["train"][0]
    depth = read_depth(depth_path(pair))
    assert depth.min() == pytest.approx(0.9)
    assert depth.max() == pytest.approx(4)
    stored = np.asarray(Image.open(depth_path(pair))).astype(float)
    np.testing.assert_allclose(log_depth(depth), np.log(stored), rtol=1e-6)


def test_missing_depth_is_finite() -> None:
    got = log_depth(np.array([[0, 1, 2]], np.float32))
    np.testing.assert_allclose(got, np.log([[2000, 1000, 2000]]), rtol=1e-6)
    with pytest.raises(ValueError, match="without any depth"):
        log_depth(np.zeros((2, 2), np.float32))


def test_a_picture_that_is_no_depth_is_refused(tmp_path: Path) -> None:
    pair = open_nyud(miniatures.nyud(tmp_path)).splits["train"][0]
    with pytest.raises(BadFile, match="rgb uint8 numbers: save depth as 16-bit"):
        read_depth(pair.image)


def test_early_fusion_sees_colour_and_log_depth(tmp_path: Path) -> None:
    pair = open_nyud(miniatures.nyud(tmp_path)).splits["val"][0]
    planes = read_colour_depth(pair)
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(planes[..., :3], np.asarray(Image.open(pair.image)))
    np.testing.assert_array_equal(planes[..., 3], log_depth(read_depth(depth_path(pair))))
    Image.fromarray(np.zeros(miniatures.SIZE, np.uint16)).save(depth_path(pair))
    with pytest.raises(BadFile, match="without any depth"):
        read_colour_depth(pair)
    Image.fromarray(np.ones((3, 3), np.uint16)).save(depth_path(pair))
    with pytest.raises(BadFile, match="it is 3 x 3, its picture"):
        read_colour_depth(pair)


def test_hha_pictures_are_computed_from_depth_pictures(tmp_path: Path) -> None:
    pair = open_nyud(miniatures.nyud(tmp_path)).splits["train"][0]
    camera = Intrinsics(fx=30, fy=30, cx=20, cy=12)
    target = write_hha(depth_hha(depth_path(pair), camera), tmp_path / "x")
    np.testing.assert_array_equal(np.asarray(Image.open(target)), hha(read_depth(depth_path(pair)), camera))
    with pytest.raises(BadFile, match="give the camera of these pictures"):
        depth_hha(depth_path(pair))  # NYUDv2's camera does not look at 40 x 24 pixels
    empty = tmp_path / "empty.png"
    Image.fromarray(np.zeros((24, 40), np.uint16)).save(empty)
    with pytest.raises(BadFile, match="some depth in it"):
        depth_hha(empty, camera)


def test_the_archives_kinds_are_mapped_to_classes(tmp_path: Path) -> None:
    root = miniatures.nyud_archive(tmp_path)
    pair = open_folder(root).splits["train"][0]
    kinds = miniatures.labels(894, seed=0)
    np.testing.assert_array_equal(
        read_sample(pair, NYUD.classes).labels, kinds * 7 % 41 - 1
    )  # class 0 becomes VOID, -1
    miniatures.write_list(root / "test.txt", "5011")  # lists beside the data come first
    assert [pair.name for pair in open_folder(root).splits["test"]] == ["img_5011"]
    mapping = root / "data" / "benchmarkData" / "metadata" / "classMapping40.mat"
    miniatures.write_mat(mapping, {"mapClass": np.full(894, 41)})
    with pytest.raises(BadFile, match="classes outside"):
        open_folder(root)


def test_trainval_is_trained_on_where_it_is_the_only_list(tmp_path: Path) -> None:
    root = miniatures.nyud(tmp_path)
    miniatures.write_list(root / "trainval.txt", "5003", "img_5011")
    assert {split: len(pairs) for split, pairs in open_folder(root).splits.items()} == {
        "train": 1, "val": 1, "trainval": 2, "test": 1,
    }  # fmt: skip
    (root / "train.txt").unlink()
    (root / "val.txt").unlink()
    folder = open_folder(root)
    assert {split: len(pairs) for split, pairs in folder.splits.items()} == {"train": 2, "test": 1}
    assert "train 2 (published: 795)" in folder.note


def test_lists_are_needed(tmp_path: Path) -> None:
    root = miniatures.nyud(tmp_path)
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").unlink()
    with pytest.raises(BadFile, match=r"add train\.txt, val\.txt and test\.txt"):
        open_folder(root)
