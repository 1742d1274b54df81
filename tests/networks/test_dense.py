from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.networks import build, from_classifier
from fullyconv.networks.dense import ScoreMap, shift_and_stitch, shifted, to_atrous
from fullyconv.networks.fcn import FCN
from fullyconv.networks.trunks.resnet import Residual
from fullyconv.networks.trunks.vgg import VGG16
from fullyconv.trace import outputs


def whole(net: nn.Module) -> nn.Module:
    """Give a network small whole weights: sums of whole numbers are exact in float64, whatever their order."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter.data = torch.randint(-1, 2, parameter.shape, generator=generator).double()
    return net.double().eval()


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-9, 10, (1, channels, height, width), generator=generator).double()


def slim_vgg(image_pad: int, fc6_pad: int) -> nn.Module:
    """VGG-16's layers, strides and paddings, two channels wide."""
    with torch.device("meta"):
        net = FCN(VGG16(image_pad=image_pad, fc6_pad=fc6_pad), classes=2, skips=0)
    first = True
    for name, conv in [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]:
        net.get_submodule(name.rpartition(".")[0]).register_module(
            name.rpartition(".")[2], nn.Conv2d(3 if first else 2, 2, conv.kernel_size, padding=conv.padding)
        )
        first = False
    return net


def alexnet_like() -> nn.Module:
    """CaffeNet's strides, paddings, groups and ceil-mode pools, and strided convolution, few channels wide."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 11, stride=4, padding=30), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(4, 4, 5, padding=2, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(4, 2, 2),
    )  # fmt: skip


def resnet_like() -> nn.Module:
    """ResNet-18's stem, padded pool and strided shortcuts, two channels wide."""
    net = nn.Sequential(
        nn.Conv2d(3, 2, 7, 2, padding=3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        Residual(2, 2, 1), Residual(2, 3, 2), Residual(3, 2, 2), Residual(2, 2, 2), nn.Conv2d(2, 2, 1),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # so that whole numbers stay whole
            nn.init.ones_(module.weight)
    return net


@pytest.mark.parametrize(
    ("name", "size"),
    [("vgg", (3, 2)), ("vgg", (34, 1)), ("vgg-same", (33, 3)), ("alexnet", (30, 41)), ("resnet", (35, 6))],
)
def test_shift_and_stitch_equals_a_trous_exactly_and_extends_the_strided_network(
    name: str, size: tuple[int, int]
) -> None:
    # Fact sheet, statement 4; exact to the last row and column, padding and partial windows included.
    make = {
        "vgg": lambda: slim_vgg(100, 0),
        "vgg-same": lambda: slim_vgg(1, 3),
        "alexnet": alexnet_like,
        "resnet": resnet_like,
    }
    net, stride = whole(make[name]()), 16 if name == "alexnet" else 32
    strided = ScoreMap(net) if isinstance(net, FCN) else net
    with torch.no_grad():
        image = picture(*size)
        coarse, dense = strided(image), to_atrous(net)(image)
        assert torch.equal(shift_and_stitch(net, image), dense)
        assert torch.equal(dense[..., ::stride, ::stride], coarse)
    assert coarse.abs().max() > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 40), st.integers(20, 40))
def test_without_inner_padding_it_is_the_network_on_every_crop(seed: int, height: int, width: int) -> None:
    # Fact sheet, statement 4: crops that start at (dy, dx), results at (dy + f*i, dx + f*j).
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(3, 3, (3, 2), stride=(2, 3)), nn.Conv2d(3, 2, 2)
    ).double()
    image = torch.randn(1, 2, height, width, dtype=torch.float64)
    with torch.no_grad():
        dense = to_atrous(net)(image)
        oracle = torch.full_like(dense, torch.nan)
        for dy in range(4):
            for dx in range(6):
                oracle[..., dy::4, dx::6] = net(image[..., dy:, dx:])
    torch.testing.assert_close(dense, oracle, rtol=0, atol=1e-12)
    torch.testing.assert_close(shift_and_stitch(net, image), oracle, rtol=0, atol=1e-12)


def test_outer_padding_is_padding_the_image_first() -> None:
    # Fact sheet, statement 4: pad the image first, then shift.
    net = whole(
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=7), nn.MaxPool2d(2, 2), nn.Conv2d(2, 2, 3), nn.MaxPool2d(2, 2))
    )
    bare = nn.Sequential(nn.Conv2d(3, 2, 3), *list(net)[1:]).double()
    bare[0].load_state_dict(net[0].state_dict())
    image = picture(15, 18)
    padded = functional.pad(image, (7, 7, 7, 7))
    with torch.no_grad():
        dense = shift_and_stitch(net, image)
        for dy in range(4):
            for dx in range(4):
                assert torch.equal(dense[..., dy::4, dx::4], bare(padded[..., dy:, dx:]))


def test_rarefied_filters_are_the_papers() -> None:
    # Fact sheet, statement 4: f'_ij = f_{i/s,j/s} if s divides both, else 0.
    net = nn.Sequential(nn.MaxPool2d(3, 3), nn.Conv2d(1, 1, 3, bias=False)).double()
    rare = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    rare[..., ::3, ::3] = net[1].weight.detach()
    image = picture(20, 21, channels=1)
    expected = functional.conv2d(functional.max_pool2d(image, 3, 1), rare)
    with torch.no_grad():
        torch.testing.assert_close(to_atrous(net)(image), expected, rtol=0, atol=1e-12)


def test_the_dilations_of_vgg_are_the_papers() -> None:
    # Fact sheet, statement 4.
    with torch.device("meta"):
        layers = dict(to_atrous(build("fcn32s-vgg16")).named_modules())
    dilation = {
        name.rpartition(".")[2]: (layer.dilation, layer.stride)
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    }
    spread = {name: _first(value) for name, (value, _) in dilation.items()}
    assert all(_first(stride) == 1 for _, stride in dilation.values())
    for block, expected in enumerate((1, 2, 4, 8, 16), start=1):
        assert spread[f"conv{block}_1"] == expected
    pools = [layer for layer in layers.values() if isinstance(layer, nn.MaxPool2d)]
    assert [_first(pool.dilation) for pool in pools] == [1, 2, 4, 8, 16]
    assert _first(layers["trunk.fc6"].dilation) == 32


def _first(value: int | tuple[int, int]) -> int:
    return value if isinstance(value, int) else value[0]


def test_the_model_keeps_its_strides_and_mode_and_shares_its_weights() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Dropout(0.5), nn.Conv2d(1, 1, 3, padding=1)).train()
    image = torch.randn(1, 1, 9, 9)
    atrous = to_atrous(net)
    first, second = shift_and_stitch(net, image), shift_and_stitch(net, image)
    assert torch.equal(first, second)
    assert net[0].stride == (2, 2)
    assert net[2].padding == (1, 1)
    assert net.training
    assert net[1].training
    torch.testing.assert_close(atrous.eval()(image), first)
    assert net[1].training
    assert {p.data_ptr() for p in atrous.parameters()} == {p.data_ptr() for p in net.parameters()}


def test_a_layer_used_twice_gets_two_dilations() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    net, image = whole(Twice()), picture(9, 10, channels=2)
    with torch.no_grad():
        assert torch.equal(shift_and_stitch(net, image), to_atrous(net)(image))
        assert torch.equal(to_atrous(net)(image)[..., ::4, ::4], net(image))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Excited(nn.Module):
    """Squeeze-and-excitation, written as torchvision and timm do."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv, self.linear = form, nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        if self.form == "conv":
            return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()
        pooled = functional.adaptive_avg_pool2d(x, 1).view(n, c)
        return x + self.linear(pooled).tanh().view(n, c, 1, 1).expand_as(x)


def residual(step: Callable[[Tensor], Tensor]) -> nn.Module:
    return Apply(lambda x: functional.conv2d(x, torch.ones(4, 4, 3, 3).to(x), stride=2, padding=1) + step(x))


def channels_last(x: Tensor) -> Tensor:
    y = functional.layer_norm(x.permute(0, 2, 3, 1), (4,))[:, 1:, ::2]
    return functional.pad(y, (0, 0, 1, 0), value=2.0).permute(0, 3, 1, 2)


STEPS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, groups=4),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "same": lambda: nn.Conv2d(4, 4, (2, 4), padding="same"),
    "reflecting": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="reflect"),
    "replicating": lambda: nn.Sequential(nn.ReplicationPad2d((1, 0, 2, 1)), nn.MaxPool2d(3, 2)),
    "function": lambda: Apply(lambda x: functional.conv2d(x, torch.ones(4, 2, 3, 2).to(x), None, (1, 2), 1, 1, 2)),
    "max": lambda: nn.MaxPool2d(3, 2, padding=1),
    "max, ceil": lambda: nn.MaxPool2d(2, 2, padding=1, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(2, 2),
    "average, padded": lambda: nn.AvgPool2d(3, 2, padding=1),
    "average, ceil": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "average, ceil, padded": lambda: Apply(lambda x: functional.avg_pool2d(x, 3, 2, 1, True)),
    "average, divided": lambda: Apply(lambda x: functional.avg_pool2d(x, 2, divisor_override=2)),
    "shortcut": lambda: residual(lambda x: x[:, :, ::2, ::2]),
    "shortcut, pooled": lambda: residual(lambda x: functional.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "padded channels": lambda: residual(lambda x: functional.pad(x[:, :2, ::2, ::2], (0, 0, 0, 0, 1, 1))),
    "branches": lambda: Apply(
        lambda x: torch.cat([x[..., 1:, :].narrow(1, 0, 2), functional.max_pool2d(x.chunk(2, 1)[0], (2, 1), 1)], 1)
    ),
    "crop": lambda: Apply(lambda x: x[..., 1:-1, 2:]),
    "channels last": lambda: Apply(channels_last),
    "squeeze": lambda: Excited("conv"),
    "squeeze, linear": lambda: Excited("linear"),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: Apply(functional.instance_norm),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3), st.integers(23, 31), st.integers(23, 31))
def test_every_trunk_that_is_followed_has_both_forms_and_they_agree(names: list[str], height: int, width: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 2), *(STEPS[name]() for name in names), nn.Conv2d(4, 4, 3, padding=1))
    net = net.double().eval()
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        dense, coarse = to_atrous(net)(image), net(image)
        down, across = (round(stride) for stride in outputs(net).strides)
        torch.testing.assert_close(dense[..., ::down, ::across], coarse, rtol=0, atol=1e-10)
        torch.testing.assert_close(shift_and_stitch(net, image), dense, rtol=0, atol=1e-10)
    assert coarse.std() > 0


def test_branches_that_differ_by_a_unit_at_some_shifts_are_cut_to_the_shorter() -> None:
    torch.manual_seed(0)
    branches = residual(lambda x: functional.max_pool2d(x, 2))  # n units each for 2 n, but n + 1 and n for 2 n + 1
    net = (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), branches, nn.Conv2d(4, 4, 3, stride=2, padding=1)).double().eval()
    )
    image = torch.randn(1, 3, 24, 28, dtype=torch.float64)
    with torch.no_grad():
        dense = to_atrous(net)(image)
        torch.testing.assert_close(dense[..., ::4, ::4], net(image), rtol=0, atol=1e-10)
        torch.testing.assert_close(shift_and_stitch(net, image), dense, rtol=0, atol=1e-10)
    assert dense.shape[2:] == (23, 27)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:densenet121", "torchvision:mobilenet_v2", "torchvision:resnet18", "torchvision:squeezenet1_1",
        "torchvision:shufflenet_v2_x0_5", "torchvision:efficientnet_b0", "timm:resnet18d", "timm:convnext_atto",
        "timm:dla34", "timm:regnety_002", "timm:resnetblur18", "timm:ghostnet_050",
    ],
)  # fmt: skip
@pytest.mark.slow
def test_trunks_of_classifiers_have_both_forms(name: str) -> None:
    torch.manual_seed(0)
    net = from_classifier(name, classes=2, stride=16 if "squeezenet" in name else 32).double().eval()
    stride = round(outputs(net.trunk).strides[0])
    for parameter in net.parameters():
        parameter.data = (
            torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0) / parameter[0].numel() ** 0.5
        )
    image = torch.randn(1, 3, 70, 65, dtype=torch.float64)
    with torch.no_grad():
        dense = to_atrous(net)(image)
        assert dense.std() > 0
        for dy, dx in [(0, 0), (3, 5), (31, 18)]:
            part = dense[..., dy % stride :: stride, dx % stride :: stride]
            torch.testing.assert_close(
                shifted(net, image, (dy % stride, dx % stride)), part, rtol=1e-8, atol=1e-8 * float(part.abs().max())
            )


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (nn.Upsample(scale_factor=2), r"1 \(Upsample\): has no form without strides: enlarges a map$"),
        (nn.PixelUnshuffle(2), r"1 \(PixelUnshuffle\): has no form without strides: no dense form of this operation"),
        (Apply(lambda x: x * x.flatten(2).mean(2)[..., None, None]), r"1 \(mean\): has no form without strides: sees"),
    ],
)
def test_what_has_no_dense_form_is_refused_by_name(step: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_atrous(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), step))


def test_networks_and_images_that_do_not_fit_are_refused() -> None:
    image = torch.zeros(1, 1, 5, 5)
    with pytest.raises(ValueError, match="several maps"):
        shift_and_stitch(build("fcn32s-resnet18").trunk, image)
    with pytest.raises(ValueError, match="too small"):
        shift_and_stitch(nn.Conv2d(1, 1, 7), image)
    with pytest.raises(ValueError, match="opposite border"):
        to_atrous(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2, 2),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d((2, 3), (1, 2), ceil_mode=True),
        nn.AvgPool2d(3, 2, padding=1, divisor_override=5),
        nn.AvgPool2d(9, 1, padding=4),  # large: along one axis after the other
        nn.AvgPool2d(9, 1, padding=4, count_include_pad=False),
    ],
    ids=str,
)
def test_average_pools_of_every_kind_have_both_forms(pool: nn.AvgPool2d, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.MaxPool2d(2, 2), pool).to(dtype).eval()
    image = torch.randn(2, 3, 37, 42, dtype=dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_atrous(net)(image), shift_and_stitch(net, image))
