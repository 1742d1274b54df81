from __future__ import annotations

import pytest
import torch

from fullyconv.networks import architecture_of, build, generic_names
from fullyconv.networks.trunks import BACKBONES, backbone


@pytest.mark.parametrize("coarsest", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (9, 14)])
def test_a_spectral_trunk_has_a_map_at_every_stride(coarsest: int, size: tuple[int, int]) -> None:
    trunk = backbone(f"spectral{coarsest}", 7)
    maps = trunk(torch.rand(2, 7, *size))
    strides = [stride for stride in (1, 2, 4, 8) if stride <= coarsest]
    assert [tuple(each.shape[2:]) for each in maps] == [(-(-size[0] // s), -(-size[1] // s)) for s in strides]
    assert [each.shape[1] for each in maps] == list(trunk.channels)


@pytest.mark.parametrize("name", ["fcn1s-spectral4", "fcn8s-resnet18", "fcn4s-lenet"])
def test_a_network_can_read_any_number_of_channels(name: str) -> None:
    network = build(name, 3, channels=11)
    assert network.in_channels == 11
    assert architecture_of(network).channels == 11
    assert network(torch.rand(1, 11, 33, 40)).shape == (1, 3, 33, 40)


def test_a_widened_first_layer_responds_as_strongly_as_before() -> None:
    torch.manual_seed(0)
    plain, wide = backbone("resnet18"), backbone("resnet18", 50)
    with torch.no_grad():
        responses = [
            trunk.stem[0](torch.randn(4, channels, 32, 32)).std() for trunk, channels in ((plain, 3), (wide, 50))
        ]
    assert float(responses[1] / responses[0]) == pytest.approx(1, rel=0.1)


def test_published_networks_keep_their_channels() -> None:
    for name in ("voc-fcn8s", "vgg16"):
        with pytest.raises(ValueError, match="leave channels out"):
            build(name, channels=4)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="at least one channel"):
        backbone("spectral2", 0)


def test_variants_are_named_after_their_finest_map() -> None:
    for name in generic_names():
        variant, _, trunk = name.partition("-")
        if trunk in ("vgg16-same", "spectral8", "resnet18"):
            finest = int(variant[3:-1])
            network = build(name, 2)
            strides = [stage.factor for stage in network.plans[0].stages]
            assert strides[-1] == finest, name
    assert "spectral8" in BACKBONES
