from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv import build, load, save
from fullyconv.files import BadFile
from fullyconv.networks.trunks.external import build_classifier
from fullyconv.tensors import read_tensors, shrink, write_tensors
from fullyconv.train.assemble import assemble
from fullyconv.train.folder import BEST, open_run
from fullyconv.train.job import Job
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run
from runs import train

TINY = Recipe(crop=(64, 64), epochs=1, batch=3, device="cpu", precision="fp32", network="fcn32s-resnet18")


def start(recipe: Recipe, data: Path, out: Path) -> Job:
    with open_run(out, resume=False) as folder:
        return assemble(recipe, prepare(recipe, data), folder)


def test_a_run_starts_from_a_model_with_its_weights_and_its_normalisation(shapes: Path, tmp_path: Path) -> None:
    job = train(TINY, shapes, tmp_path / "coarse")
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


def test_a_trunk_from_elsewhere_starts_from_its_librarys_weights_and_trains(shapes: Path, tmp_path: Path) -> None:
    pretrained = build_classifier("torchvision:squeezenet1_1")
    write_tensors(tmp_path / "squeezenet.safetensors", pretrained.state_dict())
    choices = {
        "network": "fcn16s-resnet18",
        "trunk": "torchvision:squeezenet1_1",
        "start_from": str(tmp_path / "squeezenet.safetensors"),
    }
    job = start(TINY.model_copy(update=choices), shapes, tmp_path / "run")
    first = job.network.trunk.classifier.get_submodule("features.0")
    assert torch.equal(first.weight, pretrained.features[0].weight)
    Run(job).train()
    assert not torch.equal(first.weight, pretrained.features[0].weight)
    save(job.network, tmp_path / BEST, classes=job.classes)
    segmenter = load(tmp_path / BEST)
    assert segmenter.predict(np.zeros((31, 47, 3), np.uint8)).labels.shape == (31, 47)
    stored = json.loads((tmp_path / BEST / "config.json").read_text())["architecture"]["name"]
    assert stored == "fcn16s-torchvision:squeezenet1_1"


def test_training_only_the_scores_leaves_the_trunk_bit_for_bit(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 8.
    job = start(TINY.model_copy(update={"train_only": "scores", "optimizer": "caffe-sgd"}), shapes, tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in job.network.state_dict().items()}
    Run(job).train()
    after = job.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"heads.0.weight", "heads.0.bias"}


def test_sampled_training_takes_more_batches_per_update_and_repeats_itself(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 5; the sampled terms follow from the seed and the position.
    recipe = TINY.model_copy(update={"sampling": 0.5, "shift": 32, "batch": 1, "normalization": "batch"})
    results = []
    for name in ("first", "second"):
        job = start(recipe, shapes, tmp_path / name)
        assert job.batches.accumulate == 2
        Run(job).train()
        results.append(job.network.state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_balancing_by_sampling_keeps_all_of_the_rarest_class(shapes: Path, tmp_path: Path) -> None:
    # Fact sheet, statement 6.
    sampled = start(TINY.model_copy(update={"balance": 0.5, "balance_by": "sampling"}), shapes, tmp_path / "a")
    weighted = start(TINY.model_copy(update={"balance": 0.5}), shapes, tmp_path / "b")
    assert sampled.loss.weights is None
    assert weighted.loss.keep == 1
    assert float(sampled.loss.keep.max()) == 1
    torch.testing.assert_close(sampled.loss.keep * weighted.loss.weights.max(), weighted.loss.weights)
    Run(sampled).train()


def test_a_network_of_grey_pictures_learns_those_in_colour(shapes: Path, tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"network": "fcn4s-lenet"})
    train(recipe, shapes, tmp_path / "run")
    found = load(tmp_path / "run" / BEST)
    assert found.network.in_channels == 3
    assert found.predict(np.zeros((31, 47, 3), np.uint8)).labels.shape == (31, 47)


@pytest.mark.parametrize("name", ["siftflow-fcn32s", "nyud-fcn32s-color-d"])
def test_networks_of_other_data_sets_are_refused_in_words(shapes: Path, tmp_path: Path, name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=rf"not (SIFT Flow|NYUDv2), .*{name}"):
        start(TINY.model_copy(update={"network": name}), shapes, tmp_path / "run")


def test_a_run_starts_from_a_classifier_in_a_model_folder(shapes: Path, tmp_path: Path) -> None:
    classifier = build("googlenet", 6)
    save(classifier, tmp_path / "classifier")
    recipe = TINY.model_copy(update={"network": "fcn32s-googlenet", "start_from": str(tmp_path / "classifier")})
    job = start(recipe, shapes, tmp_path / "run")
    moved, expected = job.network.trunk.state_dict(), classifier.trunk.state_dict()
    assert all(torch.equal(moved[name], expected[name]) for name in expected)
    assert not any(parameter.any() for parameter in job.network.heads.parameters())


def test_a_run_starts_from_weights_in_8_bits(shapes: Path, tmp_path: Path) -> None:
    weights = {"trunk.stem.0.weight": torch.randn(64, 3, 7, 7)}
    write_tensors(tmp_path / "small.safetensors", shrink(weights))
    job = start(TINY.model_copy(update={"start_from": str(tmp_path / "small.safetensors")}), shapes, tmp_path / "run")
    torch.testing.assert_close(job.network.trunk.stem[0].weight, weights["trunk.stem.0.weight"], rtol=0, atol=0.02)
