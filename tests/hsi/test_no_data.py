"""Pixels without data: not trained on, not scored, not painted, not in the statistics, 0 in the map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from fullyconv.hsi.baselines import fit_svm, patches_of
from fullyconv.hsi.comparison import compare
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.fitting import fit
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.maps import MapOptions, find_scenes, predict_scenes
from fullyconv.hsi.normalise import fit_spectral
from fullyconv.hsi.pictures import colour_bands, false_colour
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.run import evaluate_network
from fullyconv.hsi.scene import Scene, absent
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.hsi.trial import make_trial
from fullyconv.networks.fcn import FCN
from fullyconv.types import VOID

TINY = SceneRecipe(network="fcn1s-spectral2", steps=4, sample=20, device="cpu")
GONE = np.add.outer(np.arange(64), np.arange(80)) < 40


def holed(scene: Scene, fill: float, kind: str, *, bands: slice = slice(None)) -> Scene:
    """Put a fill value into a corner of a scene, in all bands or some."""
    cube = scene.cube.astype(kind)
    cube[GONE, bands] = fill
    classes = class_set(3, scene.classes.names)  # type: ignore[union-attr]
    return replace(scene, cube=cube, classes=classes, no_data=None if np.isnan(fill) else fill)


WAYS = {
    "int32 -9999": (-9999, "int32", slice(None)),
    "uint16 65535": (65535, "uint16", slice(None)),
    "float32 1e30": (1e30, "float32", slice(None)),
    "NaN": (np.nan, "float32", slice(None)),
    "NaN in one band": (np.nan, "float32", slice(4, 5)),
}


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("crop", [None, 32])
def test_what_stands_for_no_data_changes_nothing(way: str, crop: int | None, scene: Scene) -> None:
    recipe = TINY.model_copy(update={"crop": crop})
    reference, other = (
        make_trial(recipe, holed(scene, fill, kind, bands=bands))
        for fill, kind, bands in (WAYS["int32 -9999"], WAYS[way])
    )
    np.testing.assert_array_equal(other.split.train, reference.split.train)
    np.testing.assert_array_equal(other.split.test, reference.split.test)
    assert not (other.split.train | other.split.test)[GONE].any()
    assert (other.labels[GONE] == VOID).all()
    assert other.preprocess == reference.preprocess
    one, two = weights(fit(reference)), weights(fit(other))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("way", WAYS)
def test_the_map_is_void_there_and_elsewhere_that_of_the_mean_spectrum(way: str, scene: Scene) -> None:
    fill, kind, bands = WAYS[way]
    trial = make_trial(TINY, holed(scene, fill, kind, bands=bands))
    network: FCN = fit(trial)
    model = SceneSegmenter(network, classes=trial.classes, preprocess=trial.preprocess, device="cpu")
    found = model.predict(trial.scene, probabilities=True)
    assert found.probabilities is not None
    filled = trial.scene.cube.astype(np.float32)
    filled[GONE] = np.array(trial.preprocess.mean, np.float32)
    whole = model.predict(filled, probabilities=True)
    assert whole.probabilities is not None
    np.testing.assert_array_equal(found.labels[~GONE], whole.labels[~GONE])
    np.testing.assert_array_equal(found.probabilities[:, ~GONE], whole.probabilities[:, ~GONE])
    assert (found.labels[GONE] == VOID).all()
    assert (found.probabilities[:, GONE] == 0).all()
    scores = evaluate_network(trial, found.labels, network)
    assert scores.evaluation.counts.sum() == trial.split.test.sum()


def test_statistics_and_the_stretch_are_those_of_what_was_measured(scene: Scene) -> None:
    given_scene = holed(scene, -9999, "int32")
    spectra = scene.cube[~GONE].astype(np.float64)
    fitted = fit_spectral(given_scene, np.ones((64, 80), bool))
    np.testing.assert_allclose(fitted.mean, spectra.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, spectra.std(axis=0), rtol=1e-9)
    picture = false_colour(given_scene)
    for channel, band in enumerate(colour_bands(given_scene)):
        low, high = np.percentile(spectra[:, band], (2, 98))
        shade = np.clip((spectra[:, band] - low) / (high - low), 0, 1) * 255
        assert np.abs(picture[~GONE][:, channel] - shade).max() <= 0.51
    assert (picture[GONE] == 0).all()


def test_other_methods_are_given_the_same_pixels_and_maps(scene: Scene) -> None:
    pytest.importorskip("sklearn")
    trials = [make_trial(TINY, holed(scene, *WAYS[way][:2], bands=WAYS[way][2])) for way in ("int32 -9999", "NaN")]
    maps = [fit_svm(trial)() for trial in trials]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert all((patches_of(trial)[..., 7, 7].numpy()[GONE] == 0).all() for trial in trials)
    comparison = compare(TINY, holed(scene, np.nan, "float32"), methods=["SVM"])
    assert (comparison.outcomes["SVM"][0].labels[GONE] == VOID).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("suffix", [".hdr", ".tif", ".npz", ".mat"])
@pytest.mark.parametrize("way", ["int32 -9999", "NaN"])
def test_files_say_it_and_maps_hold_0(suffix: str, way: str, scene: Scene, tmp_path: Path) -> None:
    fill, kind, bands = WAYS[way]
    given_scene = holed(scene, fill, kind, bands=bands)
    labels = save_scene(given_scene, tmp_path / f"x{suffix}")
    report = SceneFiles(tmp_path / f"x{suffix}", labels).check()
    assert report.problems == []
    assert report.missing == GONE.sum()
    assert report.unread == np.count_nonzero(scene.labels[GONE] >= 0)  # type: ignore[index]
    assert (report.low, report.high) == (scene.cube[~GONE].min(), scene.cube[~GONE].max())
    trial = make_trial(TINY, SceneFiles(tmp_path / f"x{suffix}", labels).open())
    model = SceneSegmenter(fit(trial), classes=trial.classes, preprocess=trial.preprocess, device="cpu")
    (outcome,) = predict_scenes(model, find_scenes([tmp_path / f"x{suffix}"]), tmp_path / "out", MapOptions())
    assert outcome.problem is None
    written = np.asarray(Image.open(tmp_path / "out" / "x.png"))
    with rasterio.open(tmp_path / "out" / "x_classes.tif") as raster:
        georeferenced = raster.read(1)
    numbers, _ = SceneFiles(tmp_path / "out" / "x_classes.hdr").open_labels()
    for values in (written, georeferenced, numbers + 1):
        np.testing.assert_array_equal(values == 0, GONE)


def test_a_band_without_any_data_and_labels_without_any_are_said(scene: Scene, tmp_path: Path) -> None:
    cube = scene.cube.astype(np.float32)
    cube[..., 3] = np.nan
    path = tmp_path / "x.npz"
    save_scene(replace(scene, cube=cube, classes=class_set(3)), path)
    problems = [str(problem) for problem in SceneFiles(path).check().problems]
    assert any("no data anywhere in band 3 (counted from 0): mark it as bad" in problem for problem in problems)
    assert any("no labelled pixel has data in every band" in problem for problem in problems)
    broken = SceneFiles(path).open()
    with pytest.raises(ValueError, match=r"no labelled pixel has data in every band; band 3 \(counted"):
        make_trial(TINY, broken)
    assert 3 not in make_trial(TINY.model_copy(update={"bands": ((0, 1000),)}),
                               replace(broken, bad_bands=(3,))).preprocess.bands  # fmt: skip


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["uint8", "int16", "uint32", "int64", "float32", "float64", "bool"]),
    fill=st.one_of(st.integers(-300, 300).map(float), st.floats(allow_nan=True, width=32), st.just(1e300)),
    seed=st.integers(0, 9),
)
def test_a_fill_is_found_as_its_type_stores_it(kind: str, fill: float, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-300, 300, 50).astype(kind)
    with np.errstate(over="ignore"):
        wanted = float(np.float32(fill)) if kind == "float32" else fill
    if kind == "float32" and np.isinf(wanted) and np.isfinite(fill):
        wanted = np.nan
    expected = [value == wanted for value in values.tolist()]
    assert absent(values, fill).tolist() == expected


def test_a_map_of_targets_needs_a_second_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    target = np.zeros((40, 50), np.uint8)
    target[10:20, 10:20] = target[25:32, 30:44] = 1
    cube = rng.normal(100, 5, (40, 50, 6)) + 40 * target[..., None]
    np.savez(tmp_path / "x.npz", cube=cube, map=target)
    with pytest.raises(
        ValueError, match=r"a single class: every label is 1.*label pixels of another class too.*--set z"
    ):
        SceneFiles(tmp_path / "x.npz").open()
    scene = TINY.model_copy(update={"zero": "class"}).files(tmp_path / "x.npz").open()
    assert scene.classes is not None
    assert (scene.classes.names, scene.classes.values, scene.classes.ignore_index) == (
        ("background", "class_1"),
        (0, 1),
        2,
    )
    np.testing.assert_array_equal(scene.labels, target)  # type: ignore[arg-type]
    assert SceneFiles(tmp_path / "x.npz", zero="class").check().problems == []
    flat = tmp_path / "flat.npz"
    np.savez(flat, cube=cube, map=0 * target)
    with pytest.raises(ValueError, match="a single class: every label is 0"):
        SceneFiles(flat, zero="class").open()
