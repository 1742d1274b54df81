from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats import mapped
from fullyconv.hsi.normalise import choose_bands, fit_spectral
from fullyconv.hsi.scene import Scene


def scene(seed: int = 0, *, bands: int = 6) -> Scene:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(bands, bands))
    cube = (rng.normal(size=(9, 8, bands)) @ mixing * 50 + 300).astype(np.float32)
    return Scene(cube, wavelengths=tuple(400.0 + 100 * band for band in range(bands)), bad_bands=(2,))


def mask(seed: int = 0) -> np.ndarray:
    chosen = np.random.default_rng((seed, 1)).random((9, 8)) < 0.5
    chosen[0, 0] = chosen[5, 5] = True
    return chosen


@given(st.integers(0, 50))
def test_training_pixels_come_out_with_mean_0_and_deviation_1(seed: int) -> None:
    given_scene, training = scene(seed), mask(seed)
    fitted = fit_spectral(given_scene, training)
    assert fitted.bands == (0, 1, 3, 4, 5)
    planes = fitted(given_scene.cube)[:, training]
    np.testing.assert_allclose(planes.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(planes.std(axis=1), 1, atol=1e-4)


@given(st.integers(0, 50))
def test_other_pixels_say_nothing(seed: int) -> None:
    given_scene, training = scene(seed), mask(seed)
    expected = fit_spectral(given_scene, training, components=2, whiten=True)
    given_scene.cube[~training] = np.nan
    assert fit_spectral(given_scene, training, components=2, whiten=True) == expected


@pytest.mark.parametrize("whiten", [False, True])
def test_components_are_those_of_scikit_learn(whiten: bool) -> None:
    given_scene, training = scene(), mask()
    fitted = fit_spectral(given_scene, training, components=3, whiten=whiten)
    normal = fit_spectral(given_scene, training)(given_scene.cube)[:, training].T
    oracle = PCA(3, whiten=whiten).fit(normal)
    expected = oracle.transform(normal)
    found = fitted(given_scene.cube)[:, training].T
    if whiten:
        np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-4)
        expected = expected / expected.std(axis=0)  # scikit-learn divides by n - 1
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-3)
    assert fitted.channels == 3


def test_bands_are_chosen_by_index_and_wavelength() -> None:
    given_scene = scene()
    assert choose_bands(given_scene, [(450, 650), 5]) == [1, 5]  # 600 nm is marked bad
    assert choose_bands(given_scene, [(450, 650), 5], drop_bad=False) == [1, 2, 5]


def test_pieces_give_what_the_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_scene, training = scene(), mask()
    expected = fit_spectral(given_scene, training, components=2)
    np.save(tmp_path / "x.npy", given_scene.cube)
    monkeypatch.setattr(mapped.row_blocks, "__defaults__", (1,))
    stored = Scene(SceneFiles(tmp_path / "x.npy").open().cube, bad_bands=(2,))
    found = fit_spectral(stored, training, components=2)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-6)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9)


def test_constant_bands_are_left_out() -> None:
    given_scene = scene()
    given_scene.cube[..., 3] = 7
    assert fit_spectral(given_scene, mask()).bands == (0, 1, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": [6]}, "no band 6: choose from 0 to 5, 400 to 900 nm"),
        ({"bands": [(1000, 2000)]}, r"no band \(1000, 2000\)"),
        ({"bands": [2]}, "all chosen bands are marked bad"),
        ({"components": 6}, "1 to 5 principal components, not 6"),
        ({"whiten": True}, "say how many"),
    ],
)
def test_what_cannot_be_fitted_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_spectral(scene(), mask(), **options)  # type: ignore[arg-type]


def test_masks_must_fit_and_bands_must_vary() -> None:
    with pytest.raises(ValueError, match="bool mask"):
        fit_spectral(scene(), np.zeros((9, 8), bool))
    with pytest.raises(ValueError, match="bool mask"):
        fit_spectral(scene(), mask()[1:])
    single = np.zeros((9, 8), bool)
    single[0, 0] = True
    with pytest.raises(ValueError, match="no band varies over the 1 training pixel"):
        fit_spectral(scene(), single)
    broken = scene()
    broken.cube[0, 0, 4] = np.inf
    with pytest.raises(ValueError, match="infinity in band 4"):
        fit_spectral(broken, mask())
    with pytest.raises(ValueError, match="no wavelengths"):
        choose_bands(Scene(broken.cube), [(400, 500)])
