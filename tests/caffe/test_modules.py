"""Caffe's arithmetic against slow loops written from its definitions (fact sheet, section 3)."""

from __future__ import annotations

import math
from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fullyconv.caffe.accuracy import Accuracy
from fullyconv.caffe.activations import Powers
from fullyconv.caffe.losses import SoftmaxWithLoss
from fullyconv.caffe.modules import LOWEST, BatchNorm, Eltwise, Pooling, Scale, WithinChannelNorm
from fullyconv.caffe.reshaping import Crop, Slice


def pool_slowly(image: np.ndarray, kind: str, axes: list[tuple[int, int, int]], *, up: bool) -> np.ndarray:
    """Pool H x W as ``pooling_layer.cpp`` does, a unit at a time; an axis is (kernel, stride, pad)."""
    counts = []
    for units, (kernel, stride, pad) in zip(image.shape, axes, strict=True):
        count = (ceil if up else floor)((units + 2 * pad - kernel) / stride) + 1
        if any(axis[2] for axis in axes) and (count - 1) * stride >= units + pad:
            count -= 1
        counts.append(count)
    result = np.empty(counts)
    for y, x in np.ndindex(*counts):
        spans, area = [], 1
        for at, units, (kernel, stride, pad) in zip((y, x), image.shape, axes, strict=True):
            start = at * stride - pad
            stop = min(start + kernel, units + pad)
            area *= stop - start
            spans.append(slice(max(start, 0), min(stop, units)))
        window = image[spans[0], spans[1]]
        result[y, x] = window.max(initial=-np.finfo(np.float32).max) if kind == "MAX" else window.sum() / area
    return result


AXIS = st.integers(1, 5).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k), st.integers(0, k - 1)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["MAX", "AVE"]), st.tuples(AXIS, AXIS), st.integers(5, 12), st.integers(5, 12), st.booleans())
def test_pooling(kind: str, axes: tuple[tuple[int, int, int], ...], height: int, width: int, up: bool) -> None:
    image = torch.randn(1, 1, height, width, dtype=torch.float64)
    kernel, stride, pad = zip(*axes, strict=True)
    pooling = Pooling(kind, kernel=kernel, stride=stride, pad=pad, ceil_mode=up)
    expected = pool_slowly(image[0, 0].numpy(), kind, list(axes), up=up)
    np.testing.assert_allclose(pooling(image)[0, 0].numpy(), expected, atol=1e-12)


def test_an_average_at_the_edge_divides_by_the_window_within_the_padding() -> None:
    pooled = Pooling("AVE", kernel=(3, 3), stride=(2, 2), pad=(1, 1))(torch.ones(1, 1, 4, 4))
    # Rows -1..1 (padding counts), 1..3, 3..5 (one row beyond the padding does not count).
    per_axis = torch.tensor([2 / 3, 1, 1 / 2])
    torch.testing.assert_close(pooled[0, 0], torch.outer(per_axis, per_axis))


def test_a_stride_beyond_the_kernel_keeps_caffes_empty_window() -> None:
    pooled = Pooling("MAX", kernel=(1, 1), stride=(3, 3))(torch.ones(1, 1, 3, 3))
    assert pooled.shape[2:] == (2, 2)
    assert pooled[0, 0].tolist() == [[1, LOWEST], [LOWEST, LOWEST]]


def test_global_pooling_takes_any_size() -> None:
    image = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(Pooling("AVE", kernel=None)(image)[..., 0, 0], image.mean((2, 3)))


@pytest.mark.parametrize("channels", [3, 8])
def test_normalisation_across_channels(channels: int) -> None:
    image = np.random.default_rng(0).normal(size=(channels, 2)) * 30
    expected = np.empty_like(image)
    for c in range(channels):
        squares = sum(image[other] ** 2 for other in range(max(0, c - 2), min(channels, c + 3)))
        expected[c] = image[c] * (1 + 1e-2 / 5 * squares) ** -0.75
    found = nn.LocalResponseNorm(5, 1e-2, 0.75, 1)(torch.from_numpy(image)[None, :, None])
    np.testing.assert_allclose(found[0, :, 0].numpy(), expected, rtol=1e-12)


def test_normalisation_within_channels() -> None:
    image = np.random.default_rng(0).normal(size=(4, 5))
    means = pool_slowly(image**2, "AVE", [(3, 1, 1)] * 2, up=True)
    found = WithinChannelNorm(3, 0.5, 0.75)(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(found[0, 0].numpy(), image * (1 + 0.5 * means) ** -0.75, rtol=1e-12)


def test_eltwise() -> None:
    one, two, three = torch.randn(3, 2, 4)
    torch.testing.assert_close(Eltwise("SUM", (0.5, -2, 3))(one, two, three), 0.5 * one - 2 * two + 3 * three)
    torch.testing.assert_close(Eltwise("SUM", ())(one, two), one + two)
    torch.testing.assert_close(Eltwise("PROD", ())(one, two, three), one * two * three)
    torch.testing.assert_close(Eltwise("MAX", ())(one, two), torch.maximum(one, two))
    with pytest.raises(ValueError, match="different shapes"):
        Eltwise("SUM", ())(one, two[:1])


def test_crop_takes_what_lies_on_the_reference() -> None:
    image, small = torch.arange(30.0).reshape(1, 1, 5, 6), torch.zeros(1, 9, 2, 3)
    assert torch.equal(Crop(2, (1,))(image, small), image[..., 1:3, 1:4])
    assert torch.equal(Crop(2, (3, 0))(image, small), image[..., 3:5, 0:3])
    with pytest.raises(ValueError, match="4 \\+ 2 units of axis 2, which has 5"):
        Crop(2, (4,))(image, small)
    with pytest.raises(ValueError, match="3 offsets for 2 axes"):
        Crop(2, (1, 1, 1))(image, small)


def test_slices_cut_at_points_or_evenly() -> None:
    blob = torch.arange(6.0).reshape(1, 6)
    assert [part.shape[1] for part in Slice(1, (1, 4), 3)(blob)] == [1, 3, 2]
    assert [part.shape[1] for part in Slice(1, (), 3)(blob)] == [2, 2, 2]
    for points, parts in (((4, 1), 3), ((), 4)):
        with pytest.raises(ValueError, match="do not cut"):
            Slice(1, points, parts)(blob)


def test_scale_and_power() -> None:
    image = torch.rand(2, 3, 4, 5)
    scale = Scale((3,), bias=(3,), axis=1)
    with torch.no_grad():
        scale.weight.copy_(torch.tensor([1.0, 2, 3]))
        scale.bias.copy_(torch.tensor([4.0, 5, 6]))
    expected = image * torch.tensor([1.0, 2, 3])[:, None, None] + torch.tensor([4.0, 5, 6])[:, None, None]
    torch.testing.assert_close(scale(image), expected)
    torch.testing.assert_close(Scale(None, bias=None, axis=0)(image, image[:, :, 0, 0]), image * image[:, :, :1, :1])
    torch.testing.assert_close(Powers(2, 3, 1)(image), (1 + 3 * image) ** 2)


def filled(norm: BatchNorm, mean: Tensor, variance: Tensor, factor: float) -> BatchNorm:
    norm.mean, norm.variance, norm.factor = mean.clone(), variance.clone(), torch.tensor([factor])
    return norm


def test_batch_norm_divides_its_sums_by_their_weight() -> None:
    image, mean, variance = torch.randn(2, 3, 4, 4), torch.randn(3), torch.rand(3) + 1
    norm = filled(BatchNorm(3, use_global_stats=None, fraction=0.9, eps=1e-5), mean * 4, variance * 4, 4.0).eval()
    expected = (image - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(norm(image), expected)
    norm.train()
    torch.testing.assert_close(norm(image).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.mean, 0.9 * mean * 4 + image.mean((0, 2, 3)))
    torch.testing.assert_close(norm.variance, 0.9 * variance * 4 + image.var((0, 2, 3)))
    torch.testing.assert_close(norm.factor, torch.tensor([0.9 * 4 + 1]))


@pytest.mark.parametrize(("normalization", "divisor"), [("FULL", 12), ("VALID", 9), ("BATCH_SIZE", 2), ("NONE", 1)])
def test_softmax_loss(normalization: str, divisor: int) -> None:
    scores = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    label = torch.randint(0, 4, (2, 1, 2, 3))
    label.flatten()[[0, 5, 7]] = 255
    total = 0.0
    for n, y, x in np.ndindex(2, 2, 3):
        if label[n, 0, y, x] != 255:
            total -= float(scores[n, :, y, x].log_softmax(0)[label[n, 0, y, x]])
    loss = SoftmaxWithLoss(1, 255, normalization)
    assert float(loss(scores, label.double())) == pytest.approx(total / divisor)
    assert float(loss(scores, torch.full_like(label, 255))) == 0
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        loss(scores, torch.full_like(label, 4))


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3)), (-1, (4, 5, 3)), (0, (3, 2)), (1, (2, 3, 4, 5))])
@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_softmax_loss_has_caffes_gradient_on_every_axis(axis: int, shape: tuple[int, ...], spread: float) -> None:
    # softmax_loss_layer.cpp: the loss floors a probability at FLT_MIN, the gradient is p - 1 all the same.
    scores = (torch.randn(shape, dtype=torch.float64) * spread).requires_grad_()
    columns = scores.detach().movedim(axis, -1)
    label = torch.randint(0, 3, columns.shape[:-1])
    loss = SoftmaxWithLoss(axis, None, "NONE")(scores, label)
    (gradient,) = torch.autograd.grad(loss, scores)
    chances = columns.softmax(-1)
    truth = nn.functional.one_hot(label, 3)
    assert loss.item() == pytest.approx(float(-(chances * truth).sum(-1).clamp(min=2.0**-126).log().sum()))
    torch.testing.assert_close(gradient.movedim(axis, -1), chances - truth)


def test_softmax_loss_of_a_hopeless_pixel() -> None:
    scores = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    loss = SoftmaxWithLoss(1, None, "NONE")(scores, torch.zeros(1))
    loss.backward()
    assert loss.item() == pytest.approx(87.3365, abs=1e-4)
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-1, 1]]


def test_ignored_pixels_may_hold_anything() -> None:
    scores = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]], requires_grad=True)
    loss = SoftmaxWithLoss(1, 255, "VALID")(scores, torch.tensor([0, 255]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.e))
    assert scores.grad is not None
    assert scores.grad[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"outside 0\.\.1 and 0"):
        SoftmaxWithLoss(1, 0, "VALID")(scores, torch.tensor([0, 2]))


def test_accuracy_counts_labels_among_the_best() -> None:
    scores, label = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3]]), torch.tensor([0, 1, 255])
    assert float(Accuracy(1, 1, 255)(scores, label)) == 0.5
    assert float(Accuracy(2, 1, 255)(scores, label)) == 1
    tied = torch.tensor([[2.0, 2, 1], [1, 2, 3], [0, 0, 0]])
    assert float(Accuracy(1, 1, 255)(tied, torch.tensor([0, 2, 255]))) == 0.5  # as good is no better in Caffe
    share, per_class = Accuracy(1, 1, 255, per_class=True)(scores, label)
    assert (float(share), per_class.tolist()) == (0.5, [1, 0, 0])
    nothing = torch.full((3, 3), float("nan"))
    assert float(Accuracy(1, 1, 255)(nothing, label)) == 0
