"""The label maps of Indian Pines, Pavia University and Salinas, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.fitting import fit
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.run import train_scene
from fullyconv.hsi.scoring import evaluate_map
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.hsi.splits import SplitKind, farthest, leakage, within
from fullyconv.hsi.synthetic import make_scene
from fullyconv.hsi.trial import make_split, make_trial, network_windows
from fullyconv.types import ClassSet

MAPS = {"Indian_pines": 16, "PaviaU": 9, "Salinas": 16}


def folder() -> Path:
    found = Path(__file__).resolve().parents[3] / "shared" / "data" / "hyperspectral"
    if not found.is_dir():
        pytest.skip("the scenes are not beside the repository (../shared/data/hyperspectral)")
    return found


def label_map(name: str) -> tuple[np.ndarray, ClassSet]:
    pytest.importorskip("scipy")
    return SceneFiles(folder() / f"{name}_gt.mat").open_labels()


@pytest.mark.parametrize("network", ["fcn1s-spectral1", "fcn1s-spectral8"])
@pytest.mark.parametrize("name", MAPS)
def test_blocks_of_every_map_are_valid_for_every_network(name: str, network: str) -> None:
    labels, classes = label_map(name)
    recipe = SceneRecipe(network=network)
    split = make_split(recipe, labels)
    split.check(labels)
    assert split.one_sided(labels) == []
    counts = split.counts(labels, len(classes))
    assert len(classes) == MAPS[name]
    assert counts.sum() == (labels >= 0).sum()
    assert (counts[:, :2] > 0).all()
    windows = network_windows(recipe, (labels.shape[0], labels.shape[1]))
    assert split.guard <= farthest(windows)
    assert (leakage(split.train, split.test, windows) == 0) == (split.guard == farthest(windows))
    assert leakage(split.train, split.test, within(labels.shape, split.guard)) == 0


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("change", [{"fraction": 0.1}, {"per_class": 15}])
def test_random_splits_of_every_map_are_valid_and_leak(name: str, change: dict[str, float]) -> None:
    labels, classes = label_map(name)
    recipe = SceneRecipe(split="random").model_copy(update=change)
    split = make_split(recipe, labels)
    split.check(labels)
    assert (split.counts(labels, len(classes))[:, :2] > 0).all()
    windows = network_windows(recipe, (labels.shape[0], labels.shape[1]))
    assert leakage(split.train, split.test, windows) > (0.99 if "fraction" in change else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["blocks", "random"])
@pytest.mark.parametrize("name", MAPS)
def test_scenes_made_of_every_map_go_from_end_to_end(name: str, split: SplitKind, tmp_path: Path) -> None:
    labels, classes = label_map(name)
    scene = make_scene(labels, classes, bands=40)
    recipe = SceneRecipe(network="fcn1s-spectral2", split=split, steps=20, crop=128, device="cpu")
    result = train_scene(recipe, scene, tmp_path / "run")
    assert result.evaluation.counts.sum() == result.pixels[:, 1].sum() > 0
    assert result.leakage < 0.5 if split == "blocks" else result.leakage > 0.99
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_samson_is_learned_from_blocks_without_leakage() -> None:
    pytest.importorskip("scipy")
    recipe = SceneRecipe(steps=100, device="cpu")
    trial = make_trial(recipe, SceneFiles(folder() / "Samson.mat").open())
    segmenter = SceneSegmenter(fit(trial), classes=trial.classes, preprocess=trial.preprocess, device="cpu")
    result = evaluate_map(trial, segmenter.predict(trial.scene).labels, network_windows(recipe, (95, 95)))
    assert (result.guard, result.leakage) == (13, 0)
    assert result.scores.pixel_accuracy > 0.98
