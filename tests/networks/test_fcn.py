"""The contract of every network that ``build`` knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fullyconv.geometry import axis_map
from fullyconv.networks import Architecture, build, from_classifier, generic_names, rebuild
from fullyconv.networks.classifier import Classifier
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.trunks.resnet import ResNet18
from fullyconv.networks.trunks.vgg import VGG16
from fullyconv.upsample import Upsample

SIZES = [(1, 1), (7, 500), (31, 33), (97, 131), (500, 375)]
SMALL = [name for name in generic_names() if "resnet18" in name]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@lru_cache(maxsize=1)
def network(name: str) -> FCN:
    torch.manual_seed(0)
    return wake(build(name, classes=3)).eval()


def wake(net: FCN) -> FCN:
    for head in net.heads:
        nn.init.normal_(head.weight)
    return net


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("name", generic_names())
def test_any_size_in_same_size_out(name: str) -> None:
    sizes = SIZES if name in SMALL or name.startswith("fcn8s") else SIZES[:3]
    net = network(name)
    for height, width in sizes:
        if height < net.smallest_input[0] or width < net.smallest_input[1]:
            with pytest.raises(ValueError, match="too small for this network"):
                net(torch.randn(1, net.in_channels, height, width))
        else:
            assert net(torch.randn(1, net.in_channels, height, width)).shape == (1, 3, height, width)


@settings(max_examples=15)
@given(st.sampled_from(SMALL), st.integers(1, 260), st.integers(1, 260))
def test_random_sizes(name: str, height: int, width: int) -> None:
    assert network(name)(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize("name", generic_names())
def test_every_length_fits_by_arithmetic(name: str) -> None:
    with torch.device("meta"):
        net = build(name)
    for plan, smallest in {*zip(net.plans, net.smallest_input, strict=True)}:  # most have one for both axes
        # What fits repeats with the stride: lengths beyond the field of view, the largest is 404, show nothing new.
        assert all(plan.fits(length, net.border) for length in range(smallest, 600))


@pytest.mark.parametrize("name", generic_names())
def test_new_networks_score_zero_everywhere(name: str) -> None:
    if "vgg" in name:
        with torch.device("meta"):
            net = build(name)
        assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
        return
    net = build(name, classes=4).eval()
    assert not net(torch.randn(1, net.in_channels, 40, 50)).any()
    assert all(weight.any() for key, weight in net.trunk.named_parameters() if key.endswith("conv1.weight"))


# Fact sheet, section 1.5: learnable parameters with 21 classes.
PARAMETERS = {
    f"fcn{variant}s-vgg16{form}": count
    for variant, count in ((32, 134_346_581), (16, 134_357_354), (8, 134_362_751))
    for form in ("", "-same")
}


def blob(height: int, width: int, y: int, x: int) -> Tensor:
    image = torch.zeros(1, 3, height, width, dtype=torch.float64)
    image[..., y, x] = 1
    return image


def linear(net: FCN) -> FCN:
    """Make a network linear and positive, so that a bright pixel's response shows where it is seen."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    replace(net, nn.MaxPool2d, lambda pool: nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, ceil_mode=True))
    return net.double().eval()


def replace(module: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, make(child))
        else:
            replace(child, kind, make)


@pytest.mark.usefixtures("narrow_vgg")  # all weights of a layer are one number: few channels see what many do
@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn32s-vgg16-same", "fcn8s-vgg16-same", "fcn8s-resnet18"])
def test_responses_are_centred_on_their_cause(name: str) -> None:
    net = linear(build(name, classes=1))
    line, centre = axis_map(net.plans[0].taps[0]), 320
    # A pixel's response depends on where it falls on the coarsest grid; over pixels mirrored about
    # a unit's centre the responses are mirror images, so their sum is centred exactly.
    total = torch.zeros(641, dtype=torch.float64)
    for pixel in (0, 5, 11):
        for phase in (pixel, int(2 * line.shift - pixel) % int(line.scale)):
            total += torch.roll(net(blob(641, 3, centre + phase, 1))[0, 0, :, 1], -phase)
    offsets = torch.arange(641) - centre
    assert total.sum() > 0
    assert abs(float((total * offsets).sum() / total.sum())) < 1e-6


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("name", ["fcn32s-vgg16-same", "fcn8s-vgg16-same", "fcn8s-resnet18", "fcn16s-resnet18"])
def test_nothing_beyond_the_reach_matters_and_something_near_it_does(name: str) -> None:
    net = linear(build(name, classes=1))
    reach, stride = net.plans[0].reach, net.plans[0].stride
    seen = torch.zeros(961, dtype=torch.bool)
    for phase in range(0, stride, 5):
        response = net(blob(961, 33, 480 + phase, 16))[0, 0, :, 16]
        seen |= torch.roll(response.abs() > 0, -phase)
    furthest = (seen.nonzero().flatten() - 480).abs().max().item()
    assert reach - stride <= furthest <= reach


@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn8s-resnet18"])
def test_learned_upsampling_is_one_kernel_per_class_and_starts_bilinear(name: str) -> None:
    if name in SMALL:
        torch.manual_seed(0)
        fixed, learned = wake(build(name, 3)).eval(), build(name, 3, upsampling="learned").eval()
        learned.load_state_dict(fixed.state_dict(), strict=False)
        image = torch.randn(1, 3, 70, 45)
        torch.testing.assert_close(learned(image), fixed(image), rtol=1e-4, atol=1e-5)
    with torch.device("meta"):
        learned = build(name, 3, upsampling="learned")
    ups = [module for module in learned.modules() if isinstance(module, Upsample)]
    assert [p.shape[:2] for up in ups for p in up.parameters()] == [(3, 1)] * 3
    assert all(p.requires_grad for up in ups for p in up.parameters())


def test_unknown_names_and_bad_arguments_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="fcn8s-resnet18"):
        build("fcn8s-resnet")
    with pytest.raises(ValueError, match="at least one class"):
        build("fcn8s-resnet18", 0)
    with pytest.raises(ValueError, match="'fixed' or 'learned'"):
        build("fcn8s-resnet18", upsampling="cubic")


@pytest.mark.parametrize("classes", [0, -3, True, False, 2.0, 2.5, float("nan"), "2", [2]])
@pytest.mark.parametrize("name", ["fcn8s-resnet18", "fcn8s-timm:resnet18", "voc-fcn8s", "siftflow-fcn16s", "lenet"])
def test_a_network_of_no_or_odd_numbers_of_classes_is_refused_at_every_door(name: str, classes: Any) -> None:
    with pytest.raises(ValueError, match="at least one class, a whole number of them"):
        build(name, classes)


@pytest.mark.parametrize("classes", [0, -1, True, 1.0])
def test_the_doors_below_build_refuse_them_too(classes: Any) -> None:
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    doors: list[Callable[[], object]] = [
        lambda: from_classifier(classifier, classes, 2),
        lambda: from_classifier(classifier, classes=classes, stride=2, example=(3, 32, 32)),
        lambda: FCN(ResNet18(), classes=classes, skips=0),
        lambda: ManyHeads(FCN(ResNet18(), classes=2, skips=0), {"geometric": classes}),
        lambda: LateFusion(ResNet18(), ResNet18(), classes=classes, skips=0),
        lambda: Classifier(ResNet18(), classes=classes),
        lambda: Architecture("fcn8s-resnet18", classes),
        lambda: rebuild(Architecture("fcn8s-resnet18", classes)),
    ]
    for door in doors:
        with pytest.raises(ValueError, match="at least one class"):
            door()


def test_numbers_of_numpy_count_classes() -> None:
    network = build("fcn32s-resnet18", np.int64(3))
    assert (network.classes, type(network.classes)) == (3, int)


@pytest.mark.parametrize("name", ["fcn8s-resnet18", "siftflow-fcn16s", "nyud-fcn32s-color-hha"])
def test_streams_score_layers_and_ladders_are_all_there_is(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 3)
    parts = {**network.streams, **network.score_layers, **network.ladders}
    assert dict(network.named_children()) == parts


class Padded(nn.Module):
    """A stride-2 trunk whose output covers the image only when enough padding surrounds it."""

    channels = (2,)

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 9, 2, padding=pad)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.conv(x),)


def test_a_trunk_that_never_covers_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no input length"):
        FCN(Padded(0), classes=2, skips=0)


def test_too_small_an_image_is_told_how_small_it_may_be() -> None:
    with torch.device("meta"):
        net = FCN(VGG16(image_pad=81), classes=1, skips=0)
        assert net.smallest_input == (33, 33)
        with pytest.raises(ValueError, match="32 x 50 is too small for this network, which needs 33 x 33"):
            net(torch.zeros(1, 3, 32, 50))
