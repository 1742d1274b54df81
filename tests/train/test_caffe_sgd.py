"""The update equals Caffe's, written out in NumPy float64 (fact sheet, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fullyconv.networks import build
from fullyconv.train.job import Job, Quiet, Schedule
from fullyconv.train.optim import (
    CaffeSGD,
    Descent,
    caffe_groups,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.run import Run
from fullyconv.types import VOID, ClassSet, Preprocess

STEPS, ITER_SIZE, CLASSES, CHANNELS = 50, 3, 4, 5
RATES = [0.05 if step < 20 else 0.005 if step < 35 else 0.02 for step in range(STEPS)]
MOMENTUM, DECAY = 0.9, 0.03


def data() -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Features and labels of every iteration of every step; how many pixels are void differs."""
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(STEPS):
        batch = []
        for iteration in range(ITER_SIZE):
            labels = rng.integers(0, CLASSES, (1, 6, 7))
            labels[rng.random(labels.shape) < 0.3 * iteration] = VOID
            batch.append((rng.normal(size=(1, CHANNELS, 6, 7)), labels))
        steps.append(batch)
    return steps


def caffe_gradients(
    weight: np.ndarray, bias: np.ndarray, batch: list[tuple[np.ndarray, np.ndarray]], *, valid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give SoftmaxWithLoss's gradient by hand, accumulated over iter_size and divided by it."""
    total_weight, total_bias = np.zeros_like(weight), np.zeros_like(bias)
    for features, labels in batch:
        pixels = features[0].reshape(CHANNELS, -1)  # C x P
        scores = weight @ pixels + bias[:, None]
        chances = np.exp(scores - scores.max(0))
        chances /= chances.sum(0)
        flat = labels.reshape(-1)
        slope = chances - (np.arange(CLASSES)[:, None] == flat)
        slope[:, flat == VOID] = 0
        slope /= max(1, (flat != VOID).sum()) if valid else 1
        total_weight += slope @ pixels.T
        total_bias += slope.sum(1)
    return total_weight / ITER_SIZE, total_bias / ITER_SIZE


def caffe_trajectory(weight: np.ndarray, bias: np.ndarray, *, valid: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    velocity_w, velocity_b = np.zeros_like(weight), np.zeros_like(bias)
    path = []
    for rate, batch in zip(RATES, data(), strict=True):
        gradient_w, gradient_b = caffe_gradients(weight, bias, batch, valid=valid)
        velocity_w = MOMENTUM * velocity_w + rate * (gradient_w + DECAY * weight)
        velocity_b = MOMENTUM * velocity_b + 2 * rate * gradient_b
        weight, bias = weight - velocity_w, bias - velocity_b
        path.append((weight, bias))
    return path


def job(normalization: str) -> Job:
    network = nn.Conv2d(CHANNELS, CLASSES, 1).double()
    descent = Descent(optimizer="caffe-sgd", learning_rate=1.0, momentum=MOMENTUM, weight_decay=DECAY)

    def batches(epoch: int, start: int) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        for batch in data()[start:]:
            yield [torch.from_numpy(features) for features, _ in batch], [torch.from_numpy(truth) for _, truth in batch]

    return Job(
        network=network,
        optimizer=make_optimizer(network, descent),
        fabric=Fabric(accelerator="cpu", devices=1, precision="64-true"),
        schedule=Schedule(STEPS, STEPS, rate=lambda progress: RATES[round(progress * STEPS)]),
        seed=0,
        batches=batches,
        loss=PixelLoss(normalization),
        classes=ClassSet(("a",)),
        preprocess=Preprocess(),
    )


@pytest.fixture
def _float64() -> Iterator[None]:
    """Fabric hands scores on in PyTorch's default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("normalization", ["valid", "batch"])
def test_fifty_steps_of_the_training_loop_equal_caffes_update(normalization: str) -> None:
    torch.manual_seed(0)
    work = job(normalization)
    network, seen = work.network, []
    path = caffe_trajectory(
        network.weight.detach().numpy()[..., 0, 0].copy(),
        network.bias.detach().numpy().copy(),
        valid=normalization == "valid",
    )

    class Steps(Quiet):
        def step(self, **_: object) -> None:
            seen.append((network.weight.detach().numpy()[..., 0, 0].copy(), network.bias.detach().numpy().copy()))

    Run(work, watcher=Steps()).train()
    assert len(seen) == STEPS
    for ours, caffes in zip(seen, path, strict=True):
        np.testing.assert_allclose(ours[0], caffes[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours[1], caffes[1], rtol=0, atol=1e-12)
    assert float(np.abs(seen[-1][0] - seen[0][0]).max()) > 0.01


def test_with_a_fixed_rate_it_is_pytorchs_sgd_and_after_a_change_it_is_not() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(6, dtype=torch.float64), torch.randn(20, 6, dtype=torch.float64)

    def path(caffe: bool, change: int) -> torch.Tensor:
        parameter = nn.Parameter(start.clone())
        kind = CaffeSGD if caffe else torch.optim.SGD
        optimizer = kind([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
        for step, gradient in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = 0.1 if step < change else 0.001
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(path(True, 20), path(False, 20), rtol=0, atol=1e-13)
    assert (path(True, 10) - path(False, 10)).abs().max() > 0.01


def test_accumulated_losses_are_the_mean_of_per_image_means_not_of_all_pixels() -> None:
    # Fact sheet, section 3.2: they differ where the images have different numbers of void pixels.
    weight, bias, batch = np.ones((CLASSES, CHANNELS)), np.zeros(CLASSES), data()[0]
    means, _ = caffe_gradients(weight, bias, batch, valid=True)
    sums, _ = caffe_gradients(weight, bias, batch, valid=False)
    pooled = sums * ITER_SIZE / sum(int((labels != VOID).sum()) for _, labels in batch)
    assert np.abs(means - pooled).max() > 1e-3


def test_biases_learn_twice_as_fast_and_only_weights_decay() -> None:
    with torch.device("meta"):
        net = build("fcn8s-vgg16")
    groups = {(g["rate_multiplier"], g["decay_multiplier"]): g["params"] for g in caffe_groups(net)}
    assert set(groups) == {(1.0, 1.0), (2.0, 0.0)}
    assert len(groups[1.0, 1.0]) == len(groups[2.0, 0.0]) == 13 + 2 + 3
    assert all(p.ndim == 4 for p in groups[1.0, 1.0])
    heads = {
        (g["rate_multiplier"], g["decay_multiplier"]): g["params"] for g in caffe_groups(net, bias_multipliers="scores")
    }
    assert len(heads[2.0, 0.0]) == 3  # the reference's AlexNet: fact sheet, section 1.2
    norms = caffe_groups(build("fcn32s-resnet18"))
    assert any((g["rate_multiplier"], g["decay_multiplier"]) == (1.0, 0.0) for g in norms)


def test_frozen_parameters_are_in_no_group() -> None:
    # Fact sheet, statement 8: only the last layer's 4096 * 21 + 21 parameters train.
    with torch.device("meta"):
        net = build("fcn32s-vgg16")
    net.trunk.requires_grad_(False)
    assert sum(p.numel() for g in caffe_groups(net) for p in g["params"]) == 86_037


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        CaffeSGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=1.0, weight_decay=0.0)
    with pytest.raises(ValueError, match="closure"):
        CaffeSGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9, weight_decay=0.0).step(lambda: 0.0)


def test_a_saved_velocity_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 3, 2)

    def step(layer: nn.Module, optimizer: torch.optim.Optimizer, gradient: torch.Tensor) -> None:
        layer.weight.grad, layer.bias.grad = gradient.clone(), gradient[:, 0].clone()
        optimizer.step()

    through, stopped = nn.Linear(2, 3), nn.Linear(2, 3)
    stopped.load_state_dict(through.state_dict())
    settings = Descent(optimizer="caffe-sgd", learning_rate=0.1, weight_decay=0.01)
    optimizer, other = (make_optimizer(layer, settings) for layer in (through, stopped))
    for number, gradient in enumerate(gradients):
        step(through, optimizer, gradient)
        if number == 2:
            saved, other = optimizer_tensors(other), make_optimizer(stopped, settings)
            restore_optimizer(other, saved)
        step(stopped, other, gradient)
    assert torch.equal(through.weight, stopped.weight)
    assert torch.equal(through.bias, stopped.bias)
