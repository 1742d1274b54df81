"""With the frame around the image pasted, every value is that of the network as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.networks import build
from fullyconv.networks.alignment import AxisPlan
from fullyconv.networks.fcn import FCN
from fullyconv.predict.frame import BLANKS, Framed, frame
from fullyconv.predict.onednn import can_pack
from fullyconv.predict.packed import pack
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import outputs, record


@pytest.fixture(autouse=True, scope="module")
def pasting_costs_nothing() -> Iterator[None]:
    """Frame nets as narrow as those of tests, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fullyconv.predict.frame.PASTING", 0)
        yield


def check_equal(network: nn.Module, framed: nn.Module, image: Tensor) -> None:
    with torch.inference_mode():
        found, expected = framed(image), network(image)
    maps = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for ours, theirs in maps:
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * max(1.0, float(theirs.abs().max())))


def unlike_zero(network: nn.Module) -> nn.Module:
    """Give every layer a bias, so that nothing is zero beyond the image, and compute exactly."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(cast("Tensor", layer.weight), std=0.3)
            if layer.bias is not None:
                nn.init.normal_(layer.bias)
    return network.double().eval()


@pytest.mark.parametrize("name", ["fcn32s-alexnet", "voc-fcn-alexnet"])
def test_the_reference_nets_are_framed_at_any_size(name: str) -> None:
    trunk = unlike_zero(cast("FCN", build(name, 3)).trunk.layers[:9])  # its convolutions, on two of which it is cut
    framed = frame(record(trunk))
    assert framed is not None
    for size in [(1, 1), (7, 40), (66, 33), (131, 95), (200, 3)]:
        check_equal(trunk, framed, torch.randn(2, 3, *size, dtype=torch.float64))
        rows, columns = (each.layout(length) for each, length in zip(framed.frames, size, strict=True))
        assert min(rows.before, rows.after, columns.before, columns.after) >= 5  # units of 8 pixels of its 100


class Tapped(Trunk):
    """A chain that is read at three places, as the reference's are, and branches after the first."""

    channels = (4, 5, 6)

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=pad), nn.ReLU(),
            nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2, 2, ceil_mode=True),
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2, ceil_mode=True),
        )  # fmt: skip
        self.second, self.third = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Conv2d(5, 6, 1)
        self.side = nn.Conv2d(4, 5, 1, stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        first = self.first(image)
        second = self.second(first) + self.side(first)
        return first, second, self.third(second)


@pytest.mark.parametrize("pad", [100, 31, 12])
def test_what_is_read_at_several_places_comes_from_the_framed_map(pad: int) -> None:
    network = unlike_zero(Tapped(pad))
    framed = frame(record(network))
    assert framed is not None
    for size in [(1, 2), (33, 18), (40, 61)]:
        check_equal(network, framed, torch.randn(1, 3, *size, dtype=torch.float64))


@st.composite
def chains(draw: st.DrawFn) -> nn.Module:
    """Draw a chain of windows whose first one pads much."""
    kernels = st.tuples(st.integers(1, 5), st.integers(1, 4))
    pads = draw(st.tuples(st.integers(0, 40), st.integers(10, 60)))
    layers: list[nn.Module] = [nn.Conv2d(2, 2, draw(kernels), stride=draw(st.integers(1, 3)), padding=pads)]
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "pool", "mean", "relu"]))
        if kind == "conv":
            stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
            padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
            mode = draw(st.sampled_from(["zeros", "replicate"]))
            layers.append(
                nn.Conv2d(2, 2, draw(kernels), stride=stride, dilation=dilation, padding=padding, padding_mode=mode)
            )
        elif kind == "relu":
            layers.append(nn.ReLU())
        else:
            make: Any = nn.MaxPool2d if kind == "pool" else nn.AvgPool2d
            kernel, stride = draw(st.integers(2, 3)), draw(st.integers(1, 2))
            layers.append(make(kernel, stride, padding=draw(st.integers(0, 1)), ceil_mode=draw(st.booleans())))
    return unlike_zero(nn.Sequential(*layers))


def test_a_pixel_without_its_padding_is_too_small_for_a_pool_that_it_passes_with_it() -> None:
    chain = unlike_zero(
        nn.Sequential(
            nn.Conv2d(2, 2, 1, padding=(0, 16)), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1, stride=2, padding=(0, 1))
        )
    )
    framed = frame(record(chain, (2, 90, 91)))
    assert framed is not None
    for size in [(2, 1), (2, 2), (3, 9)]:
        check_equal(chain, framed, torch.randn(1, 2, *size, dtype=torch.float64))


@given(chains(), st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_chain_of_windows_can_be_framed(chain: nn.Module, sizes: list[tuple[int, int]]) -> None:
    framed = frame(record(chain, (2, 90, 91)))
    if framed is None:
        return
    for size in sizes:
        image = torch.randn(1, 2, *size, dtype=torch.float64)
        try:
            chain(image)
        except RuntimeError:  # too small for its windows
            continue
        check_equal(chain, framed, image)


@pytest.mark.parametrize("margin", [20, 40])
def test_a_margin_around_the_image_is_framed_like_padding(margin: int) -> None:
    network = unlike_zero(Tapped(1))
    plans = [AxisPlan.derive(outputs(network).along(axis)[::-1], margin=margin + 8 * axis) for axis in (0, 1)]
    framed = frame(record(network), plans)
    assert framed is not None
    for size in [(1, 2), (33, 18)]:
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        check_equal(network, framed, functional.pad(image, (margin + 8, margin + 8, margin, margin)))


@pytest.mark.parametrize("name", ["fcn8s-resnet18", "fcn8s-vgg16-same"])
def test_where_nothing_is_saved_nothing_is_cut(name: str) -> None:
    trunk = cast("FCN", build(name, 2)).trunk
    assert frame(record(trunk)) is None


def test_images_of_many_sizes_share_few_blank_maps() -> None:
    framed = frame(record(unlike_zero(Tapped(100))))
    assert isinstance(framed, Framed)
    with torch.inference_mode():
        for side in range(30, 60):
            framed(torch.randn(1, 3, side, side, dtype=torch.float64))
            framed(torch.randn(1, 3, side, 90 - side, dtype=torch.float64))
    strides = [each.stride for each in framed.frames]
    assert len(framed._blanks) <= min(BLANKS, strides[0] * strides[1])


def test_the_parts_share_the_layers() -> None:
    network = unlike_zero(Tapped(100))
    framed = frame(record(network))
    assert framed is not None
    assert {id(each) for each in framed.parameters()} == {id(each) for each in network.parameters()}


@pytest.mark.skipif(not can_pack(torch.float32), reason="this machine lacks the kernels of the packed network")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_packed_network_is_framed(kind: torch.dtype) -> None:
    if not can_pack(kind):
        pytest.skip("this machine computes no bfloat16")
    torch.manual_seed(0)  # of some random weights bfloat16 leaves less than of others
    network = FCN(Tapped(60), classes=5, skips=2).eval()
    for head in network.heads:
        nn.init.normal_(cast("nn.Conv2d", head).weight)
    packed = pack(network, kind)
    assert isinstance(packed, Framed)
    for size in [(9, 30), (70, 41)]:
        image = torch.randn(2, 3, *size)
        with torch.inference_mode():
            maps = zip(packed(image.to(kind)), network.score_maps(image), strict=True)
            for found, expected in maps:
                apart = float((found.float() - expected).abs().max() / expected.abs().max())
                assert apart < (2e-5 if kind == torch.float32 else 3e-2)
