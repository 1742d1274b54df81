from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.data.folder import open_folder
from fullyconv.data.kinship import find_kin
from fullyconv.data.likeness import ALIKE, count_scenes, nearest, signature
from fullyconv.data.pairs import Pair


def street(seed: int) -> np.ndarray:
    """Draw a picture with areas and edges of its own."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((320, 240), Image.Resampling.BICUBIC))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(signature(one) @ signature(other))


def test_what_a_camera_or_a_file_changes_leaves_a_picture_alike() -> None:
    plain = street(0)
    noise = np.random.default_rng(1).normal(0, 6, plain.shape)
    changed = {
        "noise": (plain + noise).clip(0, 255).astype(np.uint8),
        "darker": (plain * 0.8).astype(np.uint8),
        "smaller": np.asarray(Image.fromarray(plain).resize((200, 150))),
        "moved": np.roll(plain, 3, axis=1),
    }
    for name, other in changed.items():
        assert likeness(plain, other) > ALIKE, name
    assert max(likeness(plain, street(seed)) for seed in range(1, 30)) < ALIKE


def test_a_picture_of_one_colour_is_like_nothing() -> None:
    blank = np.full((40, 50, 3), 90, np.uint8)
    assert likeness(blank, blank) == 0


def test_near_duplicates_across_splits_are_named(tmp_path: Path) -> None:
    splits: dict[str, list[Pair]] = {"train": [], "val": []}
    for split, name, pixels in [
        ("train", "a_1", street(0)), ("train", "b_1", street(1)), ("val", "a_2", np.roll(street(0), 2, axis=0)),
        ("val", "c_1", street(2)), ("val", "c_2", np.roll(street(2), 2, axis=1)),
    ]:  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        splits[split].append(Pair(tmp_path / f"{name}.png", tmp_path / "mask.png"))
    splits["val"].append(Pair(tmp_path / "gone.png", tmp_path / "mask.png"))
    found = find_kin(splits)
    assert [(kin.pictures, kin.scenes) for kin in found.values()] == [(2, 2), (3, 2)]
    assert [(one.name, other.name) for one, other, _ in found["val"].alike] == [("a_2", "a_1")]
    first, second = found["val"].lines("val")
    assert first == "val: 3 pictures, about 2 scenes, by their names of 2 groups (a, c), 1 of them in train too"
    assert "1 of them are nearly pictures of train, such as a_2.png and a_1.png" in second


@pytest.mark.slow
def test_camvid_val_is_a_few_scenes_of_a_drive_in_train(camvid: Path) -> None:
    found = find_kin(open_folder(camvid).splits)["val"]
    assert found.lines("val") == [
        "val: 101 pictures, about 12 scenes, by their names of 1 group (0016E5), which is in train too"
    ]


@pytest.mark.slow
def test_the_threshold_parts_camvid_scenes_from_others(camvid: Path) -> None:
    pairs = [pair for split in open_folder(camvid).splits.values() for pair in split]
    signatures = np.stack([signature(np.asarray(Image.open(pair.image))) for pair in pairs])
    drives = np.array([pair.name.split("_")[0] for pair in pairs])
    frames = np.array([int(pair.name.split("_")[1].lstrip("f")) for pair in pairs])
    same, apart = drives[:, None] == drives, abs(frames[:, None] - frames)
    products, upper = signatures @ signatures.T, np.triu(np.ones((len(pairs),) * 2, np.bool_), 1)
    assert products[upper & (~same | (apart >= 450))].max() < ALIKE
    assert products[upper & same & (apart <= 4)].min() > ALIKE
    assert (products[upper & same & (apart <= 30)] > ALIKE).mean() > 0.5


def test_scenes_and_neighbours_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(40, 5))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for place, (best, product) in enumerate(nearest(found[:9], found[9:], at_once=4)):
        expected = [float(found[place] @ other) for other in found[9:]]
        assert (best, product) == (int(np.argmax(expected)), pytest.approx(max(expected)))
    for place, leader in enumerate(count_scenes(found, alike=0.8)):
        assert leader == place or found[place] @ found[leader] >= 0.8
