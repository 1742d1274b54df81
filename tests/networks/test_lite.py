"""EfficientNet-Lite0 of our own: timm's, tensor by tensor."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from fullyconv.networks import build
from fullyconv.networks.trunks import backbone
from fullyconv.tensors import write_tensors
from fullyconv.train.recipe import Recipe
from fullyconv.train.start import take_weights


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    if find_spec("timm") is None:
        pytest.skip("needs timm")
    torch.manual_seed(0)
    network = build("fpn4s-timm:tf_efficientnet_lite0", 3).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    nn.init.normal_(network.heads[0].weight)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (1, 7)])
def test_scores_are_those_of_timms_trunk(theirs: nn.Module, size: tuple[int, int]) -> None:
    ours = build("fpn4s-lite0", 3).eval()
    names = {name.replace("trunk.classifier.", "trunk."): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(names)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


def test_maps_have_the_strides_and_channels_that_they_state() -> None:
    maps = backbone("lite0").eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(found.shape[1:]) for found in maps] == [
        (144, 16, 24), (240, 8, 12), (672, 4, 6), (1280, 2, 3)
    ]  # fmt: skip
    for name in ("fcn32s-lite0", "fcn4s-lite0"):
        assert build(name, 2).eval()(torch.zeros(1, 3, 5, 9)).shape == (1, 2, 5, 9)


@pytest.mark.parametrize("network", ["fpn4s-lite0", "fcn8s-lite0"])
def test_it_starts_from_timms_file_with_its_normalisation(theirs: nn.Module, tmp_path: Path, network: str) -> None:
    prefix = "trunk.trunk.classifier."
    tensors = {name.removeprefix(prefix): t for name, t in theirs.state_dict().items() if name.startswith(prefix)}
    write_tensors(tmp_path / "weights.safetensors", tensors)
    made = build(network, 2)
    found = take_weights(made, Recipe(network=network, start_from=str(tmp_path / "weights.safetensors")))
    assert found is not None
    moved, preprocess = found
    assert preprocess is not None
    assert preprocess.mean == preprocess.std == (127.5,) * 3
    assert not [name for name in moved.missing if "conv_stem" in name or "blocks" in name]
