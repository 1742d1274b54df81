from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fullyconv.hsi.baselines import fit_forest, fit_patches, fit_svm, patches_of
from fullyconv.hsi.comparison import FCN, METHODS, PATCH, MethodOutcome, compare, measure, method_windows
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.scoring import evaluate_map
from fullyconv.hsi.splits import farthest
from fullyconv.hsi.trial import SceneTrial, make_trial

TINY = SceneRecipe(network="fcn1s-spectral2", steps=15, sample=20, device="cpu")


def test_patches_are_the_padded_scenes_windows(scene: Scene) -> None:
    trial = make_trial(TINY, scene)
    padded = functional.pad(torch.from_numpy(trial.preprocess(scene.cube)), (7, 7, 7, 7))
    patches = patches_of(trial)
    assert patches.shape == (64, 80, 20, 15, 15)
    for row, column in ((0, 0), (30, 41), (63, 79)):
        torch.testing.assert_close(patches[row, column], padded[:, row : row + 15, column : column + 15])


@pytest.mark.parametrize("method", [fit_svm, fit_forest, fit_patches])
def test_every_baseline_learns_the_scene(method: type, scene: Scene) -> None:
    pytest.importorskip("sklearn")
    trial = make_trial(TINY, scene)
    guess = method(trial)()
    assert guess.shape == trial.labels.shape
    test = trial.split.test
    assert (guess[test] == trial.labels[test]).mean() > 0.6


def test_methods_see_what_they_say(scene: Scene) -> None:
    trial = make_trial(TINY, scene, guard=7)
    reaches = {method: farthest(method_windows(method, trial)) for method in METHODS}
    assert reaches == {"SVM": 0, "random forest": 0, PATCH: 7, FCN: 5}
    assert all(trial.leakage(method_windows(method, trial)) == 0 for method in METHODS)


def test_methods_are_measured_side_by_side_on_the_same_pixels(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")

    def here(method: str, trial: SceneTrial) -> MethodOutcome:  # a process of its own takes seconds to start
        labels, cost = measure(method, trial, 1)
        return MethodOutcome(labels, evaluate_map(trial, labels, method_windows(method, trial)), cost)

    monkeypatch.setattr("fullyconv.hsi.comparison.run_alone", here)
    comparison = compare(TINY, scene, methods=("SVM", FCN), runs=1)
    svm, fcn = (comparison.outcomes[method][0] for method in ("SVM", FCN))
    assert svm.evaluation.pixels.tolist() == fcn.evaluation.pixels.tolist()
    assert svm.labels.shape == fcn.labels.shape == (64, 80)
    for outcome in (svm, fcn):
        assert outcome.cost.train_seconds > 0
        assert outcome.cost.map_seconds > 0
        assert np.isnan(outcome.cost.map_bytes) or outcome.cost.map_bytes < 1 << 30
    tables = comparison.markdown()
    for word in ("OA", "kappa", "leakage", "full map s", "corn"):
        assert word in tables
    assert comparison.speed_up() is None
    assert comparison.document()["methods"]["SVM"]["costs"][0]["train_seconds"] == svm.cost.train_seconds


def test_an_unknown_method_is_named(scene: Scene) -> None:
    with pytest.raises(ValueError, match=r"unknown method 'svn': choose from SVM"):
        compare(TINY, scene, methods=("svn",))
