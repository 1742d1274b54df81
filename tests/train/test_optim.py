from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fullyconv.networks import build
from fullyconv.train.optim import CaffeSGD, Descent, make_optimizer, optimizer_tensors, restore_optimizer, set_rates


def test_poly_falls_to_zero_and_fixed_stays() -> None:
    poly = Descent(learning_rate=0.1, power=0.9, warmup=0)
    assert poly.rate_at(0.5) == pytest.approx(0.1 * 0.5**0.9)
    assert poly.rate_at(1.0) == 0
    assert Descent(learning_rate=0.1, schedule="fixed", warmup=0).rate_at(0.7) == 0.1


def test_a_recipe_that_says_nothing_falls_as_deeplab_does_to_the_power_of_nine_tenths() -> None:
    assert Descent(learning_rate=1, warmup=0).rate_at(0.5) == pytest.approx(0.5**0.9)


def test_names_stand_for_the_library_s_optimisers_and_every_matrix_decays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    sgd = make_optimizer(net, Descent(optimizer="sgd", momentum=0.8, weight_decay=0.5))
    adamw = make_optimizer(net, Descent(optimizer="adamw", momentum=0.8, weight_decay=0.5))
    assert isinstance(sgd, torch.optim.SGD)
    assert {group["momentum"] for group in sgd.param_groups} == {0.8}
    assert isinstance(adamw, torch.optim.AdamW)
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.999)}
    for optimizer in (sgd, adamw):
        decaying = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
        assert decaying == {id(net[0].weight), id(net[2].weight)}


def test_warmup_rises() -> None:
    rising = Descent(learning_rate=0.1, schedule="fixed", warmup=0.1)
    rates = [rising.rate_at(x / 100) for x in range(12)]
    assert rates == sorted(rates)
    assert 0 < rates[0] < 0.001
    assert rates[-1] == 0.1


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_and_norms_do_not_decay_and_frozen_weights_are_left_out(kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net[2].requires_grad_(False)
    optimizer = make_optimizer(net, Descent(optimizer=kind, weight_decay=0.5))
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
    optimizer = make_optimizer(first, Descent(optimizer=kind, learning_rate=0.01, weight_decay=0.1))
    run(3, optimizer, first)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = make_optimizer(second, Descent(optimizer=kind, learning_rate=0.01, weight_decay=0.1))
    restore_optimizer(other, optimizer_tensors(optimizer))
    run(3, optimizer, first)
    run(3, other, second)
    assert torch.equal(first.weight, second.weight)


def test_the_trunk_rests_then_learns_at_its_own_rate() -> None:
    network = build("fcn4s-lenet", 2)
    descent = Descent(learning_rate=0.1, trunk_rate=0.25, rest_trunk=0.5, optimizer="sgd", weight_decay=0)
    optimizer = make_optimizer(network, descent)
    trunk = {id(parameter) for parameter in network.trunk.parameters()}
    for progress, expected in ((0.0, 0.0), (0.49, 0.0), (0.5, 0.02), (0.9, 0.02)):
        set_rates(optimizer, 0.08, progress)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(expected if id(parameter) in trunk else 0.08)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


@pytest.mark.parametrize(("trunk_rate", "groups"), [(1.0, 2), (0.5, 4), (2.0, 4)])
def test_the_trunk_stands_apart_where_its_rate_is_another(trunk_rate: float, groups: int) -> None:
    network = build("fcn4s-lenet", 2)
    optimizer = make_optimizer(network, Descent(optimizer="sgd", trunk_rate=trunk_rate))
    set_rates(optimizer, 0.1, 0.0)
    assert len(optimizer.param_groups) == groups
    trunk = {id(parameter) for parameter in network.trunk.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.1 * trunk_rate if id(parameter) in trunk else 0.1)


def test_a_trunk_that_rests_stands_apart_at_any_rate() -> None:
    optimizer = make_optimizer(build("fcn4s-lenet", 2), Descent(optimizer="sgd", rest_trunk=0.5))
    set_rates(optimizer, 0.1, 0.25)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0, 0, 0.1, 0.1]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_volumes_are_updated_too(kind: str) -> None:
    network = nn.Conv3d(1, 1, 2)
    before = network.weight.detach().clone()
    network.weight.grad, network.bias.grad = torch.ones_like(network.weight), torch.ones(1)
    make_optimizer(network, Descent(optimizer=kind, weight_decay=0, learning_rate=0.5)).step()
    torch.testing.assert_close(network.weight.detach(), before - 0.5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_pytorchs_however_weights_lie(name: str, layout: torch.memory_format, momentum: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 2, (1, 3)))
    network = network.to(memory_format=layout)
    other = copy.deepcopy(network)
    descent = Descent(optimizer=name, momentum=momentum, weight_decay=0.1)  # type: ignore[arg-type]
    ours = make_optimizer(network, descent)
    theirs = (torch.optim.SGD if name == "sgd" else torch.optim.AdamW)(
        [
            {"params": [weight for weight in other.parameters() if weight.ndim > 1], "weight_decay": 0.1},
            {"params": [weight for weight in other.parameters() if weight.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
        **({"momentum": momentum} if name == "sgd" else {"betas": (momentum, 0.999)}),
    )
    for seed in range(3):
        for model, optimizer in ((network, ours), (other, theirs)):
            torch.manual_seed(seed)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 8, 9)).square().sum().backward()
            optimizer.step()
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)
    assert {len(ours.state[weight]) for weight in network.parameters()} == {3 if name == "adamw" else int(momentum > 0)}


def test_a_descent_is_a_value_with_the_usual_numbers() -> None:
    usual = Descent()
    assert (usual.learning_rate, usual.momentum, usual.weight_decay, usual.warmup) == (1e-3, 0.9, 1e-2, 0.02)
    assert (usual.trunk_rate, usual.rest_trunk) == (1, 0)
    with pytest.raises(ValueError, match="frozen"):
        usual.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("rate", "momentum", "decay"),
    [(-1e-9, 0.9, 0), (1, -1e-9, 0), (1, 1, 0), (1, 0.9, -1e-9), (0, 0, 0), (0.5, 0.99, 2)],
)
def test_settings_of_caffes_descent_lie_in_their_ranges(rate: float, momentum: float, decay: float) -> None:
    weights = [nn.Parameter(torch.ones(2))]
    if rate >= 0 and 0 <= momentum < 1 and decay >= 0:
        optimizer = CaffeSGD(weights, lr=rate, momentum=momentum, weight_decay=decay)
        weights[0].grad = torch.ones(2)
        optimizer.step()
        torch.testing.assert_close(weights[0].detach(), torch.full((2,), 1.0 - rate * (1 + decay)))
    else:
        with pytest.raises(ValueError, match="lr and weight_decay are 0 or more and momentum lies from 0 to below 1"):
            CaffeSGD(weights, lr=rate, momentum=momentum, weight_decay=decay)
