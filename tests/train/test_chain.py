from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fullyconv.checkpoint import load_network, read_tensors, write_tensors
from fullyconv.cli import app
from fullyconv.data.images import BadFile
from fullyconv.recipes import CHAINS
from fullyconv.train.assemble import TRANSPLANT, assemble, prepare
from fullyconv.train.chain import Chain, change_chain, place
from fullyconv.train.loop import BEST, METRICS, Job, fit
from fullyconv.train.recipe import Recipe

TINY = Recipe(crop=(64, 64), epochs=1, batch=3, device="cpu", precision="fp32", network="fcn32s-resnet18")


class Silent:
    def step(self, **_: Any) -> None: ...

    def epoch(self, figures: Any) -> None: ...


def start(recipe: Recipe, data: Path, out: Path) -> Job:
    return assemble(recipe, prepare(recipe, data), out)


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
    with pytest.raises(ValueError, match="named like a folder"):
        Chain({"../up": TINY})


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


def test_a_run_starts_from_a_model_with_its_weights_and_its_normalisation(shapes: Path, tmp_path: Path) -> None:
    job = start(TINY, shapes, tmp_path / "coarse")
    fit(job, Silent())
    fine = start(
        TINY.model_copy(update={"network": "fcn8s-resnet18", "start_from": str(tmp_path / "coarse" / BEST)}),
        shapes,
        tmp_path / "fine",
    )
    trained = read_tensors(tmp_path / "coarse" / BEST / "model.safetensors")
    assert torch.equal(fine.network.heads[0].weight, trained["heads.0.weight"])
    assert not fine.network.heads[2].weight.any()
    assert fine.preprocess == job.preprocess


def test_a_run_starts_from_named_weights_and_not_from_those_of_another_trunk(shapes: Path, tmp_path: Path) -> None:
    weights = {"trunk.stem.0.weight": torch.full((64, 3, 7, 7), 0.25)}
    write_tensors(tmp_path / "pretrained.safetensors", weights)
    recipe = TINY.model_copy(update={"start_from": str(tmp_path / "pretrained.safetensors")})
    job = start(recipe, shapes, tmp_path / "run")
    assert torch.equal(job.network.trunk.stem[0].weight, weights["trunk.stem.0.weight"])
    write_tensors(tmp_path / "other.safetensors", {"conv1_1.weight": torch.zeros(1)})
    with pytest.raises(BadFile, match="no name is the same"):
        start(recipe.model_copy(update={"start_from": str(tmp_path / "other.safetensors")}), shapes, tmp_path / "no")


def test_training_only_the_scores_leaves_the_trunk_bit_for_bit(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 8.
    job = start(TINY.model_copy(update={"train_only": "scores", "optimizer": "caffe-sgd"}), shapes, tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in job.network.state_dict().items()}
    fit(job, Silent())
    after = job.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"heads.0.weight", "heads.0.bias"}


def test_sampled_training_takes_more_batches_per_update_and_repeats_itself(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 5; the sampled terms follow from the seed and the position.
    recipe = TINY.model_copy(update={"sampling": 0.5, "shift": 32, "batch": 1, "normalization": "batch"})
    results = []
    for name in ("first", "second"):
        job = start(recipe, shapes, tmp_path / name)
        assert job.accumulate == 2
        fit(job, Silent())
        results.append(job.network.state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())
