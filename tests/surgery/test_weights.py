from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from fullyconv.networks import build
from fullyconv.networks.fcn import continue_from
from fullyconv.surgery import linear_to_conv, merge_streams, transplant


def test_a_transplant_reports_what_moved_was_reshaped_was_left_and_is_missing() -> None:
    source = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "fc6": nn.Linear(4 * 6, 5), "fc8": nn.Linear(5, 1000)})
    target = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "fc6": nn.Conv2d(4, 5, (2, 3)), "score": nn.Conv2d(5, 2, 1)})
    report = transplant(source, target)
    assert report.moved == ("conv.weight", "conv.bias", "fc6.bias")
    assert report.reshaped == ("fc6.weight",)
    assert report.left == ("fc8.weight", "fc8.bias")
    assert report.missing == ("score.weight", "score.bias")
    assert torch.equal(target["fc6"].weight, linear_to_conv(source["fc6"], (2, 3)).weight)
    assert "1 reshaped (fc6.weight)" in str(report)


def test_layers_may_be_renamed_by_prefix_the_longest_counts() -> None:
    source = nn.ModuleDict({"trunk": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)), "head": nn.Linear(3, 1)})
    target = nn.ModuleDict({"second": nn.ModuleList([nn.Linear(2, 3)]), "last": nn.Linear(3, 3)})
    report = transplant(source, target, rename={"trunk": "second", "trunk.1": "last"})
    assert report.moved == ("second.0.weight", "second.0.bias", "last.weight", "last.bias")
    assert report.left == ("head.weight", "head.bias")
    assert torch.equal(target["last"].weight, source["trunk"][1].weight)
    with pytest.raises(ValueError, match="one name"):
        transplant(source, target, rename={"trunk.0": "a", "trunk.1": "a"})


def test_old_caffe_blobs_fill_what_they_describe() -> None:
    target = nn.Conv2d(2, 3, 2)
    matrix, bias = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 1, 3)
    assert transplant({"weight": matrix, "bias": bias}, target).reshaped == ("weight", "bias")
    assert torch.equal(target.weight.flatten(), matrix.flatten())


def test_a_count_mismatch_is_an_error_and_nothing_moves() -> None:
    target = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 21, 1))
    before = target[0].weight.clone()
    with pytest.raises(ValueError, match=r"1\.weight: the source has \(60, 4, 1, 1\), 240 elements.*84"):
        transplant(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 60, 1)), target)
    assert torch.equal(target[0].weight, before)
    with pytest.raises(ValueError, match="different numbers of outputs"):
        transplant({"weight": torch.zeros(3, 4)}, nn.Linear(3, 4))
    report = transplant(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 60, 1)), target, skip=["1"])
    assert report.moved == ("0.weight", "0.bias")
    assert report.missing == ("1.weight", "1.bias")


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
def test_a_finer_network_continues_from_a_coarser_one(upsampling: Literal["fixed", "learned"]) -> None:
    # Fact sheet, section 2.2, point 2.
    torch.manual_seed(0)
    coarse, middle, fine = (build(f"fcn{n}s-resnet18", 4, upsampling=upsampling) for n in (32, 16, 8))
    for part in (*coarse.heads.parameters(), *coarse.upsamplers.parameters()):
        nn.init.normal_(part)
    first = continue_from(coarse, middle)
    assert torch.equal(middle.heads[0].weight, coarse.heads[0].weight)
    assert not middle.heads[1].weight.any()
    assert all(name.startswith(("heads.1", "upsamplers")) for name in first.missing)
    nn.init.normal_(middle.heads[1].weight)
    second = continue_from(middle, fine)
    assert torch.equal(fine.heads[1].weight, middle.heads[1].weight)
    assert not fine.heads[2].weight.any()
    if upsampling == "learned":
        assert first.left == ("upsamplers.0.weight",)
        assert "upsamplers.0.weight" in second.moved
        assert second.left == ("upsamplers.1.weight",)
    others = continue_from(coarse, build("fcn32s-resnet18", 7, upsampling=upsampling))
    assert all(name.startswith("trunk.") for name in others.moved)


def test_streams_keep_apart_by_suffix() -> None:
    # Fact sheet, section 2.2, point 5.
    def stream() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"conv1_1": nn.Conv2d(3, 2, 1), "score_fr": nn.Conv2d(2, 4, 1), "upscore": nn.Linear(1, 1)}
        )

    color, hha = stream(), stream()
    names = [f"{layer}{suffix}" for suffix in ("color", "hha") for layer in ("conv1_1", "score_fr")]
    fused = nn.ModuleDict(
        {name: nn.Conv2d(2 if "score" in name else 3, 4 if "score" in name else 2, 1) for name in names}
    )
    report = transplant(merge_streams({"color": color, "hha": hha}, drop=["upscore"]), fused)
    assert not report.left
    assert not report.missing
    assert torch.equal(fused["conv1_1hha"].weight, hha["conv1_1"].weight)
    assert torch.equal(fused["score_frcolor"].bias, color["score_fr"].bias)
    with pytest.raises(ValueError, match="other suffixes"):
        merge_streams({"1": {"a.weight": torch.zeros(1)}, "": {"a1.weight": torch.zeros(1)}})
