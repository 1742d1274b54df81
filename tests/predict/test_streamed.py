"""Pictures in bands of rows give exactly what one pass gives."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import ClassSet, Preprocess, Segmenter, build, from_classifier
from fullyconv.networks.fcn import FCN
from fullyconv.predict.bands import Layout, flow_through
from fullyconv.predict.packed import Scored, recorded_scores
from fullyconv.predict.streamed import NotStreamed, stream
from fullyconv.trace import NotFollowed, record


class Function(nn.Module):
    """A function as a network, so that hypothesis may put one behind another."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


class Branches(nn.Module):
    """Two branches of different windows that meet."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], stride: int) -> None:
        super().__init__()
        self.join = join
        self.deep = nn.Sequential(nn.Conv2d(2, 2, 5, padding=2, stride=stride), nn.Conv2d(2, 2, 3, padding=1))
        self.short = nn.Conv2d(2, 2, 1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        return self.join(self.deep(features), self.short(features))


class Twice(nn.Module):
    """Two windows that pad the same map with other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        largest = functional.max_pool2d(features, 3, 1, 1)
        mirrored = functional.pad(features, (0, 0, 2, 1), mode="reflect")[:, :, 2:-1]
        return self.conv(features) + largest + functional.avg_pool2d(features, 3, 1, 1) + mirrored


def _shuffled(features: Tensor) -> Tensor:
    pictures, channels, height, width = features.shape
    return features.view(pictures, 2, channels // 2, height, width).transpose(1, 2).reshape(features.shape)


def _refined(features: Tensor) -> Tensor:
    return functional.interpolate(functional.avg_pool2d(features, 2), scale_factor=2, mode="nearest") + features


STEPS: dict[str, Callable[[], nn.Module]] = {
    "3x3": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "valid": lambda: nn.Conv2d(2, 2, (4, 3)),
    "stride": lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1),
    "1x1 stride": lambda: nn.Conv2d(2, 2, 1, stride=3),
    "dilated": lambda: nn.Conv2d(2, 2, 3, padding=4, dilation=4, groups=2),
    "wide pad": lambda: nn.Conv2d(2, 2, 3, padding=9),
    "same": lambda: nn.Conv2d(2, 2, (4, 2), padding="same"),
    "reflect": lambda: nn.Conv2d(2, 2, 5, padding=2, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"),
    "max": lambda: nn.MaxPool2d(3, 2, padding=1),
    "ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "ceil pad": lambda: nn.MaxPool2d(2, 2, padding=1, ceil_mode=True),
    "mean": lambda: nn.AvgPool2d(2),
    "mean ceil": lambda: nn.AvgPool2d(3, 2, ceil_mode=True),
    "mean pad": lambda: nn.AvgPool2d(3, 1, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1),
    "transposed 3": lambda: nn.ConvTranspose2d(2, 2, 5, stride=3, groups=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": lambda: nn.Upsample(scale_factor=3, mode="bicubic"),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "shuffle": lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2)),
    "unshuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 2, 1)),
    "zero pad": lambda: nn.ZeroPad2d((1, 2, 3, 0)),
    "border": lambda: Function(lambda x: functional.pad(x, (1, 1, 2, 1), mode="replicate")),
    "cut": lambda: Function(lambda x: functional.pad(x, (-1, 0, -3, -2))),
    "mirror": lambda: Function(lambda x: functional.pad(x, (1, 0, 3, 5), mode="reflect")),
    "twice": Twice,
    "counted": lambda: Function(_shuffled),
    "enlarged and cut": lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 3, stride=2), nn.ZeroPad2d((0, -1, 0, -1))),
    "residual": lambda: nn.Sequential(*(Branches(lambda a, b: functional.relu_(a + b), 1) for _ in range(3))),
    "slice": lambda: Function(lambda x: x[:, :, 1:-2, 1:]),
    "every other": lambda: Function(lambda x: x[..., ::2, ::2]),
    "sum": lambda: Branches(torch.add, 1),
    "cat": lambda: nn.Sequential(Branches(lambda a, b: torch.cat([a, b], 1), 2), nn.Conv2d(4, 2, 1)),
    "channels": lambda: Function(lambda x: x[:, [1, 0]] if False else torch.cat([x[:, 1:], x[:, :1]], 1)),
    "last": lambda: Function(lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (2,)).permute(0, 3, 1, 2)),
    "batch": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True)),
}


@settings(max_examples=120, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    more=st.integers(0, 70),
    width=st.integers(40, 60),
    rows=st.integers(1, 90),
    seed=st.integers(0, 9),
)
def test_whatever_operations_follow_each_other(names: list[str], more: int, width: int, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(*(STEPS[name]() for name in names)).double().eval()
    try:
        streamed = stream(record(network, (2, 108, 108)))
    except NotFollowed:
        return  # too small a picture for that many strides, or not divided by a shuffle
    picture = torch.randn(1, 2, streamed.first + 2 * rows + more, width, dtype=torch.float64)
    with torch.no_grad():
        try:
            wanted = network(picture)
        except RuntimeError:
            return  # too small a picture for that many strides
        (found,) = streamed.run(picture, rows)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Function(lambda x: x * x.mean((2, 3), keepdim=True)), "sees the whole picture"),
        (lambda: nn.GroupNorm(1, 2), "sees the whole picture"),
        (lambda: nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), "inside the picture alone"),
    ],
)
def test_what_needs_the_whole_picture_is_refused_by_name(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(NotStreamed, match=reason):
        stream(record(nn.Sequential(nn.Conv2d(2, 2, 3), make()), (2, 32, 32)))


def _network(name: str) -> FCN:
    torch.manual_seed(0)
    network = build(name, 3) if ":" not in name else from_classifier(name, 3, 8)
    for layer in network.score_layers["heads"]:
        nn.init.normal_(layer.weight)
    return network.eval()


NETWORKS = ["fcn8s-resnet18", "fpn8s-resnet18", "fcn4s-lenet", "fcn1s-spectral2"]
HEAVY = ["voc-fcn8s", "fcn16s-vgg16-same", "fcn32s-googlenet", "fcn32s-caffenet", "fpn4s-lite0"]
CONVERTED = ["timm:resnet50d", "timm:convnext_atto", "torchvision:densenet121", "timm:hrnet_w18_small"]


@pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in (*HEAVY, *CONVERTED))]
)
def test_every_kind_of_network_gives_the_scores_of_one_pass(name: str) -> None:
    network = _network(name)
    streamed = stream(recorded_scores(network))
    sides = streamed.first + 2 * streamed.align + 7, max(network.smallest_input[1], 37)
    with torch.inference_mode():
        padded = network.padded(torch.randn(1, network.in_channels, *sides))
        for found, wanted in zip(streamed.run(padded, 1), network.scored(padded), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labels_in_bands_and_strips_are_those_of_one_pass(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network("fcn8s-resnet18")
    model = Segmenter(
        network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), precision=precision, engine="pytorch"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (330, 580, 3), np.uint8)
    whole = model.predict(pixels, probabilities=True)
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1)
    monkeypatch.setattr("fullyconv.predict.bands.HEIGHTS", (1,))
    model.memory = 1
    found = model.predict(pixels, probabilities=True)
    if precision == "float32":
        np.testing.assert_array_equal(found.labels, whole.labels)
    assert (found.labels == whole.labels).mean() > 0.999
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-3 if precision == "float32" else 0.05)


def test_a_part_has_the_maps_of_a_picture_of_its_size() -> None:
    network = _network("fcn8s-resnet18")
    model = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), engine="pytorch")
    bands = model.prepared().bands
    assert bands is not None
    pixels = np.random.default_rng(0).integers(0, 256, (700, 64, 3), np.uint8)
    for tile, maps in flow_through(bands, network, pixels, np.asarray, Layout(128, 256, 32, 64)):
        assert [each.shape[2:] for each in maps] == [
            each.shape[2:] for each in network.score_maps(torch.zeros(1, 3, tile.rows.stop - tile.rows.start, 64))
        ]


def test_a_layout_fits_unless_the_reach_asks_for_more() -> None:
    network, bands = _network("fcn8s-resnet18"), SimpleNamespace(align=32, first=224)

    @given(width=st.integers(32, 60_000), area=st.integers(1, 5_000_000))
    @settings(max_examples=50, deadline=None)
    def check(width: int, area: int) -> None:
        found = Layout.choose(bands, network, width, area=area)
        assert (found.rows % 32, found.first, found.least) == (0, 224, 32)
        assert found.columns == width or found.columns % 32 == 0
        wide = width if found.columns == width else found.columns + 2 * 256
        if max(found.first, found.rows + found.least) * min(wide, width) > area:
            assert found.columns <= 256
        if width * (1024 + 32) <= area:
            assert (found.rows, found.columns) == (1024, width)

    check()


def test_the_recording_is_left_as_it_was() -> None:
    recorded = record(Scored(_network("fcn8s-resnet18")))
    before = str(recorded.graph)
    stream(recorded)
    assert str(recorded.graph) == before
