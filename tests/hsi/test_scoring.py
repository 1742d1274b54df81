from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.scoring import (
    class_rows,
    evaluate_map,
    markdown,
    score_rows,
    spread,
    summary,
    summary_document,
    tables,
)
from fullyconv.hsi.splits import within
from fullyconv.hsi.trial import make_trial


def test_only_test_pixels_are_scored(scene: Scene) -> None:
    trial = make_trial(SceneRecipe(network="fcn1s-spectral1"), scene)
    guess = np.where(trial.split.test, trial.labels, 2)
    result = evaluate_map(trial, guess, within(trial.labels.shape, 0))
    assert result.scores.pixel_accuracy == result.scores.kappa == 1
    assert result.evaluation.counts.sum() == trial.split.test.sum() == result.pixels[:, 1].sum()
    assert "leakage 0.00% of the test pixels" in result.leakage_line
    far = evaluate_map(trial, guess, within(trial.labels.shape, 100))
    assert far.leakage == far.document()["leakage"] == 1


def test_spread_is_numpys_mean_and_sample_deviation() -> None:
    values = [0.5, 0.7, 0.75]
    found = spread([*values, math.nan])
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert str(spread([1.0])) == "1.00"


def test_tables_hold_a_row_per_method_and_per_class(scene: Scene) -> None:
    trial = make_trial(SceneRecipe(network="fcn1s-spectral1"), scene)
    right, wrong = trial.labels.clip(0), np.zeros_like(trial.labels)
    runs = [evaluate_map(trial, guess, within(trial.labels.shape, 1)) for guess in (right, wrong)]
    methods = {"one": runs, "other": runs[:1]}
    rows = score_rows(methods)
    assert [row[0] for row in rows] == ["method", "one", "other"]
    assert rows[2][1] == "100.00"
    assert rows[1][1] == str(summary(runs)["OA"])
    accuracy = class_rows(methods, "accuracy")
    assert [row[0] for row in accuracy[1:]] == list(trial.classes.names)
    assert accuracy[1][1:] == ["100.00 ± 0.00", "100.00"]
    assert tables(methods) == [rows, accuracy, class_rows(methods, "F1")]
    assert markdown([["a", "b"], ["c", "1"]]) == "| a | b |\n| --- | ---: |\n| c | 1 |\n"
    document = json.loads(json.dumps(summary_document(methods)))
    assert document["one"]["runs"][0]["kappa"] == 1
    assert len(document["one"]["runs"]) == 2
