from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fullyconv.surgery import conv_to_linear, conv_to_matrix, expand_inputs, linear_to_conv, replace_layer


def test_fc6_of_vgg16_has_102760448_weights_in_both_forms() -> None:
    # Fact sheet, statement 1.
    with torch.device("meta"):
        linear = nn.Linear(512 * 7 * 7, 4096)
        conv = linear_to_conv(linear, (7, 7))
        back = conv_to_linear(conv)
    assert linear.weight.numel() == conv.weight.numel() == back.weight.numel() == 102_760_448
    assert conv.weight.shape == (4096, 512, 7, 7)
    assert back.weight.shape == linear.weight.shape
    assert sum(p.numel() for p in conv.parameters()) == 102_764_544


def test_other_fully_connected_layers_have_the_papers_counts() -> None:
    # Fact sheet, statement 1: CaffeNet's fc6, and fc7 as a 1 x 1 convolution.
    with torch.device("meta"):
        fc6, fc7 = nn.Linear(256 * 36, 4096), nn.Linear(4096, 4096)
        assert linear_to_conv(fc6, (6, 6)).weight.numel() == 37_748_736
        assert sum(p.numel() for p in linear_to_conv(fc7, (1, 1)).parameters()) == 16_781_312


@pytest.mark.parametrize("window", [(7, 7), (3, 5), (1, 1)])
def test_conv_form_equals_linear_form_on_every_crop(window: tuple[int, int]) -> None:
    # Fact sheet, statement 1.
    torch.manual_seed(0)
    h, w = window
    linear = nn.Linear(6 * h * w, 4).double()
    features = torch.randn(2, 6, h + 2, w + 3, dtype=torch.float64)
    scores = linear_to_conv(linear, window)(features)
    assert scores.shape == (2, 4, 3, 4)
    for i in range(3):
        for j in range(4):
            crop = features[..., i : i + h, j : j + w]
            torch.testing.assert_close(scores[..., i, j], linear(crop.flatten(1)), rtol=0, atol=1e-13)


def test_linear_to_conv_and_back_gives_the_same_layer_but_not_the_same_memory() -> None:
    linear = nn.Linear(2 * 3 * 5, 4)
    conv = linear_to_conv(linear, (3, 5))
    back = conv_to_linear(conv)
    assert torch.equal(back.weight, linear.weight)
    assert torch.equal(back.bias, linear.bias)
    assert back.weight.data_ptr() != conv.weight.data_ptr() != linear.weight.data_ptr()
    assert linear_to_conv(nn.Linear(6, 2, bias=False), (1, 1)).bias is None


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=30, deadline=None)
@given(SHAPES, SHAPES, SHAPES, SHAPES, st.sampled_from([1, 2]))
def test_the_matrix_of_a_convolution_does_what_it_does(
    kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    # Fact sheet, statement 2.
    conv = nn.Conv2d(4, 6, kernel, stride, pad, dilation, groups, bias=False).double()
    image = torch.randn(1, 4, 9, 8, dtype=torch.float64)
    answer = conv(image)
    matrix = conv_to_matrix(conv, (9, 8))
    torch.testing.assert_close(matrix @ image.flatten(), answer.flatten(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("stride", "pad", "groups"), [(1, 0, 1), (2, 1, 1), (3, 2, 2)])
def test_the_transposed_matrix_is_the_deconvolution(stride: int, pad: int, groups: int) -> None:
    # Fact sheet, statement 2.
    conv = nn.Conv2d(4, 6, 3, stride, pad, groups=groups, bias=False).double()
    scores = torch.randn_like(conv(torch.zeros(1, 4, 11, 10, dtype=torch.float64)))
    spare = [(length + 2 * pad - 3) % stride for length in (11, 10)]
    deconvolution = functional.conv_transpose2d(
        scores, conv.weight, stride=stride, padding=pad, output_padding=spare, groups=groups
    )
    ours = conv_to_matrix(conv, (11, 10)).t() @ scores.flatten()
    torch.testing.assert_close(ours, deconvolution.flatten(), rtol=0, atol=1e-13)


def test_the_matrix_repeats_each_kernel_value_once_per_position() -> None:
    # Fact sheet, statement 2: the distinct values are the weights.
    conv = nn.Conv2d(2, 3, 3).double()
    matrix = conv_to_matrix(conv, (6, 5))
    assert matrix.shape == (3 * 4 * 3, 2 * 6 * 5)
    values, counts = matrix.values().unique(return_counts=True)
    assert torch.equal(values, conv.weight.flatten().sort().values)
    assert (counts == 4 * 3).all()


def test_new_input_channels_are_the_mean_of_the_old_ones() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=100).double()
    wider = expand_inputs(conv, 4)
    assert wider.padding == (100, 100)
    assert torch.equal(wider.weight[:, :3], conv.weight)
    torch.testing.assert_close(wider.weight[:, 3], (conv.weight[:, 0] + conv.weight[:, 1] + conv.weight[:, 2]) / 3)
    assert torch.equal(wider.bias, conv.bias)
    image = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    blank = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(wider(torch.cat([image, blank], 1)), conv(image))


def test_a_layer_is_replaced_by_name() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.ReLU())
    old = net[0][0]
    assert replace_layer(net, "0.0", expand_inputs(old, 6)) is old
    assert net(torch.zeros(1, 6, 2, 2)).shape == (1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"no layer '0\.7': its layers are 0\.0, 1"):
        replace_layer(net, "0.7", nn.ReLU())


def test_what_cannot_be_converted_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="not a whole number of channels of 7 x 7"):
        linear_to_conv(nn.Linear(50, 2), (7, 7))
    with pytest.raises(ValueError, match="2 groups"):
        conv_to_linear(nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(ValueError, match="2 groups"):
        expand_inputs(nn.Conv2d(4, 4, 1, groups=2), 5)
    with pytest.raises(ValueError, match="at least as many, not 2"):
        expand_inputs(nn.Conv2d(3, 4, 1), 2)
    with pytest.raises(ValueError, match="zero padding"):
        conv_to_matrix(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 5))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        conv_to_matrix(nn.Conv2d(3, 4, 7), (5, 5))
