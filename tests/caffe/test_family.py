"""Networks that came after the paper, out to Caffe and back: margins, whole multiples, cuts, borders that repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fullyconv.caffe import export, import_model, load
from fullyconv.caffe.export import network_layers
from fullyconv.caffe.text import to_text
from fullyconv.caffe.wire import read_weights, write_weights
from fullyconv.files import BadFile
from fullyconv.networks import build, network_names
from fullyconv.networks.reference import REFERENCES
from fullyconv.networks.trunks.classic import Contracting
from fullyconv.networks.trunks.vgg import HoleVGG16

# Borders that repeat, margins and whole multiples, cuts within the trunk, holes, sums, pyramids; channels of the input.
FAMILY = {
    "unet-original": (1, 7), "segnet-basic": (None,), "deeplab-largefov-vgg16": (4,), "fcn1s-spectral4": (9,),
    "fpn8s-vgg16-same": (None,),
}  # fmt: skip


def shaken(name: str, channels: int | None = None, upsampling: str | None = None) -> nn.Module:
    """Build a network of random weights and statistics."""
    torch.manual_seed(1)
    net = build(name, 4, channels=channels, upsampling=upsampling).eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net


def assert_same(one: nn.Module, other: nn.Module) -> None:
    state, found = one.state_dict(), other.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[key], found[key]) for key in state)


def comes_back(net: nn.Module, folder: Path) -> None:
    """Check that files of a network compute what it does, at sizes that divide by nothing, too, and give it back."""
    files = export(net, folder)
    again, caffe = import_model(*files), load(*files)
    assert_same(net, again)
    assert again.architecture == net.architecture
    for size in ((33, 47), (64, 96), net.smallest_input, (66, 82)):
        image = torch.randn(1, net.in_channels, *size)
        with torch.inference_mode():
            scores = net(image)
            assert torch.equal(again(image), scores)
            assert (caffe({"data": image})["score"] - scores).abs().max() <= 1e-5 * scores.abs().max()


@pytest.fixture
def narrow(narrow_vgg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trunks be built with a few channels."""
    monkeypatch.setattr(HoleVGG16, "channels", (4,))
    monkeypatch.setattr(Contracting, "channels", (4, 6, 8, 8, 8))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "channels"), [(name, wide) for name, all_ in FAMILY.items() for wide in all_])
def test_decoders_and_borders_come_back_bit_for_bit(name: str, channels: int | None, tmp_path: Path) -> None:
    comes_back(shaken(name, channels), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", [
    *(name for name in network_names() if name not in REFERENCES),
    "fcn8s-timm:resnet26", "deeplab-timm:regnetx_002", "fcn8s-timm:mobilenetv2_100",
    "unet-torchvision:googlenet", "segnet-torchvision:vgg11_bn", "unet-torchvision:vgg11_bn",
])  # fmt: skip
@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
def test_all_that_came_after_the_paper_come_back_bit_for_bit(name: str, upsampling: str, tmp_path: Path) -> None:
    comes_back(shaken(name, None, upsampling), tmp_path)


@pytest.mark.usefixtures("narrow")
def test_a_segnet_for_multiples_of_its_stride_is_taken_too(tmp_path: Path) -> None:
    net = shaken("segnet-basic")
    prototxt, weights = export(net, tmp_path)
    prototxt.write_text(to_text("segnet-basic", network_layers(net, sized=True)))
    assert_same(net, import_model(prototxt, weights))
    with pytest.raises(ValueError, match=r"feed the size|does not take"):
        load(prototxt, weights)({"data": torch.randn(1, 3, 31, 61)})


@pytest.mark.usefixtures("narrow")
def test_weights_that_say_what_a_layer_does_are_checked(tmp_path: Path) -> None:
    prototxt, caffemodel = export(shaken("unet-original"), tmp_path)
    weights = read_weights(caffemodel)
    for layer in ("data_covered/wide", "data_covered/size"):
        others = {**weights, layer: [np.full_like(weights[layer][0], 2)]}
        write_weights(tmp_path / "other", "n", {name: ("", blobs) for name, blobs in others.items()})
        with pytest.raises(BadFile, match=f"layer '{layer}' .* other weights than this network has there"):
            import_model(prototxt, tmp_path / "other")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", ["unet-original", "deeplab-vgg16"])
def test_networks_of_several_heads_come_back(name: str, tmp_path: Path) -> None:
    net = build(name, 4, tasks={"depth": 3, "edges": 2}, channels=2).eval()
    for head in (bank[0] for bank in net.score_layers.values()):
        nn.init.normal_(head.weight)
    files = export(net, tmp_path)
    again, image = import_model(*files), torch.randn(1, 2, 33, 47)
    assert_same(net, again)
    assert again.architecture == net.architecture
    with torch.inference_mode():
        expected, found = net(image)._asdict(), load(*files)({"data": image})
        for task, scores in expected.items():
            assert (found[f"score_{task}"] - scores).abs().max() <= 1e-5 * scores.abs().max()
