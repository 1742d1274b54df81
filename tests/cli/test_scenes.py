from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fullyconv import build, load, save
from fullyconv.cli import app
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.normalise import fit_spectral
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.synthetic import make_scene


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".hdr", ".tif", ".npy"])
def test_a_scene_is_generated_and_checked(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.repeat([0, 1, 2], 400).reshape(30, 40).astype(np.uint8)).save(tmp_path / "map.png")
    made = run("data", "scene", tmp_path / "map.png", "--out", tmp_path / f"x{suffix}", "--bands", 8)
    assert made.exit_code == 0, made.output
    beside = [] if suffix in (".mat", ".npz") else ["--labels", tmp_path / f"x_labels{suffix}"]
    checked = run("data", "check", tmp_path / f"x{suffix}", *beside)
    assert checked.exit_code == 0, checked.output
    assert "30 x 40 pixels (rows x columns), 8 bands of uint16" in checked.output
    assert "66.7% of the pixels labelled" in checked.output
    assert "0 problems" in checked.output


def test_a_scene_needs_no_map(tmp_path: Path) -> None:
    assert run("data", "scene", "random", "--out", tmp_path / "x.npz", "--bands", 5).exit_code == 0
    checked = run("data", "check", tmp_path / "x.npz")
    assert checked.exit_code == 0, checked.output
    assert "140 x 180 pixels (rows x columns), 5 bands" in checked.output


def test_problems_of_a_scene_end_with_status_1(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cube=np.random.default_rng(0).random((5, 6, 3)), labels=np.full((5, 6), 2))
    result = run("data", "check", tmp_path / "x.npz")
    assert result.exit_code == 1
    assert "class 1 ('class_1') without pixels" in result.output
    np.save(tmp_path / "flat.npy", np.zeros((5, 6)))
    result = run("data", "check", tmp_path / "flat.npy")
    assert result.exit_code == 1
    assert "0 arrays of H x W x bands" in result.output
    assert isinstance(run("data", "check", tmp_path, "--label-key", "x").exception, ValueError)


def test_a_saved_model_maps_scenes_and_skips_bad_ones(tmp_path: Path) -> None:
    made = make_scene(np.repeat([0, 1], 600).astype(np.int16).reshape(30, 40), class_set(2), bands=9)
    fitted = fit_spectral(made, np.ones((30, 40), bool), components=3, whiten=True)
    save(build("fcn8s-resnet18", 2), tmp_path / "model", classes=made.classes, preprocess=fitted)
    for name in ("a.mat", "b.hdr", "c.npy"):
        save_scene(replace(made, labels=None, classes=None), tmp_path / "in" / name)
    np.save(tmp_path / "in" / "d.npy", made.cube[..., :5])
    result = run("predict", tmp_path / "model", tmp_path / "in", "--out", tmp_path / "out", "--rgb", 900, 700, 500)
    assert result.exit_code == 1
    assert "3 of 4 scenes labelled" in result.output
    assert "d.npy: wrong band count: 5 bands" in result.output
    maps = [np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in "abc"]
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()
    crf = run("predict", tmp_path / "model", tmp_path / "in", "--out", tmp_path / "out", "--crf")
    assert "--crf: for pictures" in str(crf.exception)


def test_a_model_of_pictures_takes_no_scenes(tmp_path: Path) -> None:
    save(build("fcn8s-resnet18", 2), tmp_path / "model")
    result = run("predict", tmp_path / "model", tmp_path / "x.png", "--out", tmp_path, "--cube-key", "x")
    assert "--cube-key: for scenes" in str(result.exception)
    with pytest.raises(ValueError, match="this model labels pictures"):
        load(tmp_path / "model").predict(Scene(np.zeros((5, 5, 3))))
