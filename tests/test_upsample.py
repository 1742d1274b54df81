from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.geometry import AxisMap
from fullyconv.upsample import Border, Upsample, bilinear_taps, lay_over


def caffe_filler(kernel: int) -> list[float]:
    """Caffe's own formula, 1-D."""
    factor = (kernel + 1) // 2  # ceil(k / 2)
    centre = (kernel - 1) / (2.0 * factor)
    return [1 - abs(index / factor - centre) for index in range(kernel)]


@pytest.mark.parametrize("kernel", range(1, 70))
def test_taps_equal_caffes_filler(kernel: int) -> None:
    assert bilinear_taps(kernel).tolist() == pytest.approx(caffe_filler(kernel), abs=1e-12)


@given(st.sampled_from([2, 3, 4, 8, 16, 32]), st.booleans(), st.integers(1, 9), st.integers(1, 9))
def test_fixed_upsampling_is_a_grouped_transposed_convolution(factor: int, odd: bool, h: int, w: int) -> None:
    kernel = 2 * factor - odd
    scores = torch.randn(2, 3, h, w, dtype=torch.float64)
    layer = Upsample(3, kernel=(kernel, kernel), stride=(factor, factor))
    bank = torch.outer(bilinear_taps(kernel), bilinear_taps(kernel)).repeat(3, 1, 1, 1)
    full = functional.conv_transpose2d(scores, bank, stride=factor, groups=3)
    size = (full.shape[2], full.shape[3])
    torch.testing.assert_close(layer(scores, (0, 0), size), full, rtol=0, atol=1e-12)
    cropped = layer(scores, (1, 2), (size[0] - 1, size[1] - 2))
    torch.testing.assert_close(cropped, full[..., 1:, 2:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("kernel", [15, 16])
def test_learned_upsampling_starts_as_fixed(border: str, kernel: int) -> None:
    scores = torch.randn(1, 4, 5, 7)
    fixed = Upsample(4, kernel=(kernel, kernel), stride=(8, 8), border=border)
    learned = Upsample(4, kernel=(kernel, kernel), stride=(8, 8), border=border, learned=True)
    torch.testing.assert_close(fixed(scores, (7, 7), (33, 49)), learned(scores, (7, 7), (33, 49)))
    assert [p.shape for p in learned.parameters()] == [(4, 1, kernel, kernel)]
    assert list(fixed.parameters()) == []


def test_replicated_borders_keep_a_constant_map_constant() -> None:
    layer = Upsample(1, kernel=(15, 15), stride=(8, 8), border="replicate")
    torch.testing.assert_close(layer(torch.ones(1, 1, 3, 4), (-1, -1), (32, 40)), torch.ones(1, 1, 32, 40))


def test_it_equals_interpolate_when_centred_and_replicated() -> None:
    scores = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    layer = Upsample(2, kernel=(8, 8), stride=(4, 4), border="replicate")
    expected = functional.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(scores, (2, 2), (24, 20)), expected)


def test_leaving_the_map_is_an_error() -> None:
    layer = Upsample(1, kernel=(4, 4), stride=(2, 2))
    with pytest.raises(ValueError, match=r"rows 0\.\.7 lie outside"):
        layer(torch.ones(1, 1, 2, 2), (0, 0), (7, 4))
    with pytest.raises(ValueError, match="columns"):
        layer(torch.ones(1, 1, 2, 2), (0, -1), (4, 4))


def test_scores_stay_float32_under_autocast() -> None:
    layer = Upsample(1, kernel=(4, 4), stride=(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 1, 2, 2, dtype=torch.bfloat16), (0, 0), (4, 4)).dtype == torch.float32


def test_laying_over_puts_every_value_where_its_unit_looks() -> None:
    lines = AxisMap(Fraction(4), Fraction(3, 2)), AxisMap(Fraction(3), Fraction(-2))
    rows, columns = (float(line.scale) * torch.arange(6).double() + float(line.shift) for line in lines)
    laid = lay_over(rows[:, None] + 10 * columns, *lines, (20, 12))
    plane = torch.arange(20.0).double()[:, None] + 10 * torch.arange(12.0).double()
    torch.testing.assert_close(laid[2:], plane[2:], rtol=0, atol=1e-10)
    torch.testing.assert_close(laid[0], plane[0] + 1.5, rtol=0, atol=1e-10)  # before the first unit: as there


def test_a_kernel_has_a_tap() -> None:
    assert bilinear_taps(1).tolist() == [1]
    with pytest.raises(ValueError, match="at least one tap, not 0"):
        bilinear_taps(0)


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("learned", [False, True])
def test_multiply_adds_are_those_that_pytorch_counts(border: Border, learned: bool) -> None:
    layer = Upsample(3, kernel=(8, 7), stride=(4, 4), border=border, learned=learned)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 3, 5, 6), (1, 2), (19, 20))
    assert 2 * layer.multiply_adds((5, 6), (19, 20)) == counter.get_total_flops()


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize("learned", [False, True])
def test_crops_go_exactly_as_far_as_the_units_cover(border: Border, learned: bool) -> None:
    layer = Upsample(2, kernel=(4, 7), stride=(2, 4), border=border, learned=learned)
    scores = torch.randn(1, 2, 3, 2)
    full = [layer.full_size(units, axis) for axis, units in enumerate((3, 2))]
    assert full == list(functional.conv_transpose2d(scores, torch.zeros(2, 1, 4, 7), stride=(2, 4), groups=2).shape[2:])
    margin = (2, 4) if border == "replicate" else (0, 0)
    size = full[0] + 2 * margin[0], full[1] + 2 * margin[1]
    widest = layer(scores, (-margin[0], -margin[1]), size)
    assert widest.shape[2:] == size
    for offset, larger, name in (
        ((-margin[0] - 1, 0), (1, 1), "rows"),
        ((0, -margin[1] - 1), (1, 1), "columns"),
        ((-margin[0], 0), (size[0] + 1, 1), "rows"),
        ((0, -margin[1]), (1, size[1] + 1), "columns"),
    ):
        with pytest.raises(ValueError, match=f"{name} .* lie outside the upsampled map"):
            layer(scores, offset, larger)
    # A crop is a part of the whole, wherever it begins.
    crop = layer(scores, (1 - margin[0], 2 - margin[1]), (3, 4))
    torch.testing.assert_close(crop, widest[..., 1:4, 2:6])


def test_the_layer_says_what_it_is() -> None:
    fixed, learned = (Upsample(2, kernel=(4, 4), stride=(2, 2), learned=learned) for learned in (False, True))
    assert repr(fixed) == "Upsample(2, kernel=(4, 4), stride=(2, 2), border=zero, fixed)"
    assert repr(learned).endswith("border=zero, learned)")
    assert not list(fixed.parameters())
    assert [parameter.shape for parameter in learned.parameters()] == [(2, 1, 4, 4)]


def test_double_scores_stay_double() -> None:
    layer = Upsample(1, kernel=(4, 4), stride=(2, 2), learned=True)
    assert layer(torch.ones(1, 1, 2, 2, dtype=torch.float64), (0, 0), (4, 4)).dtype == torch.float64
    assert layer(torch.ones(1, 1, 2, 2, dtype=torch.float16), (0, 0), (4, 4)).dtype == torch.float32


@given(
    st.integers(1, 6), st.fractions(1, 9, max_denominator=3), st.fractions(-9, 9, max_denominator=4), st.integers(1, 30)
)
def test_laying_over_is_numpys_linear_interpolation(units: int, scale: Fraction, shift: Fraction, size: int) -> None:
    values = torch.randn(units, dtype=torch.float64)
    places = [float(scale * unit + shift) for unit in range(units)]
    expected = np.interp(np.arange(size), places, values.numpy())
    line = AxisMap(scale, shift)
    np.testing.assert_allclose(lay_over(values[None], AxisMap(), line, (1, size))[0], expected, atol=1e-12)
    np.testing.assert_allclose(lay_over(values[:, None], line, AxisMap(), (size, 1))[:, 0], expected, atol=1e-12)


def test_what_a_prediction_has_prepared_serves_a_training_too() -> None:
    layer = Upsample(1, kernel=(5, 5), stride=(3, 3))  # a size that no other test prepares
    with torch.inference_mode():
        layer(torch.ones(1, 1, 17, 19, dtype=torch.float64), (1, 1), (41, 43))
    scores = torch.ones(1, 1, 17, 19, dtype=torch.float64, requires_grad=True)
    layer(scores, (1, 1), (41, 43)).sum().backward()
    assert scores.grad is not None
