"""The prepared network gives the labels of the network itself, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import FCN, ClassSet, Preprocess, Segmenter, build, from_classifier
from fullyconv.machine import evaluating
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.trunks.resnet import ResNet18
from fullyconv.predict.engines import PyTorchEngine, Snapshot
from fullyconv.predict.onednn import PackedConvolution
from fullyconv.predict.packed import pack
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace.operations import row_of
from fullyconv.trace.positions import Given

RNG = np.random.default_rng(0)
CLOSE = 1e-4  # of the largest score: two scores nearer than that may change places


def lively(network: FCN) -> FCN:
    """Give a network scores, and its normalisations statistics, that a wrong fold would show."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)
    for head in (head for bank in network.score_layers.values() for head in bank):
        nn.init.normal_(head.weight, std=head.in_channels**-0.5)
        nn.init.normal_(head.bias)
    return network.eval()


def slim(name: str) -> FCN:
    """Build a network on VGG-16 without its 4096 channels, which say nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fullyconv.networks.trunks.vgg.HIDDEN", 16)
        return build(name)


NETWORKS: dict[str, Callable[[], FCN]] = {
    **{name: lambda name=name: build(name, 5) for name in ("fcn8s-resnet18", "fcn32s-googlenet", "fcn4s-lenet")},
    **{
        name: lambda name=name: slim(name)
        for name in ("fcn8s-vgg16-same", "voc-fcn8s", "voc-fcn8s-atonce", "voc-fcn8s-learned", "voc-fcn8s-max",
                     "siftflow-fcn16s", "nyud-fcn32s-color-hha")
    },
    "late fusion": lambda: LateFusion(ResNet18(), ResNet18(), classes=4, skips=2),
    "two heads": lambda: ManyHeads(FCN(ResNet18(), classes=4, skips=1), {"geometric": 3}),
    "replicate": lambda: FCN(ResNet18(), classes=4, skips=2, border="replicate", cover=True),
    **{
        name: lambda name=name: from_classifier(name, 3, 8)
        for name in ("torchvision:mobilenet_v2", "torchvision:densenet121", "timm:resnet26d",
                     "timm:mobilenetv3_small_050", "timm:efficientnet_lite0")
    },
}  # fmt: skip
QUICK = ["fcn8s-resnet18", "fcn4s-lenet", "late fusion", "two heads", "replicate", "timm:mobilenetv3_small_050"]


@cache
def network(name: str) -> FCN:
    return lively(NETWORKS[name]())


def preprocess(channels: int) -> Preprocess:
    return Preprocess(
        mean=tuple(110.0 + 3 * index for index in range(max(3, channels))),
        std=tuple(50.0 + 2 * index for index in range(max(3, channels))),
        order="BGR",
    )


def picture(net: FCN, height: int, width: int) -> np.ndarray:
    pixels = RNG.integers(0, 256, (height, width, net.in_channels)).astype(np.uint8)
    return pixels if net.in_channels == 3 else pixels.astype(np.float32)


def expected_scores(net: FCN, pixels: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    with evaluating(net):
        scores = net(torch.from_numpy(prepare(pixels))[None])
    return (scores[0] if isinstance(scores, tuple) else scores)[0]


def same_labels(labels: np.ndarray, scores: Tensor) -> None:
    """Check that labels are the largest scores', but where two are equal within rounding."""
    chosen = scores.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    lost = scores.amax(0) - chosen
    assert float(lost.max()) <= CLOSE * float(scores.abs().max())
    assert float((lost > 0).float().mean()) < 0.01


def check(net: FCN, height: int, width: int) -> None:
    channels = net.in_channels
    height, width = max(height, net.smallest_input[0]), max(width, net.smallest_input[1])
    pixels = picture(net, height, width)
    if channels >= 3:
        engine, prepare = PyTorchEngine(net, preprocess(channels)), preprocess(channels)
    else:
        engine, prepare = PyTorchEngine(net, None), lambda image: np.ascontiguousarray(image.transpose(2, 0, 1))
    assert engine.packed is not None
    with torch.inference_mode():
        maps = engine.score_maps(pixels[None])
        first = maps[: len(maps) // len(net.ladders)]  # of several tasks
        found = net.upsampled(net.fused(first), (height, width))[0]
    scores = expected_scores(net, pixels, prepare)
    torch.testing.assert_close(found, scores, rtol=0, atol=2e-5 * float(scores.abs().max()))
    same_labels(found.argmax(0).numpy(), scores)


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_networks_score_as_the_network_does(name: str) -> None:
    check(network(name), 1, 1)
    check(network(name), 45, 70)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(QUICK), st.integers(1, 120), st.integers(1, 120))
def test_packed_networks_score_as_the_network_does_at_every_size(name: str, height: int, width: int) -> None:
    check(network(name), height, width)


@pytest.mark.parametrize("name", ["fcn8s-resnet18", "fcn8s-vgg16-same", "timm:mobilenetv3_small_050"])
def test_bfloat16_differs_by_its_rounding(name: str) -> None:
    net = network(name)
    pixels = picture(net, 50, 60)
    with torch.inference_mode():
        short, full = (
            PyTorchEngine(net, Preprocess(), kind).score_maps(pixels[None]) for kind in ("bfloat16", "float32")
        )
    for one, other in zip(short, full, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).abs().mean()) < 0.02 * float(other.abs().mean())


class Odd(Trunk):
    """What a careless rewriting would break: results that are shared, changed in place, or added to themselves."""

    channels = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(wide, 8, 3, padding=1) for wide in (3, 8, 8, 8, 8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(5))
        self.bare = nn.BatchNorm2d(8, affine=False)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, (2, 4), padding="same")
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.norms[0](self.convs[0](image))
        shared = first * 1  # kept, and then changed in place below
        branch = self.convs[1](shared)
        functional.relu_(shared)
        second = self.norms[1](branch) + shared  # the convolution must have read it before
        twice = self.convs[2](second)
        twice = twice + twice
        third = self.convs[3](second)
        third += twice  # in place, of a result of its own
        again = functional.silu(self.convs[3](third) - third)  # the same layer once more
        kept = self.convs[4](again)
        fine = functional.leaky_relu(self.bare(kept), 0.2) + kept
        coarse = self.pool(self.same(self.wide(fine)).clamp(-1, 1).add(fine, alpha=0.5))
        return fine, functional.hardswish(self.norms[2](self.convs[2](coarse)) + self.norms[3](coarse))


def test_odd_networks_score_as_they_do() -> None:
    net = lively(FCN(Odd(), classes=3, skips=1, border="replicate", cover=True))
    for size in ((1, 1), (8, 9), (31, 16)):
        check(net, *size)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.75), nn.LeakyReLU(0.3), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(),
        nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"),
    ],
    ids=str,
)  # fmt: skip
def test_activations_behind_a_convolution(layer: nn.Module, kind: torch.dtype) -> None:
    row = row_of(layer)
    assert row is not None
    assert row.fused is not None
    conv, image = nn.Conv2d(8, 16, 3, padding=1), torch.randn(2, 8, 9, 7)
    with torch.inference_mode():
        packed = PackedConvolution(conv, conv.weight, conv.bias, kind, row.fused(Given((), {}, layer)))
        found, expected = packed(image), layer(conv(image))
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5 if kind == torch.float32 else 0.02)


def test_convolutions_behind_a_padding_by_size_are_packed() -> None:
    network = lively(build("fpn4s-lite0", 3))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        packed = pack(network, torch.bfloat16)
        if packed is None:
            pytest.skip("this machine has no packed convolutions")
        expected, found = network.scored(image)[-1], packed(image)[-1]
    kinds = [type(layer) for layer in packed.modules()]
    assert kinds.count(PackedConvolution) == 58
    assert nn.BatchNorm2d not in kinds
    assert float((found.float() - expected).std()) < 0.03 * float(expected.std())


class Deciding(Trunk):
    """Does something else for odd heights, which no recording at one size knows."""

    channels = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.conv(image) if image.shape[2] % 2 == 0 else self.other(image),)


def test_a_network_that_decides_by_the_size_runs_as_it_is() -> None:
    net = lively(FCN(Deciding(), classes=3, skips=0))
    engine = PyTorchEngine(net, Preprocess())
    assert engine.packed is None
    for height in (8, 9):
        pixels = picture(net, height, 8)
        found = engine.score_maps(pixels[None])[0][0]
        torch.testing.assert_close(found, expected_scores(net, pixels, Preprocess()), rtol=0, atol=1e-5)


def test_hooks_see_every_layer() -> None:
    net = lively(build("fcn8s-resnet18", 3))
    seen: list[tuple[int, ...]] = []
    net.trunk.stem[1].register_forward_hook(lambda *given: seen.append(tuple(given[2].shape)))
    model = Segmenter(net, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), device="cpu")
    model.predict(picture(net, 32, 64))
    assert seen == [(1, 64, 16, 32)]


def test_float64_networks_keep_their_arithmetic() -> None:
    net = lively(build("fcn8s-resnet18", 3)).double()
    model = Segmenter(net, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), device="cpu", engine="pytorch")
    pixels = picture(net, 20, 30)
    with evaluating(net):
        expected = net(torch.from_numpy(Preprocess()(pixels)).double()[None])[0]
    same_labels(model.predict(pixels).labels, expected)


@pytest.mark.parametrize(("choice", "words"), [({"engine": "tensorrt"}, "engine is"), ({"precision": "fp8"}, "fp8")])
def test_choices_that_are_not_there_are_refused(choice: dict[str, str], words: str) -> None:
    net = network("fcn8s-resnet18")
    with pytest.raises(ValueError, match=words):
        Segmenter(net, classes=ClassSet(tuple("abcde")), preprocess=Preprocess(), **choice).predict(picture(net, 8, 8))


def _scaled(tensor: Tensor) -> None:
    tensor.data.mul_(2)


def _turned(tensor: Tensor) -> None:
    tensor.data = tensor.data.transpose(0, 1)


def _shorter(tensor: Tensor) -> None:
    tensor.data = tensor.data[:1]


def _exchanged(tensor: Tensor) -> None:
    tensor.data = tensor.data.clone()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128])
@pytest.mark.parametrize("change", [_scaled, _turned, _shorter, _exchanged])
def test_changes_of_data_that_pytorch_does_not_count_are_noticed(
    change: Callable[[Tensor], None], kind: torch.dtype
) -> None:
    layer = nn.Module()
    layer.register_buffer("table", torch.arange(1, 36 * 36 + 1).reshape(36, 36).to(kind))
    layer.register_buffer("empty", torch.empty(0, 3))
    before = Snapshot(layer)
    assert before.holds(layer)
    count = layer.table._version
    change(layer.table)
    assert layer.table._version == count
    assert not before.holds(layer)


def test_numbers_that_equal_nothing_are_no_change() -> None:
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer.weight.data.fill_(float("nan"))
    assert Snapshot(layer).holds(layer)


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.add_module("more", nn.Identity()),
        lambda network: setattr(network, "0", nn.Conv2d(3, 4, 1)),
        lambda network: network[1].add_module("inner", nn.Identity()),
        lambda network: network[0].register_parameter("bias", None),
        lambda network: network[0].register_buffer("more", torch.zeros(1)),
        lambda network: network[0].weight.detach().zero_(),
    ],
)
def test_changes_of_modules_and_tensors_are_noticed(change: Callable[[nn.Module], object]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    before = Snapshot(network)
    assert before.holds(network)
    assert not before.holds(nn.Sequential(*network))
    change(network)
    assert not before.holds(network)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_every_scaling_of_a_tensor_is_noticed_whatever_its_layout(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    table = nn.Module()
    table.register_buffer("numbers", torch.rand(2 * columns, 3 * rows).t()[::3, ::2] + 0.5)
    before = Snapshot(table)
    table.numbers.data.mul_(1.5)
    assert not before.holds(table)


def test_a_segmenter_follows_weights_that_are_set_by_way_of_their_data() -> None:
    network = lively(build("fcn8s-resnet18", 4)).eval()
    segmenter = Segmenter(network, classes=ClassSet(tuple("abcd")), preprocess=Preprocess(), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)
    before = segmenter.predict(pixels).labels
    for head in network.heads:
        head.weight.data.neg_()
    assert (before != segmenter.predict(pixels).labels).mean() > 0.5
