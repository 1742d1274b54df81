"""Averaged weights, and batch statistics measured anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fullyconv.checkpoint import load_network
from fullyconv.tensors import read_tensors
from fullyconv.train.average import Average, lagging, measure_statistics
from fullyconv.train.recipe import Recipe
from runs import Notes, newest, train


def test_the_average_is_the_sum_that_its_recurrence_says() -> None:
    network, average = nn.Linear(2, 2), None
    average = Average(network, decay=0.9)
    expected = network.weight.detach().double().clone()
    for step in range(1, 40):
        with torch.no_grad():
            network.weight.copy_(torch.full((2, 2), float(step)))
        average.follow(network, step)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * step
    assert torch.allclose(average.network.weight.double(), expected, rtol=1e-5)  # type: ignore[union-attr,operator]


def test_counters_are_copied() -> None:
    network = nn.BatchNorm2d(1)
    average = Average(network, decay=0.9)
    network(torch.randn(2, 1, 3, 3))
    average.follow(network, 1)
    assert average.network.num_batches_tracked == 1


def test_a_layer_sees_what_the_one_before_makes_of_a_batch_in_training() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    measure_statistics(network, [torch.randn(4, 1, 5, 5) * 3 + 7])
    assert network[1].running_mean.item() == pytest.approx(0, abs=1e-6)
    assert network[1].running_var.item() == pytest.approx(100 / 99, rel=1e-4)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_statistics_of_the_first_layer_are_those_of_all_views_together() -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=0.01)
    batches = [
        torch.randn(size, 3, 5, 7) * scale + shift for size, scale, shift in ((2, 1, 0), (3, 2, 5), (1, 0.5, -1))
    ]
    assert measure_statistics(nn.Sequential(layer, nn.Dropout()), batches) == 1
    every = torch.cat(batches).double().transpose(0, 1).flatten(1)
    assert torch.allclose(layer.running_mean.double(), every.mean(1), atol=1e-5)  # type: ignore[union-attr]
    assert torch.allclose(layer.running_var.double(), every.var(1), rtol=1e-5)  # type: ignore[union-attr]


def test_modes_momentum_and_weights_are_left_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.9)).train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    measure_statistics(network, [torch.randn(2, 1, 8, 8)])
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert network[1].momentum == 0.3
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_parameters())


def test_frozen_layers_keep_their_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1).requires_grad_(False), nn.BatchNorm2d(1))
    measure_statistics(network, [torch.full((1, 1, 4, 4), 3.0)])
    found = [layer.running_mean.item() for layer in network]  # type: ignore[union-attr]
    assert found == pytest.approx([0.0, 3.0], abs=1e-4)


def test_only_low_momentum_lags() -> None:
    assert not lagging(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)))
    assert lagging(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=0.01)))


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        network="fcn4s", trunk="teams:dropping", crop=(32, 32), epochs=2, batch=2, average=0.9, clip=1.0,
        precision="fp32", validate_every=2,
    )  # fmt: skip


def test_a_run_with_an_average_delivers_it_and_resumes_to_the_same(
    shapes: Path, tmp_path: Path, recipe: Recipe
) -> None:
    whole = train(recipe, shapes, tmp_path / "whole")
    assert whole.average is not None
    with pytest.raises(KeyboardInterrupt):
        train(recipe, shapes, tmp_path / "cut", Notes(stop_at=4))
    resumed = train(recipe, shapes, tmp_path / "cut", resume=True)
    assert resumed.average is not None
    for name, tensor in whole.average.network.state_dict().items():
        assert torch.equal(tensor, resumed.average.network.state_dict()[name]), name
    trained = read_tensors(newest(tmp_path / "whole") / "model.safetensors")
    assert not torch.equal(trained["heads.0.weight"], whole.average.network.state_dict()["heads.0.weight"])
    best, _ = load_network(tmp_path / "whole", trust="teams:dropping")
    assert best.state_dict().keys() == trained.keys()


def test_a_clipped_gradient_moves_less(shapes: Path, tmp_path: Path, recipe: Recipe) -> None:
    moves = []
    for clip in (None, 1e-3):
        settings = {"clip": clip, "average": 0.0, "epochs": 1, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 0.0}
        job = train(recipe.model_copy(update=settings | {"weight_decay": 0.0}), shapes, tmp_path / str(clip))
        moves.append(float(np.sum([weight.detach().abs().sum() for weight in job.network.heads.parameters()])))  # type: ignore[union-attr]
    assert moves[1] < 0.01 * moves[0]
