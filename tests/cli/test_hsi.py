"""The commands on scenes as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fullyconv.cli import app
from fullyconv.hsi.synthetic import make_scene
from fullyconv.types import ClassSet

TINY = ["--set", "network=fcn1s-spectral2", "--set", "steps=3", "--set", "device=cpu"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of three classes in fields, cube and label map in a file each."""
    folder = tmp_path_factory.mktemp("scene")
    labels = np.fromfunction(lambda row, column: (row // 12 + column // 15) % 3, (48, 60)).astype(np.int16)
    np.save(folder / "cube.npy", make_scene(labels, ClassSet(("a", "b", "c")), bands=12).cube)
    np.save(folder / "labels.npy", labels + 1)
    return folder


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_train_and_evaluate_print_the_same_scores_and_the_leakage(scene: Path, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", ["--set", f"labels={scene / 'labels.npy'}", *TINY]
    trained = invoke("train", "auto", "--data", scene / "cube.npy", "--out", run, *settings)
    assert "it trains by recipe hsi" in trained
    assert "leakage 0.00% of the test pixels" in trained
    assert "kappa" in trained
    for name in ("model/config.json", "recipe.yaml", "split.npz", "evaluation.json", "confusion.png", "report.html"):
        assert (run / name).is_file(), name
    file = tmp_path / "scores.json"
    again = invoke("evaluate", run / "model", scene / "cube.npy", "--labels", scene / "labels.npy", "--json", file)
    assert "leakage 0.00%" in again
    written, scored = (json.loads(path.read_text()) for path in (run / "evaluation.json", file))
    assert written == scored
    page = (run / "report.html").read_text()
    for part in ("split: training, test (light)", "errors on the test pixels", "Spectra", "leakage", "Confusions"):
        assert part in page
    refused = CliRunner().invoke(app, ["train", "hsi", "--data", str(scene / "cube.npy"), "--out", str(run), *settings])
    assert "already holds a run" in str(refused.exception)


def test_several_runs_give_mean_and_deviation(scene: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    settings = ["--set", f"labels={scene / 'labels.npy'}", *TINY]
    words = ["train", "hsi-random", "--data", scene / "cube.npy", "--out", run, "--runs", 2, *settings]
    output = invoke(*words)
    assert "±" in output
    assert "leakage 9" in output or "leakage 100" in output
    document = json.loads((run / "scores.json").read_text())["fcn1s-spectral2"]
    assert len(document["runs"]) == 2
    assert "kappa" in (run / "scores.md").read_text()
    first = (run / "1" / "model" / "model.safetensors").read_bytes()
    assert first != (run / "2" / "model" / "model.safetensors").read_bytes()
    invoke(*words, "--resume")
    assert (run / "1" / "model" / "model.safetensors").read_bytes() == first


def test_split_prints_counts_and_leakage_and_writes_what_train_takes(scene: Path, tmp_path: Path) -> None:
    output = invoke(
        "hsi", "split", scene / "labels.npy", "--split", "blocks", "--set", "network=fcn1s-spectral2", "--out", tmp_path
    )
    assert "guard 5 px; leakage with fcn1s-spectral2: 0.00%" in output
    assert Image.open(tmp_path / "split.png").size == (60, 48)
    output = invoke(
        "hsi", "split", scene / "cube.npy", "--labels", scene / "labels.npy", "--split", "masks",
        "--set", f"masks={tmp_path / 'split.npz'}", "--set", "network=fcn1s-spectral2",
    )  # fmt: skip
    assert "0.00%" in output


def test_compare_writes_tables_and_maps(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    words = ["hsi", "compare", scene / "cube.npy", "--labels", scene / "labels.npy", "--out", tmp_path, *TINY]
    output = invoke(*words, "--method", "SVM")
    assert "full map MiB" in output
    assert json.loads((tmp_path / "scores.json").read_text())["methods"]["SVM"]["runs"][0]["leakage"] == 0
    for name in ("SVM.png", "SVM-errors.png"):
        assert Image.open(tmp_path / name).size == (60, 48)


def test_a_wrong_setting_is_told_the_nearest(scene: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["train", "hsi", "--data", str(scene / "cube.npy"), "--out", str(tmp_path), "--set", "step=3"]
    )
    assert "did you mean 'steps'" in str(result.exception)
    result = CliRunner().invoke(app, ["hsi", "split", str(scene / "labels.npy"), "--recipe", "hsj"])
    assert "unknown scene recipe 'hsj': did you mean 'hsi'?" in str(result.exception)
