from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fullyconv.checkpoint import load_network
from fullyconv.cli import app
from fullyconv.files import BadFile
from fullyconv.recipes import CHAINS
from fullyconv.train.chain import Chain, change_chain, place
from fullyconv.train.folder import BEST, METRICS, TRANSPLANT
from fullyconv.train.recipe import Recipe


def test_each_stage_starts_from_the_best_model_of_the_one_before(tmp_path: Path) -> None:
    stages = place(CHAINS["voc-staged"], tmp_path)
    assert [stage.name for stage in stages] == ["fcn32s", "fcn16s", "fcn8s"]
    assert [stage.recipe.start_from for stage in stages] == [
        None, str(tmp_path / "fcn32s" / "model"), str(tmp_path / "fcn16s" / "model"),
    ]  # fmt: skip
    assert not any(stage.begun or stage.finished for stage in stages)


def test_settings_change_one_stage_or_all_and_the_start_only_of_the_first() -> None:
    chain = change_chain(
        CHAINS["voc-staged"], {"epochs": 3, "fcn16s.epochs": 5, "start_from": "vgg.safetensors"}, source="--set"
    )
    assert [stage.epochs for stage in chain.stages.values()] == [3, 5, 3]
    assert [stage.start_from for stage in chain.stages.values()] == ["vgg.safetensors", None, None]
    with pytest.raises(ValueError, match="unknown stage 'fcn4s': did you mean"):
        change_chain(chain, {"fcn4s.epochs": 1}, source="--set")
    with pytest.raises(ValueError, match="unknown key 'epoch': did you mean 'epochs'"):
        change_chain(chain, {"fcn8s.epoch": 1}, source="--set")
    with pytest.raises(ValueError, match="at least one stage"):
        Chain({})
    for name in ("", "../up", "a/b", "b/a", "a.b"):
        with pytest.raises(ValueError, match="named like a folder"):
            Chain({name: Recipe()})


def test_one_command_runs_the_chain_and_resumes_it(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 9: 32s, then 16s, then 8s, each from the one before.
    command = ["train", "demo-staged", "--data", str(shapes), "--out", str(tmp_path / "run")]
    for setting in ("epochs=1", "crop=[64, 64]", "batch=3", "device=cpu", "precision=fp32", "validate_every=1"):
        command += ["--set", setting]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    for stage in ("fcn32s", "fcn16s", "fcn8s"):
        assert load_network(run / stage / BEST)[1].architecture.name == f"{stage}-resnet18"
        assert (run / stage / "report.html").is_file()
    report = json.loads((run / "fcn16s" / TRANSPLANT).read_text())
    assert sorted(report["missing"]) == ["heads.1.bias", "heads.1.weight"]
    assert not report["left"]
    stages = place(CHAINS["demo-staged"], run)
    assert all(stage.begun and stage.finished for stage in stages)

    with pytest.raises(BadFile, match="already holds a run"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    lines = (run / "fcn8s" / METRICS).read_text()
    (run / "fcn8s" / "evaluation.json").unlink()  # as if stopped before the last stage was scored
    result = CliRunner().invoke(app, [*command, "--resume"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (run / "fcn8s" / "evaluation.json").is_file()
    assert (run / "fcn8s" / METRICS).read_text() == lines
