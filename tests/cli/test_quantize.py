"""``fullyconv quantize`` and ``bench --accuracy`` on a tiny model: what is printed, kept and then used."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fullyconv import ClassSet, build, load, save
from fullyconv.cli import app
from fullyconv.types import Preprocess

COLOURS = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0)], np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 3, channels=3).eval()
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.2)  # type: ignore[arg-type]
    classes = ClassSet(("a", "b", "c"))
    return save(network, tmp_path_factory.mktemp("tiny") / "model", classes=classes, preprocess=Preprocess())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three validation pictures of blocks, sizes mixed."""
    folder, numbers = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            labels = numbers.integers(0, 3, (4 + index, 5)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
            pixels = np.minimum(COLOURS[labels] + numbers.integers(0, 50, (*labels.shape, 3)), 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / "images" / f"{index}.png")
            Image.fromarray(labels).save(folder / split / "masks" / f"{index}.png")
    return folder


def _run(*words: object) -> list[str]:
    result = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output.splitlines()


PRICE = re.compile(r"  (\w+) (\w+): (\d+\.\d{3}) % of labels change, mean IU \d\.\d{4} \([+-]\d\.\d{4}\)")


def _prices(lines: list[str]) -> dict[tuple[str, ...], float]:
    """Return the per cent of labels that change by engine and precision."""
    return {match.group(1, 2): float(match[3]) for line in lines if (match := PRICE.fullmatch(line))}


def test_accuracy_is_printed_and_kept_where_that_is_asked_for(model: Path, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    plain = _run("bench", folder, "--accuracy", data)
    assert (folder / "config.json").read_bytes() == (model / "config.json").read_bytes()
    stored = _run("bench", folder, "--accuracy", data, "--store")
    assert "over 3 pictures" in stored[0]
    found = _prices(stored)
    assert ("pytorch", "bfloat16") in found
    assert found == _prices(plain)
    note = json.loads((folder / "config.json").read_text())["notes"]["labels_changed"]
    worst = max(share for (_, precision), share in found.items() if precision == "bfloat16")
    assert note["bfloat16"] == pytest.approx(worst / 100, abs=1e-5)
    assert load(folder, device="cpu").classes.names == ("a", "b", "c")


def test_accuracy_needs_a_model() -> None:
    result = CliRunner().invoke(app, ["bench", "--accuracy", "anywhere"])
    assert isinstance(result.exception, ValueError)
    assert "name its folder" in str(result.exception)


def test_a_model_is_calibrated_and_then_predicts_in_eight_bits(model: Path, data: Path, tmp_path: Path) -> None:
    if find_spec("nncf") is None or find_spec("openvino") is None:
        pytest.skip("the extra openvino is not installed")
    folder = shutil.copytree(model, tmp_path / "model")
    picture = data / "val" / "images" / "0.png"
    words = ["predict", str(folder), str(picture), "--precision", "int8", "--out", str(tmp_path / "out")]
    before = CliRunner().invoke(app, words)
    assert before.exit_code == 1
    assert "fullyconv quantize" in str(before.exception)
    said = _run("quantize", folder, data, "--images", 4)
    assert said[0] == "calibrating on 4 of 6 pictures"
    assert (folder / "int8.safetensors").stat().st_size < 100_000
    assert set(_prices(said)) == {
        ("pytorch", "bfloat16"), ("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8")
    }  # fmt: skip
    _run(*words)
    assert np.asarray(Image.open(tmp_path / "out" / "0.png")).shape == (48, 60)


def test_a_precision_that_cannot_be_had_is_said_once_before_any_picture(model: Path, tmp_path: Path) -> None:

    for index in range(3):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{index}.png")
    arguments = ["predict", str(model), str(tmp_path), "--out", str(tmp_path / "out"), "--precision", "int8"]
    error = CliRunner().invoke(app, [*arguments, "--engine", "pytorch"]).exception
    assert isinstance(error, ValueError)
    assert "precision int8 is OpenVINO's alone" in str(error)
    assert not (tmp_path / "out").exists()
