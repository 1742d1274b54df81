from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.networks import build, from_classifier
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.inspection import Inspection, LayerFacts, inspect
from fullyconv.networks.trunks.external import build_classifier
from fullyconv.networks.trunks.resnet import ResNet18
from fullyconv.surgery.convolutionize import convolutionize


class Standardised(nn.Conv2d):
    """A convolution that computes its weights from its parameters, as several networks have it."""

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(features, weight, self.bias, self.stride, self.padding)


def miniature() -> nn.Sequential:
    twice = nn.Conv2d(8, 8, 1, bias=False)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, (5, 3), (2, 1), (0, 1)),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2),
            wise=nn.Conv2d(8, 8, 3, dilation=2, groups=8),
            standard=Standardised(8, 8, 3, padding=1),
            once=twice,
            again=twice,
            up=nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2),
            mean=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            score=nn.Linear(4, 10),
        )
    )


def named(found: Inspection) -> dict[str, LayerFacts]:
    return {layer.path: layer for layer in found.layers}


def test_parameters_and_multiply_adds_are_those_by_hand() -> None:
    found = inspect(miniature(), size=(37, 24))
    layers = named(found)
    counts = [(layer.path, layer.parameters, layer.multiply_adds) for layer in found.layers if layer.multiply_adds]
    # Maps: 17 x 24 after conv, 8 x 12 after pool, 4 x 8 after wise, 8 x 16 after up.
    assert counts == [
        ("conv", 8 * 3 * 15 + 8, 8 * 17 * 24 * 3 * 15),
        ("wise", 8 * 9 + 8, 8 * 4 * 8 * 9),
        ("standard", 8 * 8 * 9 + 8, 8 * 4 * 8 * 8 * 9),
        ("again", 64, 8 * 4 * 8 * 8),  # the last of the names that one module has
        ("again", 0, 8 * 4 * 8 * 8),
        ("up", 8 * 2 * 16 + 4, 8 * 4 * 8 * 2 * 16),
        ("score", 50, 40),
    ]
    assert layers["standard"].size == (4, 8)
    assert layers["up"].size == (8, 16)
    assert layers["score"].size is None
    assert layers["score"].channels == 10


def test_shared_parameters_count_once() -> None:
    net = miniature()
    found = inspect(net, size=(37, 24))
    assert sum(layer.parameters for layer in found.layers) == sum(each.numel() for each in net.parameters())


def test_what_moves_no_window_is_pointwise() -> None:
    pointwise = {layer.path for layer in inspect(miniature(), size=(37, 24)).layers if layer.pointwise}
    assert {"norm", "relu", "flat"} <= pointwise
    assert not pointwise & {"conv", "pool", "wise", "standard", "again", "up", "mean", "score"}


def agrees_with_pytorch(network: nn.Module, size: tuple[int, int]) -> None:
    found = inspect(network.eval(), size=size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, found.picture[0], *size))
    assert 2 * found.multiply_adds == counter.get_total_flops()


@pytest.mark.parametrize(
    "network",
    [
        miniature(),
        build("fcn8s-resnet18"),
        build("fcn8s-resnet18", upsampling="learned"),
        build("fcn4s-lenet"),
        ManyHeads(FCN(ResNet18(), classes=5, skips=2), {"geometric": 3}),
        LateFusion(ResNet18(), ResNet18(), classes=4, skips=1),
    ],
    ids=["miniature", "fixed", "learned", "lenet", "two heads", "late fusion"],
)
def test_multiply_adds_are_half_the_operations_that_pytorch_counts(network: nn.Module) -> None:
    agrees_with_pytorch(network, (49, 67))


def test_heads_that_slide_are_counted_window_by_window() -> None:
    class Direction(nn.Module):
        """What no convolution does: divide a whole flattened map by its length."""

        def forward(self, x: Tensor) -> Tensor:
            return functional.normalize(x.flatten(1))

    layers = nn.Linear(8 * 6 * 6, 7), nn.ReLU(), nn.Linear(7, 5)
    dense = convolutionize(nn.Sequential(nn.Conv2d(3, 8, 3, 2), Direction(), *layers).eval(), (3, 13, 13))
    for size in ((13, 13), (17, 21)):
        agrees_with_pytorch(dense, size)
    found = {layer.kind: layer for layer in inspect(dense, size=(17, 21)).layers}
    assert found["SlidingHead"].size == (3, 5)
    assert found["SlidingHead"].multiply_adds == 3 * 5 * (8 * 6 * 6 * 7 + 7 * 5)


def external(name: str) -> nn.Module:
    try:
        return build_classifier(name)
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", ["timm:convnext_atto", "timm:tf_mobilenetv3_small_minimal_100"])
def test_classifiers_from_elsewhere_are_counted_in_every_form(name: str) -> None:
    network = external(name)
    agrees_with_pytorch(network, (224, 224))
    agrees_with_pytorch(convolutionize(network), (65, 80))
    agrees_with_pytorch(from_classifier(network, origin="any:name"), (33, 50))


def seen(network: nn.Module, layer: nn.Module, unit: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Give the first and last pixel along rows and columns that change a unit, by gradients."""
    made: list[Tensor] = []
    hook = layer.register_forward_hook(lambda *given: made.append(given[2]))
    image = torch.rand(1, 3, *size, requires_grad=True)
    network(image)
    hook.remove()
    (gradient,) = torch.autograd.grad(made[0][0, :, unit[0], unit[1]].sum(), image)
    touched = gradient[0].abs().amax(0) > 0
    lines = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    return [(int(line[0]), int(line[-1])) for line in lines]


def positive(network: nn.Module) -> nn.Module:
    """Let every weight let something through."""
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    return network.eval()


def check_fields(network: nn.Module, layers: list[str], unit: tuple[int, int], size: tuple[int, int]) -> None:
    found = named(inspect(network, size=size))
    for path in layers:
        lines = found[path].lines
        assert lines is not None
        for line, at, (first, last) in zip(
            lines, unit, seen(network, network.get_submodule(path), unit, size), strict=True
        ):
            assert (first + last) / 2 == line.scale * at + line.shift, path
            assert last - first + 1 == line.field, path


def test_fields_and_centres_are_those_of_the_gradients() -> None:
    net = positive(miniature())
    assert isinstance(net, nn.Sequential)
    net.standard = nn.Conv2d(8, 8, 3, padding=1)  # standardised weights cannot all be positive
    check_fields(positive(net), ["conv", "pool", "wise", "standard", "again"], (4, 3), (60, 40))


def test_fields_and_centres_in_a_segmentation_network_are_those_of_the_gradients() -> None:
    net = build("fcn8s-resnet18", classes=2)
    assert isinstance(net.trunk, ResNet18)
    net.trunk.pool = nn.AvgPool2d(3, 2, 1)  # the maximum comes from one unit alone
    check_fields(positive(net), ["trunk.stem.0", "trunk.pool", "trunk.stage1.1.conv2", "heads.2"], (14, 16), (224, 256))


def test_the_ladder_ends_on_the_image() -> None:
    net = build("fcn8s-resnet18", classes=4)
    found = inspect(net, size=(49, 67))
    last = named(found)["upsamplers.2"]
    assert last.size == (49, 67)
    assert last.lines is not None
    for line, plan in zip(last.lines, net.plans, strict=True):
        assert (line.scale, line.shift) == (1, 0)
        assert line.field == plan.output.field
    assert found.alignment is not None
    assert found.alignment.plans == net.plans
    assert [tap.channels for tap in found.alignment.taps] == [512, 256, 128]
    assert [tap.lines[0].scale for tap in found.alignment.taps] == [32, 16, 8]


def test_a_margin_moves_the_first_centre() -> None:
    net = from_classifier(
        nn.Sequential(nn.Conv2d(3, 4, 9, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), 3, 4
    )
    assert isinstance(net, FCN)
    margin = net.plans[0].margin
    assert margin > 0
    found = inspect(net, size=(20, 30))
    first = found.layers[0].lines
    assert first is not None
    assert first[0].shift == 4 - margin
    assert found.alignment is not None
    assert found.alignment.taps[0].lines == first


def test_zeros_before_a_picture_that_is_too_small_are_not_part_of_it() -> None:
    dense = convolutionize(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2)), (3, 8, 8))
    found = inspect(dense, size=(4, 9))
    lines = found.layers[0].lines
    assert lines is not None
    assert [float(line.shift) for line in lines] == [1.5, 3.5]
    assert found.layers[0].size == (1, 2)


def test_everything_fits_into_json() -> None:
    document = json.loads(json.dumps(inspect(build("fcn8s-resnet18"), size=(32, 48)).document()))
    assert document["picture"] == [3, 32, 48]
    assert document["layers"][0]["looks"]["rows"] == {"stride": 2, "first_centre": 0, "field": 7}
    assert document["alignment"]["rows"]["stages"][-1] == {"factor": 8, "kernel": 15, "offset": 7}


def test_sizes_a_network_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match="does not go through the network"):
        inspect(nn.Sequential(nn.Conv2d(3, 4, 9)), size=(5, 5))
