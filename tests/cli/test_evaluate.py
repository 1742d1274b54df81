"""What scores do where a data set has the model's classes in an order and with numbers of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fullyconv import ClassSet, build, save
from fullyconv.cli import app
from fullyconv.data.classes import write_classes
from fullyconv.files import BadFile

NAMES = ("road", "sky", "car")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("fcn32s-resnet18", 3)
    for head in network.heads:
        torch.nn.init.normal_(head.weight)
    return save(network, tmp_path_factory.mktemp("model"), classes=ClassSet(NAMES))


def dataset(root: Path, classes: ClassSet) -> str:
    """Write two pairs whose masks hold the same labels in the numbers of ``classes``."""
    rng = np.random.default_rng(0)
    values = np.array([classes.values[classes.names.index(name)] for name in NAMES if name in classes.names], np.uint8)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(values[rng.integers(0, len(values), (40, 50))]).save(root / f"masks/{name}.png")
    write_classes(classes, root / "classes.yaml")
    return str(root)


@pytest.mark.parametrize("options", [[], ["--crf"], ["--tta", "flip,scales=0.8,1"]])
def test_scores_do_not_depend_on_what_stands_for_a_class(model: Path, tmp_path: Path, options: list[str]) -> None:
    sets = {"same": ClassSet(NAMES), "own": ClassSet(("sky", "car", "road"), values=(0, 255, 7), ignore_index=1)}
    said, scores = {}, {}
    for name, classes in sets.items():
        file, data = tmp_path / f"{name}.json", dataset(tmp_path / name / "data", classes)
        page = ["--report", str(tmp_path / name / "page")]
        result = CliRunner().invoke(app, ["evaluate", str(model), data, "--json", str(file), *page, *options])
        assert result.exit_code == 0, result.output
        said[name], scores[name] = result.output, json.loads(file.read_text())
    assert scores["own"] == scores["same"]
    assert "another order: names decide" in " ".join(said["own"].split())
    assert "order" not in said["same"]


@pytest.mark.parametrize("command", [["evaluate"], ["evaluate", "--crf"], ["crf", "tune"]])
def test_other_names_are_refused(model: Path, tmp_path: Path, command: list[str]) -> None:
    data = dataset(tmp_path / "data", ClassSet(("road", "bus")))
    error = CliRunner().invoke(app, [*command, str(model), data]).exception
    assert isinstance(error, BadFile)
    assert "(bus, road) are not the model's (sky, car, road)" in error.what
