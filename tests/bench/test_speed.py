"""``fullyconv bench`` on small networks: figures that follow from one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fullyconv import ClassSet, Preprocess, Segmenter, build, save
from fullyconv.bench.limits import Limits, measure_limits
from fullyconv.bench.speed import Speed, count_operations, measure_speed
from fullyconv.bench.timing import Timing
from fullyconv.cli import app


def test_operations_are_those_of_the_layers_counted_by_hand() -> None:
    network = build("fcn32s-resnet18", 3)
    counted = 0

    def count(module: nn.Module, _: object, result: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(module, nn.Conv2d)
        counted += 2 * result.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 64, 64))
    found = count_operations(network, (64, 64))
    assert counted <= found <= counted * 1.1  # the upsampling, which is no such layer, is in it too


def test_the_limits_of_this_machine_are_positive_and_a_network_stays_below_them() -> None:
    limits = measure_limits(rounds=1)
    assert limits.operations["fp32"] > 1e9
    assert limits.bytes > 1e8


def test_each_arithmetic_is_timed() -> None:
    model = Segmenter(build("fcn32s-resnet18", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")
    found = measure_speed(model, (40, 50), ("fp32", "bf16"), rounds=2)
    assert [speed.precision for speed in found] == ["fp32", "bf16"]
    assert found[0].operations == found[1].operations
    assert found[0].bytes > found[1].bytes
    assert found[0].rate == found[0].operations / found[0].timing.median


def test_where_a_limit_is_not_known_no_share_is_said() -> None:
    words = Speed("bf16", Timing((0.5,)), 1e9, 1e6, 0.7).words(Limits({"fp32": 1e12}, 1e10))
    assert words == "bf16: 2 pictures/s, 500 ms (500 to 500), 2 GFLOP/s, 0 % of its memory rate; the first 700 ms"


def test_the_command_says_what_a_model_takes(tmp_path: Path) -> None:
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    result = CliRunner().invoke(app, ["bench", str(model), "--size", "40", "50", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "a picture of 40 x 50 (rows x columns)" in result.output
    assert re.search(r"  fp32: [\d.e+]+ pictures/s, .* GFLOP/s: \d+ % of the machine in fp32", result.output)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "none")])
    assert isinstance(result.exception, ValueError)
    assert "none" in str(result.exception)


@pytest.mark.parametrize(
    ("size", "rounds", "said"),
    [
        (("1000000", "1000000"), 1, "1000000 x 1000000 is no size: a picture has 1 to 400000000 pixels"),
        (("0", "5"), 1, "0 x 5 is no size"),
        (("-3", "5"), 1, "-3 x 5 is no size"),
        (
            ("1001", "1000"),
            10**7,
            r"timing 1001 x 1000 pixels \d+ times takes about \d+ minutes here, more than 10: choose",
        ),
    ],
)
def test_sizes_that_nobody_means_are_refused_before_anything_is_timed(
    size: tuple[str, str], rounds: int, said: str, tmp_path: Path
) -> None:
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    result = CliRunner().invoke(app, ["bench", str(model), "--size", *size, "--rounds", str(rounds)])
    assert re.search(said, str(result.exception))
    assert "this machine" not in result.output
