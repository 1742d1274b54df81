from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fullyconv.cli import app


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
