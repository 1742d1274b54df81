from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fullyconv.checkpoint import read_config, save, store_crf
from fullyconv.cli import app
from fullyconv.crf import CRFParameters, dense_crf, unary_from_scores
from fullyconv.data.classes import read_classes
from fullyconv.data.folder import open_folder
from fullyconv.evaluation import evaluate
from fullyconv.evaluation.refinement import Trial, compare, grid_candidates, random_candidates, tune
from fullyconv.networks import build
from fullyconv.opening import load
from fullyconv.predict.refine import CRFSegmenter

PARAMETERS = CRFParameters(2, 1.0, 2.0, 3.0, 15.0, 12.0)


@pytest.fixture
def model(shapes: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    classes = read_classes(shapes / "classes.yaml")
    network = build("fcn8s-resnet18", len(classes))
    for head in network.heads:  # scores begin at zero: let the pictures matter
        torch.nn.init.normal_(head.weight, std=0.1)
    return save(network, tmp_path / "model", classes=classes)


def test_the_segmenter_is_the_network_and_the_crf(model: Path, shapes: Path) -> None:
    segmenter = CRFSegmenter(load(model), PARAMETERS)
    pair = open_folder(shapes).splits["val"][0]
    before, after = segmenter.predict_both(pair.image, probabilities=True)
    plain = load(model).predict(pair.image)
    np.testing.assert_array_equal(before.labels, plain.labels)
    unary = unary_from_scores(segmenter.scores(plain.image).numpy())
    expected = dense_crf(unary, plain.image, **PARAMETERS.__dict__)
    assert (after.labels == expected.argmax(0)).mean() > 0.999
    assert after.probabilities is not None
    np.testing.assert_allclose(after.probabilities, expected, atol=2e-3)
    np.testing.assert_array_equal(segmenter.predict(pair.image).labels, after.labels)


def test_a_comparison_is_two_evaluations(model: Path, shapes: Path) -> None:
    segmenter = CRFSegmenter(load(model), PARAMETERS)
    pairs = open_folder(shapes).splits["val"]
    found = compare(segmenter, pairs)
    np.testing.assert_array_equal(found.before.evaluation.counts, evaluate(load(model), pairs).counts)
    np.testing.assert_array_equal(found.after.evaluation.counts, evaluate(segmenter, pairs).counts)
    assert 0 <= found.after.boundaries.f_score <= 1
    assert set(found.document()["after"]["trimap_iu"]) == {str(width) for width in range(1, 21)}


def test_tuning_scores_candidates_as_evaluation_does(model: Path, shapes: Path) -> None:
    pairs = open_folder(shapes).splits["val"]
    segmenter = CRFSegmenter(load(model), PARAMETERS)
    candidates = [PARAMETERS, *random_candidates(PARAMETERS, count=3, seed=1)[1:]]
    plain, trials = tune(segmenter, pairs, candidates)
    assert plain == pytest.approx(evaluate(load(model), pairs).scores.mean_iu, abs=2e-3)
    assert [trial.mean_iu for trial in trials] == sorted((trial.mean_iu for trial in trials), reverse=True)
    for trial in trials:
        alone = evaluate(CRFSegmenter(load(model), trial.parameters), pairs).scores.mean_iu
        assert trial.mean_iu == pytest.approx(alone, abs=2e-3)


def test_candidates_do_not_depend_on_anything_but_the_seed() -> None:
    assert random_candidates(PARAMETERS, count=5, seed=3) == random_candidates(PARAMETERS, count=5, seed=3)
    assert random_candidates(PARAMETERS, count=5, seed=3)[0] == PARAMETERS
    grid = grid_candidates(PARAMETERS)
    assert len(grid) == len(set(grid)) == 54


def test_parameters_live_with_the_model(model: Path) -> None:
    assert read_config(model).crf is None
    store_crf(model, PARAMETERS)
    assert read_config(model).crf == PARAMETERS


def test_the_commands(model: Path, shapes: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["crf", "tune", str(model), str(shapes), "--images", "2", "--trials", "2"])
    assert done.exit_code == 0, done.output
    assert (read_config(model).crf is None) == ("nothing saved, the model has none, as before" in done.output)
    scores, page = tmp_path / "scores.json", tmp_path / "page"
    given = ["evaluate", str(model), str(shapes), "--crf", "--json", str(scores), "--report", str(page)]
    done = runner.invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "boundary F-score" in done.output
    document = json.loads(scores.read_text())
    assert document["before"]["boundary_f"] is not None
    assert "before the CRF" in (page / "report.html").read_text()
    images = str(shapes / "val" / "images")
    done = runner.invoke(app, ["predict", str(model), images, "--crf", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("former", "plain", "scores", "kept", "said"),
    [
        (None, 0.5, (0.6, 0.4), 0, "saved in"),
        (None, 0.6, (0.6, 0.4), None, "the model has none, as before: the CRF is no better than none: leave --crf out"),
        (PARAMETERS, 0.5, (0.6, 0.4, 0.55), 0, "0.5500 with the parameters that the model has saved in"),
        (PARAMETERS, 0.5, (0.6, 0.4, 0.6), 2, "nothing saved, the model keeps those it has: none is better than those"),
        (PARAMETERS, 0.7, (0.6, 0.4, 0.5), 2, "nothing saved, the model keeps those it has: the CRF is no better than"),
    ],
)
def test_tuning_saves_only_what_is_better(
    former: CRFParameters | None, plain: float, scores: tuple[float, ...], kept: int | None, said: str,
    model: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if former is not None:
        store_crf(model, former)
    tried: list[CRFParameters] = []

    def scored(_: object, __: object, candidates: list[CRFParameters], **___: object) -> tuple[float, list[Trial]]:
        tried.extend(each for each in candidates if each != former)
        tried.extend(each for each in candidates if each == former)
        found = (Trial(each, score) for each, score in zip(tried, scores, strict=True))
        return plain, sorted(found, key=lambda trial: -trial.mean_iu)

    monkeypatch.setattr("fullyconv.evaluation.refinement.tune", scored)
    done = CliRunner().invoke(app, ["crf", "tune", str(model), str(shapes), "--images", "1", "--trials", "2"])
    assert done.exit_code == 0, done.output
    assert said in " ".join(done.output.split())
    assert read_config(model).crf == (None if kept is None else tried[kept])


def test_a_model_of_the_package_is_not_tuned_in_vain(shapes: Path) -> None:
    done = CliRunner().invoke(app, ["crf", "tune", "camvid", str(shapes)])
    assert "came with the package, whose files stay as they are: copy" in str(done.exception)
