"""A model, a run or a recipe from a stranger runs none of its own words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fullyconv import build, load, save
from fullyconv.checkpoint import load_network
from fullyconv.cli import app
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.train.recipe import Recipe, read_recipe

TRAP = """
from pathlib import Path
Path(__file__).with_name("sprung").touch()
def build():
    raise SystemExit("called")
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(build("fcn32s-resnet18", 2), tmp_path / "model")


def change(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    document = json.loads(file.read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = document
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "name",
    [
        "torch:os.abort",
        "pytest:main",
        "setuptools:setup",
        "numpy:zeros",
        "os:abort",
        "trap:build",
        "torchvision.models:resnet18",
        "timm.models:create_model",
        "fullyconv.cli:main",
    ],
)
def test_a_model_that_names_a_function_is_refused_before_anything_is_imported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    change(model, architecture__name=f"fcn8s-{name}")
    with pytest.raises(BadFile, match=rf"calls {name}.*trust='{name}'.*--trust {name}"):
        load(model)
    with pytest.raises(BadFile, match=r"--trust"):
        load(model, trust="another:build")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "MODEL", "x.jpg", "--out", "out"],
        ["evaluate", "MODEL", "data"],
        ["inspect", "MODEL"],
        ["compress", "MODEL", "--image", "x.jpg", "--out", "out"],
        ["caffe", "export", "MODEL", "--out", "out"],
        ["crf", "tune", "MODEL", "data"],
    ],
)
def test_every_command_asks_for_the_callers_word(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    change(model, architecture__name="fcn8s-trap:build")
    given = [str(model) if word == "MODEL" else word for word in words]
    refused = CliRunner().invoke(app, given)
    assert isinstance(refused.exception, BadFile)
    assert "--trust trap:build" in str(refused.exception)
    assert not (tmp_path / "sprung").exists()
    CliRunner().invoke(app, [*given, "--trust", "trap:build"])
    assert (tmp_path / "sprung").exists()
    sys.modules.pop("trap")


def test_a_recipe_that_names_a_function_or_starts_from_such_a_model_is_refused(
    shapes: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trunk.yaml").write_text("network: fcn8s-resnet18\ntrunk: trap:build\n")
    change(model, architecture__name="fcn8s-trap:build")
    (tmp_path / "start.yaml").write_text(f"start_from: {model}\n")
    (tmp_path / "scene.yaml").write_text("base: hsi\nnetwork: fcn1s-trap:build\n")
    for recipe in ("trunk", "start", "scene"):
        words = ["train", str(tmp_path / f"{recipe}.yaml"), "--data", str(shapes), "--out", str(tmp_path / recipe)]
        refused = CliRunner().invoke(app, words)
        assert isinstance(refused.exception, BadFile), refused.output
        assert "--trust trap:build" in str(refused.exception)
    assert not (tmp_path / "sprung").exists()
    assert read_recipe(tmp_path / "trunk.yaml", {"default": Recipe()}).trunk == "trap:build"


def test_python_c_imports_no_timm_from_the_working_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text(TRAP)
    change(model, architecture__name="fcn8s-timm:resnet18")
    code = f"import fullyconv\ntry: fullyconv.load({str(model)!r})\nexcept ValueError as error: print(error)"
    path = os.pathsep.join(entry for entry in sys.path if entry and Path(entry) != tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert "does not hold a fcn8s-timm:resnet18" in run.stdout, run.stderr
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes__colours": [[300, 0, 0], [0, 0, 0]]}, "red, green and blue, each 0 to 255"),
        ({"classes__colours": [[1, 2], [3, 4]]}, "colours"),
        ({"classes__names": ["a" * 1_000_000, "b"]}, "name of 1000000 characters"),
        ({"classes__names": ["a", "b", "c"]}, "3 classes need as many colours"),
        ({"classes__names": [None, "b"]}, "classes.names"),
        ({"architecture__classes": 10**9}, "scores 1000000000 classes"),
        ({"architecture__classes": -1}, "not -1"),
        ({"architecture__channels": 10**9}, "1 to 10000 channels"),
        ({"architecture__channels": 10**30}, "channels"),
        ({"architecture__example": [3, 10**6, 10**6]}, "no classifier is made for"),
        ({"architecture__name": "fcn8s-" + "x" * 1_000_000}, "name of 1000006 characters"),
        ({"architecture__name": "fcn" + "9" * 100 + "s-timm:resnet18"}, "no map at stride 9"),
        ({"architecture__name": "fcn8s-timm:eva_giant_patch14_560"}, "FULLYCONV_MAX_WEIGHTS"),
        ({"architecture__name": "fcn8s-timm:no_such"}, "no model 'no_such'"),
        ({"architecture__upsampling": "sideways"}, "upsampling"),
        ({"architecture__surprise": 1}, "surprise"),
        ({"preprocess__std": [0, 1, 1]}, "above 0"),
        ({"preprocess__mean": [float("nan"), 1, 1]}, "mean"),
        ({"preprocess__mean": []}, "three or more means"),
        ({"preprocess": []}, "preprocess"),
        ({"notes": 5}, "notes"),
        ({"crf": {"iterations": "many"}}, "crf"),
        ({"format": "x"}, "format"),
        *(
            ({key: value}, "valid (integer|number|boolean|string)|valid tuple")
            for key, values in {
                "format": (1.0, "1", True),
                "architecture__classes": (2.0, "2", True),
                "architecture__channels": (3.0, "3", True),
                "architecture__example": ([3.0, 32, 32], [3, "32", 32]),
                "architecture__name": (8,),
                "classes__ignore_index": (255.0, "255", False),
                "classes__values": ([0, 1.0], ["0", 1], [False, True]),
                "classes__colour_masks": (0, "no"),
                "classes__colours": ([[1.0, 2, 3], [4, 5, 6]],),
                "preprocess__mean": (["1", 2, 3], [True, 2, 3]),
                "crf": ({"iterations": 5.0}, {"iterations": True}, {"smoothness_sxy": "3"}),
            }.items()
            for value in values
        ),
    ],
)
def test_hostile_values_of_a_config_are_refused_by_name(model: Path, changes: dict[str, Any], words: str) -> None:
    change(model, **changes)
    with pytest.raises(BadFile, match=words) as raised:
        load(model)
    assert str(model / "config.json") in str(raised.value)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "[]", '{"format": 1e999}', "\x00", '{"a":' * 5000])
def test_what_is_no_config_is_refused(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    with pytest.raises(BadFile, match=r"config\.json"):
        load(model)


def test_a_config_beyond_the_limit_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "text_bytes", 100)
    with pytest.raises(BadFile, match=r"larger than 100 bytes: raise FULLYCONV_MAX_TEXT_BYTES"):
        load(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model: Path, value: float) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["trunk.stage2.0.conv1.weight"][3, 2, 1, 0] = value
    save_file(tensors, file)
    with pytest.raises(BadFile, match=r"trunk\.stage2\.0\.conv1\.weight holds NaN or infinity"):
        load(model)


def test_weights_of_another_kind_of_number_are_refused_by_name(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["heads.0.weight"] = tensors["heads.0.weight"].to(torch.int64)
    save_file(tensors, file)
    with pytest.raises(BadFile, match=r"heads\.0\.weight holds torch\.int64"):
        load(model)


def test_factors_that_claim_a_rank_without_numbers_are_not_built(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    shape = tensors.pop("trunk.stage2.0.conv1.weight").shape
    tensors["trunk.stage2.0.conv1.0.weight"] = torch.empty(10**12, 0, *shape[2:])
    tensors["trunk.stage2.0.conv1.1.weight"] = torch.empty(shape[0], 0, 1, 1)
    save_file(tensors, file)
    with pytest.raises(BadFile, match="does not hold"):
        load(model)


def test_a_run_stands_for_its_model(model: Path, tmp_path: Path) -> None:
    assert load_network(tmp_path)[1] == load_network(model)[1]
    with pytest.raises(BadFile, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadFile, match=r"is a file.*config\.json and model\.safetensors"):
        load(model / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile, match=r"is not a model.*RUN/model.*first epoch"):
        load(tmp_path / "empty")
    chain = tmp_path / "chain"
    for stage in ("b", "a"):
        save(build("fcn32s-resnet18", 2), chain / stage / "model")
    with pytest.raises(BadFile, match=r"holds the runs a, b: name one of them, .*chain/a"):
        load(chain)
