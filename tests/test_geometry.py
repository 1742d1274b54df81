from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from fullyconv.geometry import (
    AxisMap,
    Spread,
    Window,
    axis_map,
    bilinear_kernel_size,
    crop_offset,
    seen,
    size,
    smallest_input,
)
from fullyconv.networks import build
from fullyconv.networks.fcn import AxisPlan

windows = st.builds(
    Window,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    dilation=st.integers(1, 2),
)


def caffenet_path(pad: int) -> tuple[Window, ...]:
    """CaffeNet to fc6, from the fact sheet's table."""
    return (
        Window(11, 4, pad), Window(3, 2, ceil_mode=True), Window(5, 1, 2), Window(3, 2, ceil_mode=True),
        Window(3, 1, 1), Window(3, 1, 1), Window(3, 1, 1), Window(3, 2, ceil_mode=True), Window(6),
    )  # fmt: skip


def vgg_path(image_pad: int, fc6_pad: int, *, ceil_mode: bool = True) -> tuple[Window, ...]:
    path: list[Window] = []
    for convs in (2, 2, 3, 3, 3):
        path += [Window(3, 1, 1)] * convs + [Window(2, 2, ceil_mode=ceil_mode)]
    path[0] = Window(3, 1, image_pad)
    return (*path, Window(7, 1, fc6_pad))


@pytest.mark.parametrize(
    ("name", "offsets", "kernels"),
    [
        ("fcn32s-vgg16", [19], [64]),
        ("fcn16s-vgg16", [5, 27], [4, 32]),
        ("fcn8s-vgg16", [5, 9, 31], [4, 4, 16]),
        ("fcn32s-vgg16-same", [16], [64]),
        ("fcn16s-vgg16-same", [1, 8], [4, 32]),
        ("fcn8s-vgg16-same", [1, 1, 4], [4, 4, 16]),
    ],
)
def test_reference_crops_follow_from_the_network(name: str, offsets: list[int], kernels: list[int]) -> None:
    with torch.device("meta"):
        network = build(name)
    for plan in network.plans:
        assert [abs(stage.offset) for stage in plan.stages] == offsets
        assert [stage.kernel for stage in plan.stages] == kernels


def test_the_reference_crops_the_skip_map_and_same_padding_the_upsampled_one() -> None:
    with torch.device("meta"):
        reference, same = build("fcn8s-vgg16"), build("fcn8s-vgg16-same")
    assert [stage.offset < 0 for stage in reference.plans[0].stages] == [True, True, False]
    assert [stage.offset > 0 for stage in same.plans[0].stages] == [True, True, True]


def test_alexnet_needs_an_odd_kernel_and_offset_18() -> None:
    plan = AxisPlan.derive([caffenet_path(100)])
    (stage,) = plan.stages
    assert (stage.kernel, stage.offset) == (63, 18)
    assert axis_map(caffenet_path(0)).field == 355


def test_receptive_fields_of_the_reference() -> None:
    line = axis_map(vgg_path(100, 0))
    assert (line.field, line.scale, line.shift) == (404, 32, Fraction(25, 2))


@pytest.mark.parametrize(("stage_crop", "pad_part"), [(1, 81), (2, 73), (3, 69)])
def test_final_offset_grows_with_the_image_padding(stage_crop: int, pad_part: int) -> None:
    for pad in (100, 120):
        path = vgg_path(pad, 0)
        pools = [index for index, layer in enumerate(path) if layer.stride == 2]
        taps = [path, path[: pools[3] + 1], path[: pools[2] + 1]][:stage_crop]
        assert AxisPlan.derive(taps).stages[-1].offset == pad - pad_part


@pytest.mark.parametrize(("pad", "fc6_pad", "smallest"), [(100, 0, 1), (97, 0, 1), (1, 0, 193), (1, 3, 1)])
def test_smallest_input_of_vgg(pad: int, fc6_pad: int, smallest: int) -> None:
    path = vgg_path(pad, fc6_pad)
    assert smallest_input(lambda n: size(path, n) > 0, period=32, bound=1000) == smallest


def test_floor_pooling_needs_224_pixels() -> None:
    path = vgg_path(1, 0, ceil_mode=False)
    assert smallest_input(lambda n: size(path, n) > 0, period=32, bound=1000) == 224


def test_an_impossible_network_has_no_smallest_input() -> None:
    with pytest.raises(ValueError, match="no input length"):
        smallest_input(lambda n: False, period=8, bound=100)


@given(st.lists(windows, min_size=1, max_size=4), st.integers(1, 60))
def test_sizes_equal_pytorchs(path: list[Window], length: int) -> None:
    x = torch.zeros(1, 1, length)
    expected = 0
    for layer in path:
        conv = nn.Conv1d(1, 1, layer.kernel, layer.stride, layer.pad, layer.dilation)
        if x.shape[2] + 2 * layer.pad < layer.extent:
            break
        x = conv(x)
        expected = x.shape[2]
    else:
        assert size(path, length) == expected
        return
    assert size(path, length) == 0


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 40))
def test_ceil_pooling_sizes_equal_pytorchs(kernel: int, stride: int, pad: int, length: int) -> None:
    assume(pad <= kernel // 2 and length + 2 * pad >= kernel)
    expected = nn.MaxPool1d(kernel, stride, pad, ceil_mode=True)(torch.zeros(1, 1, length)).shape[2]
    layer = Window(kernel, stride, pad, ceil_mode=True)
    if stride <= kernel:  # Caffe keeps an empty last window otherwise, PyTorch does not
        assert layer.size(length) == expected


@given(st.lists(windows, min_size=1, max_size=4), st.data())
def test_field_and_centre_equal_what_back_propagation_finds(path: list[Window], data: st.DataObject) -> None:
    length = 150
    count = size(path, length)
    assume(count > 2)
    unit = data.draw(st.integers(0, count - 1))
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in path:
        conv = nn.Conv1d(1, 1, layer.kernel, layer.stride, layer.pad, layer.dilation, bias=False).double()
        nn.init.ones_(conv.weight)
        y = conv(y)
    y[0, 0, unit].backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero().flatten()
    first, last = seen(tuple(path), unit, unit)
    line = axis_map(path)
    assert last - first + 1 == line.field
    assert Fraction(first + last, 2) == line.scale * unit + line.shift
    assume(first >= 0 and last < length)
    assert (int(touched.min()), int(touched.max())) == (first, last)


@given(st.integers(1, 5), st.integers(2, 4), st.integers(3, 8))
def test_transposed_convolution_sees_what_back_propagation_finds(kernel_extra: int, stride: int, units: int) -> None:
    kernel = stride + kernel_extra
    layer = Spread(kernel, stride)
    conv = nn.ConvTranspose1d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(conv.weight)
    for output in range(layer.size(units)):
        x = torch.zeros(1, 1, units, requires_grad=True)
        y = conv(x)
        assert y.shape[2] == layer.size(units)
        y[0, 0, output].backward()
        assert x.grad is not None
        touched = x.grad[0, 0].nonzero().flatten()
        first, last = layer.seen(output, output)
        assert (int(touched.min()), int(touched.max())) == (max(first, 0), min(last, units - 1))
        line = layer.axis_map()
        centre = line.scale * output + line.shift
        assert last - centre <= line.reach
        assert centre - first <= line.reach


def test_grids_that_never_meet_are_an_error() -> None:
    with pytest.raises(ValueError, match="1/2 units apart"):
        crop_offset(AxisMap(shift=Fraction(1, 2)), AxisMap())
    with pytest.raises(ValueError, match="upsample the coarser"):
        crop_offset(AxisMap(scale=Fraction(2)), AxisMap())
    with pytest.raises(ValueError, match="no bilinear kernel"):
        bilinear_kernel_size(2, AxisMap(Fraction(2), Fraction(1, 3)), AxisMap())
