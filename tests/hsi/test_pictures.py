from __future__ import annotations

import numpy as np
import pytest

from fullyconv.hsi.labels import class_set
from fullyconv.hsi.pictures import class_spectra, colour_bands, false_colour
from fullyconv.hsi.plots import plot_spectra
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.synthetic import make_scene, random_map


def test_colours_are_the_bands_nearest_to_their_wavelengths() -> None:
    cube = np.zeros((2, 2, 5))
    nm = (440.0, 500.0, 540.0, 640.0, 660.0)
    assert colour_bands(Scene(cube, wavelengths=nm)) == (3, 2, 0)
    assert colour_bands(Scene(cube, wavelengths=nm, bad_bands=(3,))) == (4, 2, 0)
    assert colour_bands(Scene(cube, wavelengths=nm), (660, 640, 500)) == (4, 3, 1)
    assert colour_bands(Scene(np.zeros((1, 1, 8)))) == (6, 4, 2)
    assert colour_bands(Scene(np.zeros((1, 1, 1)))) == (0, 0, 0)
    infrared = tuple(1000.0 + 100 * band for band in range(8))
    assert colour_bands(Scene(np.zeros((1, 1, 8)), wavelengths=infrared)) == (6, 4, 2)


def test_pictures_are_stretched_and_survive_nan_and_constant_bands() -> None:
    cube = np.random.default_rng(0).normal(1000, 50, (40, 30, 4))
    cube[..., 1] = 5
    cube[3, 3, 3] = np.nan
    picture = false_colour(Scene(cube))
    assert (picture.shape, picture.dtype) == ((40, 30, 3), np.uint8)
    assert picture[..., 0].min() == 0
    assert picture[..., 0].max() == 255
    assert (picture[..., 2] == 0).all()


def test_spectra_per_class_are_those_of_its_pixels() -> None:
    labels = random_map(90, 80, classes=3, seed=1)
    labels[:5] = -1
    scene = make_scene(labels, class_set(3), bands=7)
    mean, std = class_spectra(scene)
    for index in range(3):
        np.testing.assert_allclose(mean[index], scene.cube[labels == index].mean(axis=0))
        np.testing.assert_allclose(std[index], scene.cube[labels == index].std(axis=0), rtol=1e-6)
    axes = plot_spectra(scene).axes[0]
    assert len(axes.lines) == 3
    assert axes.get_xlabel() == "wavelength, nm"
    with pytest.raises(ValueError, match="no labels"):
        class_spectra(Scene(scene.cube))
