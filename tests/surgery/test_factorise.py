from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fullyconv.checkpoint import load_network, save
from fullyconv.cli import app
from fullyconv.networks import build
from fullyconv.surgery import GlobalAverageHead, compress, truncate_svd


def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(5, 12, (3, 2), stride=2, padding=1).double()


def test_full_rank_changes_nothing() -> None:
    layer, features = conv(), torch.randn(2, 5, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(truncate_svd(layer, rank=12)(features), layer(features), rtol=0, atol=1e-12)
    tall = nn.Conv2d(2, 40, 1).double()
    torch.testing.assert_close(truncate_svd(tall, rank=2)(features[:, :2]), tall(features[:, :2]), rtol=0, atol=1e-12)


def test_the_truncation_is_the_svds() -> None:
    layer = conv()
    inner, outer = (part.weight.detach().flatten(1) for part in truncate_svd(layer, rank=4))
    u, s, v = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    torch.testing.assert_close(outer @ inner, u[:, :4] @ torch.diag(s[:4]) @ v[:4], rtol=0, atol=1e-10)


def test_a_target_error_takes_the_smallest_rank_that_meets_it() -> None:
    layer = conv()
    singular = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    errors = [float((singular[r:].square().sum() / singular.square().sum()).sqrt()) for r in range(13)]
    for rank in (3, 7, 12):
        target = errors[rank] + 1e-9
        assert truncate_svd(layer, error=target)[0].out_channels == rank


def test_fc6_saves_weights_below_rank_3521_only() -> None:
    # Fact sheet, section 9, seed 002.
    inputs, outputs = 512 * 49, 4096
    assert 3520 * (inputs + outputs) < inputs * outputs < 3522 * (inputs + outputs)


def test_compression_reports_parameters_multiply_adds_and_output_error() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 10, 2), nn.Dropout(0.5), nn.Conv2d(10, 4, 1)).double()
    image = torch.randn(1, 3, 8, 9, dtype=torch.float64)
    before = net.eval()(image)
    net.train()
    report = compress(net, ["1"], image, rank=3)
    after = net.eval()(image)
    assert report.ranks == {"1": 3}
    assert report.parameters == (640 + 10, 3 * 64 + 30 + 10)
    assert report.multiply_adds == (640 * 5 * 6, (3 * 64 + 30) * 5 * 6)
    assert report.output_error == pytest.approx(float(((after - before).norm() / before.norm()).detach()))
    assert 0 < report.weight_errors["1"] < 1
    assert compress(net, ["0"], image, error=0.0).output_error < 1e-12


def test_bad_ranks_and_errors_are_refused() -> None:
    layer = conv()
    with pytest.raises(ValueError, match="either rank or error"):
        truncate_svd(layer)
    with pytest.raises(ValueError, match="1 to 12, not 13"):
        truncate_svd(layer, rank=13)
    with pytest.raises(ValueError, match="below 1, not 1"):
        truncate_svd(layer, error=1.0)
    with pytest.raises(ValueError, match="'fc9' is not a convolution"):
        compress(nn.Sequential(layer), ["fc9"], torch.zeros(1, 5, 8, 8).double(), rank=1)


def test_averaging_scores_is_scoring_averages() -> None:
    # Fact sheet, section 9, "global average pooling".
    linear = nn.Linear(8, 3).double()
    features = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    head = GlobalAverageHead.of(linear)
    torch.testing.assert_close(head(features), linear(features.mean((2, 3))), rtol=0, atol=1e-13)
    assert head.heat_map(features).shape == (2, 3, 5, 7)
    assert GlobalAverageHead(8, 3)(features.float()).shape == (2, 3)


def test_a_compressed_network_is_saved_and_opened_like_any_other(shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("fcn32s-resnet18", 6).eval()
    nn.init.normal_(net.heads[0].weight)
    save(net, tmp_path / "model")
    picture = next((shapes / "val" / "images").iterdir())
    command = ["compress", str(tmp_path / "model"), "--image", str(picture), "--out", str(tmp_path / "small")]
    layers = ["--layer", "trunk.stage4.1.conv1", "--layer", "trunk.stage4.1.conv2"]
    result = CliRunner().invoke(app, [*command, *layers, "--rank", "64"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "rank 64" in result.output
    assert "4,718,592 -> 655,360 (13.9%)" in result.output
    small, config = load_network(tmp_path / "small")
    assert config.notes["ranks"] == {"trunk.stage4.1.conv1": 64, "trunk.stage4.1.conv2": 64}
    assert small.trunk.stage4[1].conv1[0].out_channels == 64
    image = torch.randn(1, 3, 64, 70)
    expected = compress(net, ["trunk.stage4.1.conv1", "trunk.stage4.1.conv2"], image, rank=64)
    with torch.no_grad():
        torch.testing.assert_close(small(image), net(image))
    assert expected.parameters == (4_718_592, 655_360)
    with pytest.raises(ValueError, match=r"'trunk\.fc6' is not a convolution of this network"):
        CliRunner().invoke(app, [*command, "--rank", "64"], catch_exceptions=False)
