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
from fullyconv.networks.alignment import AxisPlan

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
    assert Window(kernel, stride, pad, ceil_mode=True).size(length) == expected


@given(st.integers(1, 4), st.integers(1, 3), st.integers(-2, 3), st.integers(-2, 3), st.integers(6, 30))
def test_uneven_and_negative_paddings_equal_pytorchs(kernel: int, stride: int, pad: int, after: int, n: int) -> None:
    layer = Window(kernel, stride, pad, pad_end=after)
    padded = nn.functional.pad(torch.arange(1.0, n + 1)[None, None], (pad, after))
    if padded.shape[2] < kernel:  # too much was cut off
        assert layer.size(n) < 1
        return
    windows = padded.unfold(2, kernel, stride)[0, 0]
    assert layer.size(n) == len(windows)
    for unit, window in enumerate(windows.tolist()):
        first, last = layer.seen(unit, unit)
        assert window == [place + 1 if 0 <= place < n else 0 for place in range(first, last + 1)]
    ends = layer.seen(0, 0)[0], layer.seen(len(windows) - 1, len(windows) - 1)[1]
    assert layer.seen(0, len(windows) - 1) == ends


def test_padding_by_reflection_needs_something_to_reflect() -> None:
    reflection = Window(1, pad=3, pad_end=2, least=4)
    assert [reflection.size(units) for units in (0, 3, 4)] == [0, 0, 9]


def test_layers_are_plain_unless_said_otherwise() -> None:
    assert Window(3) == Window(3, 1, 0, 1, False, None, 1)
    assert Spread(3) == Spread(3, 1, 0)
    assert axis_map([]) == AxisMap() == AxisMap(Fraction(1), Fraction(0), Fraction(1))
    assert size([], 7) == 7
    assert seen((), 2, 5) == (2, 5)


@given(st.lists(windows, max_size=3), st.lists(windows, max_size=3))
def test_lines_compose_and_reach_to_both_ends_of_the_field(path: list[Window], deeper: list[Window]) -> None:
    line = axis_map(path).then(axis_map(deeper))
    assert line == axis_map(path + deeper)
    first, last = seen(tuple(path + deeper), 5, 5)
    centre = line.scale * 5 + line.shift
    assert (centre - line.reach, centre + line.reach) == (first, last)


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


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(3, 8))
def test_transposed_convolution_sees_what_back_propagation_finds(
    kernel_extra: int, stride: int, pad: int, units: int
) -> None:
    kernel = stride + kernel_extra
    layer = Spread(kernel, stride, pad)
    assume(layer.size(units) > 0)
    conv = nn.ConvTranspose1d(1, 1, kernel, stride, pad, bias=False)
    nn.init.ones_(conv.weight)
    line = layer.axis_map()
    centres = []
    for output in range(layer.size(units)):
        x = torch.zeros(1, 1, units, requires_grad=True)
        y = conv(x)
        assert y.shape[2] == layer.size(units)
        y[0, 0, output].backward()
        assert x.grad is not None
        touched = x.grad[0, 0].nonzero().flatten()
        first, last = layer.seen(output, output)
        assert (int(touched.min()), int(touched.max())) == (max(first, 0), min(last, units - 1))
        centre = line.scale * output + line.shift
        assert last - centre <= line.reach
        assert centre - first <= line.reach
        centres.append(centre - Fraction(first + last, 2))
    # The bound holds for every phase and is reached by one; over a whole stride the centre is that of what is seen.
    reaches = [
        max(layer.seen(output, output)[1] - line.scale * output - line.shift, line.scale * output + line.shift - first)
        for output in range(stride)
        for first in (layer.seen(output, output)[0],)
    ]
    assert max(reaches) == line.reach
    assert len(centres) < stride or sum(centres[:stride]) == 0


@given(st.integers(1, 9), st.fractions(-20, 20, max_denominator=4), st.integers(-40, 40))
def test_a_crop_puts_units_on_each_other(scale: int, shift: Fraction, offset: int) -> None:
    source = AxisMap(Fraction(scale), shift)
    reference = AxisMap(Fraction(scale), shift + scale * offset)
    assert crop_offset(source, reference) == offset
    assert crop_offset(reference, source) == -offset
    with pytest.raises(ValueError, match="1/3 units apart"):
        crop_offset(source, AxisMap(Fraction(scale), shift + Fraction(scale, 3)))


@given(st.sampled_from([2, 3, 4, 8, 32]), st.integers(1, 4), st.fractions(-9, 9, max_denominator=2), st.data())
def test_the_bilinear_kernel_puts_upsampled_units_on_the_grid(
    factor: int, fine: int, shift: Fraction, data: st.DataObject
) -> None:
    taps = data.draw(st.sampled_from([2 * factor, 2 * factor - 1]))
    coarse = AxisMap(Fraction(fine * factor), shift)
    upsampled = coarse.then(Spread(taps, factor).axis_map())
    target = AxisMap(Fraction(fine), upsampled.shift + fine * data.draw(st.integers(-5, 5)))
    assert bilinear_kernel_size(factor, coarse, target) == taps


@given(st.integers(1, 30), st.integers(1, 9), st.sets(st.integers(1, 29)))
def test_the_smallest_input_is_the_first_of_a_whole_period(start: int, period: int, gaps: set[int]) -> None:
    def fits(length: int) -> bool:
        return length >= start or length not in gaps

    expected = max((gap for gap in gaps if gap < start), default=0) + 1
    expected = next(n for n in range(1, expected + 1) if all(fits(length) for length in range(n, n + period)))
    assert smallest_input(fits, period=period, bound=expected) == expected
    if expected > 1:
        with pytest.raises(ValueError, match=f"up to {expected - 1} fits"):
            smallest_input(fits, period=period, bound=expected - 1)


def test_grids_that_never_meet_are_an_error() -> None:
    with pytest.raises(ValueError, match="1/2 units apart"):
        crop_offset(AxisMap(shift=Fraction(1, 2)), AxisMap())
    with pytest.raises(ValueError, match="upsample the coarser"):
        crop_offset(AxisMap(scale=Fraction(2)), AxisMap())
    with pytest.raises(ValueError, match="no kernel of factor 2"):
        bilinear_kernel_size(2, AxisMap(Fraction(2), Fraction(1, 3)), AxisMap())
