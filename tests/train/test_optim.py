from __future__ import annotations

import pytest
import torch
from torch import nn

from fullyconv.train.optim import make_optimizer, optimizer_tensors, rate_at, restore_optimizer


def test_poly_falls_to_zero_and_fixed_stays() -> None:
    assert rate_at(0.5, schedule="poly", power=0.9, warmup=0) == pytest.approx(0.5**0.9)
    assert rate_at(1.0, schedule="poly", power=0.9, warmup=0) == 0
    assert rate_at(0.7, schedule="fixed", power=0.9, warmup=0) == 1


def test_warmup_rises() -> None:
    rates = [rate_at(x / 100, schedule="fixed", power=1, warmup=0.1) for x in range(12)]
    assert rates == sorted(rates)
    assert 0 < rates[0] < 0.01
    assert rates[-1] == 1


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_and_norms_do_not_decay_and_frozen_weights_are_left_out(kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net[2].requires_grad_(False)
    optimizer = make_optimizer(net, kind, learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    sizes = {group["weight_decay"]: len(group["params"]) for group in optimizer.param_groups}
    assert sizes == {0.5: 1, 0.0: 3}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_state_survives_as_tensors(kind: str) -> None:
    def run(steps: int, optimizer: torch.optim.Optimizer, net: nn.Module) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            net(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    optimizer = make_optimizer(first, kind, learning_rate=0.01, momentum=0.9, weight_decay=0.1)
    run(3, optimizer, first)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = make_optimizer(second, kind, learning_rate=0.01, momentum=0.9, weight_decay=0.1)
    restore_optimizer(other, optimizer_tensors(optimizer))
    run(3, optimizer, first)
    run(3, other, second)
    assert torch.equal(first.weight, second.weight)
