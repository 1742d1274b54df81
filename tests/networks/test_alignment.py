"""Branches that lie apart: maps are aligned where their response is centred."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from fullyconv import FCN, convolutionize, from_classifier
from fullyconv.geometry import AxisMap, Window, axis_map, crop_offset
from fullyconv.networks.alignment import AxisPlan
from fullyconv.networks.inspection import inspect
from fullyconv.networks.trunks.external import build_classifier


class Apart(nn.Module):
    """A strided convolution centred on every second unit beside an average of two, half a unit further: ResNet-D."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main, self.short = nn.Conv2d(channels, channels, 3, 2, 1), nn.AvgPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.short(x)


def classifier(stages: int) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Apart(4) for _ in range(stages)]
    return nn.Sequential(nn.Conv2d(3, 4, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def centroid(fcn: FCN, tap: int, side: int = 320) -> float:
    """Measure, in pixels, how far from where a map is taken to lie its middle row of units responds on average."""
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = fcn.trunk(image)[-1 - tap]
    line, unit = fcn.plans[0].lines[tap], features.shape[2] // 2
    found = []
    for seed in range(6):
        weights = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(seed))
        unit_response = (features[0, :, unit, features.shape[3] // 2] * weights).sum()
        (gradient,) = torch.autograd.grad(unit_response, image, retain_graph=True)
        energy = gradient[0].square().sum((0, 2))
        found.append(float((energy * torch.arange(side)).sum() / energy.sum()))
    return sum(found) / len(found) - float(line.scale * unit + line.shift) - fcn.plans[0].margin


def test_a_map_of_two_branches_lies_in_their_middle() -> None:
    fcn = from_classifier(classifier(1), 2, 2, example=(3, 64, 64))
    (line,) = fcn.plans[0].lines
    window = axis_map(fcn.plans[0].taps[0])
    assert window.shift == -fcn.plans[0].margin
    assert line.shift - window.shift in (0, Fraction(1, 2))  # a quarter of a pixel, as far as the grid allows
    dense = convolutionize(classifier(1), (3, 64, 64))
    assert (dense.rows.shift, dense.rows.field) == (Fraction(1, 4), Fraction(7, 2))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_response_is_centred_where_the_map_is_taken_to_lie(stages: int) -> None:
    fcn = from_classifier(classifier(stages), 2, 2**stages, example=(3, 64, 64))
    assert abs(centroid(fcn, 0)) < 2**stages / 4
    said = [str(remark) for remark in fcn.remarks if remark.kind == "misaligned"]
    assert len(said) == stages
    assert "alignment takes the middle of all" in said[0]


def test_grids_meet_and_every_pixel_sees_what_it_saw_before() -> None:
    fcn = from_classifier(classifier(3), 2, 2, example=(3, 64, 64)).eval()
    for head in fcn.heads:
        nn.init.normal_(head.weight)
    for plan in fcn.plans:
        target = AxisMap()
        for line, stage in zip(reversed(plan.lines), reversed(plan.stages), strict=True):
            steps = (line.shift - target.shift) / (target.scale / 2)
            assert steps.denominator == 1
            assert stage.factor == line.scale / target.scale
            target = line
    place = fcn.plans[0].reach + 20
    image = torch.rand(1, 3, 2 * place, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(fcn(image)[0, :, place].square().sum(), image)
    touched = gradient[0].abs().amax((0, 2)).nonzero()[:, 0]
    assert place - fcn.plans[0].reach <= touched.min()
    assert touched.max() <= place + fcn.plans[0].reach
    windows = fcn.plans[0].windows(2 * place)
    assert windows[place][0] <= touched.min()
    assert touched.max() <= windows[place][1]
    assert inspect(fcn).alignment.taps[0].lines[0] == fcn.plans[0].lines[0]


def test_maps_without_drift_lie_where_their_windows_do() -> None:
    paths = [(Window(3, 2, 1), Window(3, 2, 1)), (Window(3, 2, 1),)]
    plan = AxisPlan.derive(paths)
    assert plan.lines == tuple(map(axis_map, paths))
    moved = AxisPlan.derive(paths, [Fraction(3, 4), Fraction(0)])
    assert [line.shift for line in moved.lines] == [1, 0]  # the nearest half step of the finer grid
    assert crop_offset(moved.output, AxisMap()) == 0 or moved.output.scale == 1


# Anti-aliased, with average pools beside strided convolutions, split attention, maps of several strides side by side.
NETS = (
    "resnet18d", "resnet26d", "resnest14d", "seresnext26d_32x4d", "resnetaa34d", "ecaresnet26t", "resnetblur18",
    "hrnet_w18_small", "dla34", "dla46_c",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_timms_branches_respond_within_half_a_stride(name: str) -> None:
    """With random weights and the batch statistics of pictures, so that no branch drowns another by its scale."""
    torch.manual_seed(0)
    net = build_classifier(f"timm:{name}")
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.ones_(layer.weight)  # timm starts some at zero, which would leave shortcuts alone
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 224, 224))
    fcn = from_classifier(net.eval(), 2, 8)
    for tap, line in enumerate(fcn.plans[0].lines):
        assert abs(centroid(fcn, tap)) < line.scale / 2, (tap, line)
