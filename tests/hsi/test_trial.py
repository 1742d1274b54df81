from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fullyconv.files import BadFile
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.splits import SplitKind, farthest, mask_split, within
from fullyconv.hsi.trial import make_split, make_trial, network_windows, read_split, tile_side, write_split

SMALL = SceneRecipe(network="fcn1s-spectral2")


def labels_of(scene: Scene) -> np.ndarray:
    assert scene.labels is not None
    return scene.labels


def test_blocks_keep_what_the_network_sees_as_guard_and_leak_nothing(scene: Scene) -> None:
    trial = make_trial(SMALL, scene)
    windows = network_windows(SMALL, (64, 80))
    assert trial.split.guard == farthest(windows) == 5
    assert trial.leakage(windows) == 0
    assert make_trial(SMALL, scene, guard=7).split.guard == 7
    assert make_trial(SMALL.model_copy(update={"guard": 2}), scene, guard=7).split.guard == 2


def test_a_random_split_leaks_nearly_everything(scene: Scene) -> None:
    trial = make_trial(SMALL.model_copy(update={"split": "random", "fraction": 0.1}), scene)
    assert trial.leakage(network_windows(SMALL, (64, 80))) > 0.99
    assert trial.leakage(within((64, 80), 0)) == 0


def test_what_sees_the_whole_scene_leaks_all_of_it(scene: Scene) -> None:
    recipe = SMALL.model_copy(update={"network": "fcn32s-timm:mobilenetv3_small_050", "guard": 2})
    assert make_trial(recipe, scene).leakage(network_windows(recipe, (64, 80))) == 1


def test_only_training_pixels_decide_the_normalisation(scene: Scene) -> None:
    trial = make_trial(SMALL, scene)
    cube = scene.cube.copy()
    cube[~trial.split.train] = 65_535
    assert make_trial(SMALL, replace(scene, cube=cube)).preprocess == trial.preprocess


def test_the_windows_of_a_network_in_tiles_or_turned_are_not_narrower(scene: Scene) -> None:
    plain, turned, tiled = (
        network_windows(SMALL.model_copy(update=change), (64, 80)) for change in ({"turn": False}, {}, {"crop": 32})
    )
    for axis in (0, 1):
        for narrow, wide in ((plain, turned), (turned, tiled)):
            assert (wide[axis][:, 0] <= narrow[axis][:, 0]).all()
            assert (wide[axis][:, 1] >= narrow[axis][:, 1]).all()


def test_scenes_are_cut_where_they_are_large_or_it_is_asked_for() -> None:
    assert tile_side(SMALL, (500, 500)) is None
    assert tile_side(SMALL, (2000, 2000)) == 512
    assert tile_side(SMALL.model_copy(update={"crop": 64}), (500, 50)) == 64
    assert tile_side(SMALL.model_copy(update={"crop": 64}), (50, 50)) is None


@pytest.mark.parametrize("kind", ["blocks", "random"])
def test_a_split_is_read_as_it_was_written(kind: SplitKind, scene: Scene, tmp_path: Path) -> None:
    labels = labels_of(scene)
    split = make_split(SMALL.model_copy(update={"split": kind}), labels)
    write_split(split, tmp_path / "split.npz")
    again = read_split(tmp_path / "split.npz", labels)
    assert (again.kind, again.guard) == (kind, split.guard)
    for part in ("train", "test", "discarded"):
        np.testing.assert_array_equal(getattr(split, part), getattr(again, part))
    given = SMALL.model_copy(update={"split": "masks", "masks": str(tmp_path / "split.npz")})
    np.testing.assert_array_equal(make_split(given, labels).train, split.train)


def test_masks_need_a_file_with_both(scene: Scene, tmp_path: Path) -> None:
    given = SMALL.model_copy(update={"split": "masks"})
    with pytest.raises(ValueError, match="needs the masks"):
        make_split(given, labels_of(scene))
    np.savez(tmp_path / "one.npz", train=labels_of(scene) == 0)
    with pytest.raises(BadFile, match="no split of these labels"):
        make_split(given.model_copy(update={"masks": str(tmp_path / "one.npz")}), labels_of(scene))
    labels = labels_of(scene)
    np.savez(tmp_path / "two.npz", train=labels == 0, test=labels == 1)
    split = read_split(tmp_path / "two.npz", labels)
    assert split.kind == "masks"
    np.testing.assert_array_equal(split.train, mask_split(labels, labels == 0, labels == 1).train)


def test_a_scene_without_labels_cannot_be_split(scene: Scene) -> None:
    with pytest.raises(ValueError, match="has no labels"):
        make_trial(SMALL, replace(scene, labels=None, classes=None))
