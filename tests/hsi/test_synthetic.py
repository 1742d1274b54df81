from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.synthetic import make_scene, random_map, scene_rows, write_large
from fullyconv.types import VOID


def test_the_same_seed_gives_the_same_scene_and_rows_do_not_depend_on_pieces() -> None:
    labels = random_map(70, 50, classes=4, seed=1)
    labels[:20] = VOID
    whole = make_scene(labels, class_set(4), bands=20, seed=3).cube
    np.testing.assert_array_equal(make_scene(labels, class_set(4), bands=20, seed=3).cube, whole)
    np.testing.assert_array_equal(scene_rows(labels, class_set(4), slice(33, 41), bands=20, seed=3), whole[33:41])
    assert not np.array_equal(make_scene(labels, class_set(4), bands=20, seed=4).cube, whole)


def test_classes_differ_more_than_their_pixels_do() -> None:
    labels = random_map(120, 120, classes=4, seed=0)
    scene = make_scene(labels, class_set(4), bands=40, seed=0)
    spectra = scene.cube / np.linalg.norm(scene.cube, axis=2, keepdims=True)
    means = np.array([spectra[labels == index].mean(axis=0) for index in range(4)])
    nearest = np.linalg.norm(spectra[:, :, None] - means, axis=3).argmin(axis=2)
    assert 0.4 < (nearest == labels).mean() < 0.99


def test_a_standard_map_gives_a_scene(hyperspectral: Path) -> None:
    labels, classes = SceneFiles(hyperspectral / "Indian_pines_gt.mat").open_labels()
    scene = make_scene(labels, classes, bands=30)
    assert scene.cube.shape == (145, 145, 30)
    assert len(scene.wavelengths) == 30
    assert scene.cube.std(axis=(0, 1)).min() > 0


@pytest.mark.parametrize("suffix", [".npy", ".hdr"])
def test_large_cubes_are_written_in_pieces(suffix: str, tmp_path: Path) -> None:
    labels = write_large(tmp_path / f"x{suffix}", size=(130, 40), bands=7, classes=3, seed=2)
    scene = SceneFiles(tmp_path / f"x{suffix}").open()
    assert isinstance(scene.cube, np.memmap)
    np.testing.assert_array_equal(scene.cube, make_scene(labels, class_set(3), bands=7, seed=2).cube)
