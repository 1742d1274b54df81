"""Feature pyramids: any size in and out, every unit where its pixels are, tiles equal to the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullyconv import load, save
from fullyconv.geometry import axis_map, size
from fullyconv.networks import build, from_classifier, pyramid_names
from fullyconv.networks.fcn import FCN
from fullyconv.networks.pyramid import Enlarge, Meeting, Pyramid
from fullyconv.networks.trunks import backbone
from fullyconv.networks.trunks.external import build_classifier
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import outputs
from fullyconv.types import Preprocess

EXTERNAL = ("timm:tf_efficientnet_lite0", "torchvision:squeezenet1_1")


def awake(network: FCN) -> FCN:
    torch.manual_seed(0)
    for head in network.heads:
        nn.init.normal_(head.weight)  # type: ignore[arg-type]
    return network.eval()


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("name", [*pyramid_names(), *(f"fpn4s-{trunk}" for trunk in EXTERNAL)])
def test_every_size_is_labelled_and_the_model_comes_back(name: str, tmp_path: Path) -> None:
    network = awake(build(name, 3))
    for height, width in ((1, 1), (33, 47), (64, 31)):
        assert network(torch.zeros(1, 3, height, width)).shape == (1, 3, height, width)
    assert network.plans[0].stages[-1].factor == int(name.partition("s-")[0][3:])
    assert not [remark for remark in network.remarks if remark.kind == "misaligned"]
    save(network, tmp_path / "model")
    image = torch.randn(1, 3, 20, 30)
    with torch.inference_mode():
        torch.testing.assert_close(load(tmp_path / "model").network(image), network(image), rtol=1e-4, atol=1e-4)


class Twice(Trunk):
    """Two maps of one convolution each, with the strides, paddings and kernels that are given."""

    def __init__(self, fine: tuple[int, int, int], coarse: tuple[int, int, int]) -> None:
        super().__init__()
        self.fine, self.coarse = (
            nn.Conv2d(inputs, 2, kernel, stride, pad) for inputs, (kernel, stride, pad) in ((1, fine), (2, coarse))
        )
        self.channels, self.in_channels = (2, 2), 1

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = self.fine(image)
        return first, self.coarse(first)


@settings(max_examples=30)
@given(st.integers(1, 7), st.sampled_from([1, 2, 3]), st.integers(1, 7), st.sampled_from([2, 3, 4]), st.data())
def test_an_enlarged_unit_lies_where_the_coarse_one_looks(
    fine_kernel: int, fine_stride: int, kernel: int, stride: int, data: st.DataObject
) -> None:
    """Of a coarse map with one unit set, the enlarged map's centre of mass is what the unit looks at, in pixels."""
    pads = [data.draw(st.integers(0, (each - 1) // 2)) for each in (fine_kernel, kernel)]
    trunk = Twice((fine_kernel, fine_stride, pads[0]), (kernel, stride, pads[1]))
    fine, coarse = (path[0] for path in outputs(trunk).paths)
    total = fine_stride * stride
    lengths = [total * units for units in range(8, 12)]
    try:
        meeting = Meeting.derive(coarse, fine, lengths)
    except ValueError:
        # Where the two round apart although the length is a multiple, they cannot meet.
        ends = {size(fine, length) - stride * size(coarse, length) for length in lengths}
        assert len(ends) > 1
        return
    enlarge = Enlarge(1, meeting, meeting)
    units = size(coarse, lengths[0])
    unit = units // 2
    map_ = torch.zeros(1, 1, units, units)
    map_[0, 0, unit, unit] = 1
    wide = enlarge(map_)[0, 0]
    assert wide.shape == (size(fine, lengths[0]),) * 2
    line = axis_map(fine)
    places = float(line.shift) + float(line.scale) * np.arange(wide.shape[0])
    centre = float((wide.sum(1).numpy() * places).sum() / wide.sum())
    low = axis_map(coarse)
    expected = float(low.shift + low.scale * unit)
    assert (
        abs(centre - expected) <= float(line.scale) / 2 + 1e-4
    )  # exact, but where the grids lie apart by less than half a unit
    if (low.shift - line.shift) % (line.scale / 2) == 0:
        assert centre == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["fpn8s-resnet18", "fpn16s-vgg16-same"])
def test_tiles_equal_the_whole(name: str) -> None:
    network = awake(build(name, 3)).double()
    rows, _ = network.plans
    pixels = np.random.default_rng(0).integers(0, 256, (700, 96, 3), np.uint8)
    image = torch.from_numpy(Preprocess()(pixels))[None].double()
    with torch.inference_mode():
        whole = network(image)[0]
        cut = 352 + (-352 % rows.stride)
        halo = -(-rows.reach // rows.stride) * rows.stride
        lower = network(image[..., cut - min(halo, cut) :, :])[0][:, min(halo, cut) :]
    inner = slice(0, 700 - cut)
    torch.testing.assert_close(lower[:, inner], whole[:, cut:], atol=1e-9, rtol=1e-9)


def test_gradients_reach_the_trunk_and_stay_in_reach() -> None:
    network = awake(build("fpn8s-resnet18", 2))
    image = torch.randn(1, 3, 640, 8, requires_grad=True)
    network(image)[0, 1, 320, 4].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum((0, 2)).nonzero().flatten()
    reach = network.plans[0].reach
    assert 320 - reach <= int(seen.min()) < 300
    assert 340 < int(seen.max()) <= 320 + reach
    trunk = backbone("resnet18")
    pyramid = Pyramid(trunk, 2, width=8)
    assert len(pyramid.enlarge) == 1
    assert sum(p.numel() for p in pyramid.laterals.parameters()) < 8 * sum(trunk.channels) + 200


def test_a_classifiers_dtype_is_kept() -> None:
    network = from_classifier(build_classifier("torchvision:squeezenet1_1").double(), 2, 8, decoder="fpn")
    assert network(torch.zeros(1, 3, 40, 40, dtype=torch.float64)).dtype == torch.float64
    assert network.architecture is not None
    assert network.architecture.name == "fpn8s-torchvision:squeezenet1_1"
