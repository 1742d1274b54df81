"""Every layer that loads, in prototxts built from Caffe's documentation, against NumPy loops written from it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.caffe import load
from fullyconv.caffe.advice import ADVICE
from fullyconv.caffe.build import KINDS
from fullyconv.caffe.description import SOURCES
from fullyconv.files import BadFile

Take = Callable[[np.ndarray, int], float]
Oracle = Callable[..., np.ndarray | tuple[np.ndarray, ...]]

RANDOM = np.random.default_rng(5)
IMAGE = RANDOM.normal(size=(2, 4, 5, 6)) * 2
POSITIVE = np.abs(IMAGE) + 0.1
OTHER = RANDOM.normal(size=IMAGE.shape)
LABEL = RANDOM.integers(0, 4, (2, 1, 5, 6)).astype(float)
ITEMS = RANDOM.normal(size=(3, 4))
CLASS = np.array([2.0, 0, 3])
ALIKE = np.array([1.0, 0, 0])
MATRIX = RANDOM.random((4, 4))
PLACES = np.tile(np.arange(30.0).reshape(5, 6)[::-1, ::-1], (2, 4, 1, 1))


def softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def pool(x: np.ndarray, kernel: int, stride: int, pad: int, take: Take, up: bool = True) -> np.ndarray:
    """Pool a plane at a time by the loops of the documentation; ``take`` gets a window and its area within the pad."""
    sides = [(n + 2 * pad - kernel) / stride for n in x.shape[2:]]
    sides = [(math.ceil if up else math.floor)(side) + 1 for side in sides]
    if pad:
        sides = [s - 1 if (s - 1) * stride >= units + pad else s for s, units in zip(sides, x.shape[2:], strict=True)]
    top = np.zeros((*x.shape[:2], *sides))
    for n, c, i, j in np.ndindex(top.shape):
        y, z = i * stride - pad, j * stride - pad
        y2, z2 = min(y + kernel, x.shape[2] + pad), min(z + kernel, x.shape[3] + pad)
        window = x[n, c, max(y, 0) : min(y2, x.shape[2]), max(z, 0) : min(z2, x.shape[3])]
        top[n, c, i, j] = take(window, (y2 - y) * (z2 - z))
    return top


def best(window: np.ndarray, area: int) -> float:
    return window.max()


def mean(window: np.ndarray, area: int) -> float:
    return window.sum() / area


def chance(window: np.ndarray, area: int) -> float:
    return (window**2).sum() / window.sum()


def places(x: np.ndarray) -> np.ndarray:
    index = np.zeros((*x.shape[:2], 3, 3))
    for n, c, i, j in np.ndindex(index.shape):
        rows, columns = range(2 * i, min(2 * i + 2, 5)), range(2 * j, min(2 * j + 2, 6))
        index[n, c, i, j] = max((x[n, c, r, k], -(r * 6 + k)) for r in rows for k in columns)[1] * -1
    return index


def columns(x: np.ndarray, kernel: int) -> np.ndarray:
    height, width = x.shape[2] - kernel + 1, x.shape[3] - kernel + 1
    parts = [x[:, c, i : i + height, j : j + width] for c in range(4) for i in range(kernel) for j in range(kernel)]
    return np.stack(parts, 1)


def convolve(x: np.ndarray, kernel: int, dilation: int) -> np.ndarray:
    """Convolve with ones: a sum over channels and taps."""
    reach = dilation * (kernel - 1)
    height, width = x.shape[2] - reach, x.shape[3] - reach
    total = sum(
        x[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width].sum(1)
        for i in range(kernel)
        for j in range(kernel)
    )
    return np.stack([total] * 2, 1)


def spread(x: np.ndarray) -> np.ndarray:
    """Deconvolve with ones, kernel 2, stride 2."""
    return np.stack([x.sum(1).repeat(2, 1).repeat(2, 2)] * 2, 1)


def within(x: np.ndarray) -> np.ndarray:
    return x * (1 + 0.5 * pool(x**2, 3, 1, 1, mean)) ** -0.75


def across(x: np.ndarray) -> np.ndarray:
    squares = [sum(x[:, o] ** 2 for o in range(max(0, c - 1), min(4, c + 2))) for c in range(4)]
    return x / (2 + 0.5 / 3 * np.stack(squares, 1)) ** 0.75


def normal(x: np.ndarray, axes: tuple[int, ...], eps: float, inside: bool = True) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred**2).mean(axes, keepdims=True)
    return centred / (np.sqrt(variance + eps) if inside else np.sqrt(variance) + eps)


def largest(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places and values, the largest first, the last of equals first."""
    order = [sorted(range(len(row)), key=lambda i, row=row: (row[i], i))[::-1][:k] for row in x]
    return np.array(order, float), np.stack([row[o] for row, o in zip(x, order, strict=True)])


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    top = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        y = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0
        z = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0
        a, b = min(int(y), x.shape[2] - 1), min(int(z), x.shape[3] - 1)
        a2, b2 = min(a + 1, x.shape[2] - 1), min(b + 1, x.shape[3] - 1)
        p, q = y - a, z - b
        top[:, :, i, j] = (1 - p) * ((1 - q) * x[:, :, a, b] + q * x[:, :, a, b2]) + p * (
            (1 - q) * x[:, :, a2, b] + q * x[:, :, a2, b2]
        )
    return top


def unpool(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    top = np.zeros((*x.shape[:2], 10 * 12))
    for n, c, i, j in np.ndindex(x.shape):
        top[n, c, int(index[n, c, i, j])] = x[n, c, i, j]
    return top.reshape(2, 4, 10, 12)


def pixels(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def cross_entropy(x: np.ndarray, label: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    chances, truth = pixels(softmax(x)), label.astype(int).reshape(-1)
    weights = np.ones(4) if weights is None else weights
    return -(np.log(chances[range(len(truth)), truth]) * weights[truth]).sum()


def contrast(a: np.ndarray, b: np.ndarray, alike: np.ndarray, legacy: bool) -> float:
    total = 0.0
    for one, two, same in zip(a, b, alike, strict=True):
        square = ((one - two) ** 2).sum()
        apart = max(4 - square, 0) if legacy else max(4 - math.sqrt(square), 0) ** 2
        total += square if same else apart
    return total / len(a) / 2


def hinge(x: np.ndarray, label: np.ndarray, power: int) -> float:
    sign = np.ones_like(x)
    sign[range(len(x)), label.astype(int)] = -1
    return (np.maximum(0, 1 + sign * x) ** power).sum() / len(x)


def hits(x: np.ndarray, label: np.ndarray, k: int = 1) -> float:
    rows = pixels(x) if x.ndim == 4 else x
    right = [(row >= row[int(truth)]).sum() - 1 < k for row, truth in zip(rows, label.reshape(-1), strict=True)]
    return float(np.mean(right))


def sigmoid_loss(x: np.ndarray, t: np.ndarray) -> float:
    chances = 1 / (1 + np.exp(-x))
    return -(t * np.log(chances) + (1 - t) * np.log(1 - chances)).sum()


def per_channel(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    return x * values[:, None, None]


TARGET = (OTHER > 0).astype(float)
ONES = 'weight_filler { type: "constant" value: 1 }'

# type, fields, bottoms, what it gives
CASES: list[tuple[str, str, list[np.ndarray], Oracle]] = [
    ("AbsVal", "", [IMAGE], np.abs),
    ("BNLL", "", [IMAGE], lambda x: np.log(1 + np.exp(x))),
    ("ReLU", "relu_param { negative_slope: 0.1 engine: 1 }", [IMAGE], lambda x: np.where(x > 0, x, 0.1 * x)),
    ("PReLU", "", [IMAGE], lambda x: np.where(x > 0, x, 0.25 * x)),
    ("PReLU", "prelu_param { channel_shared: true filler { value: -1 } }", [IMAGE], np.abs),
    ("PReLU", "", [ITEMS], lambda x: np.where(x > 0, x, 0.25 * x)),
    ("ELU", "elu_param { alpha: 2 }", [IMAGE], lambda x: np.where(x > 0, x, 2 * (np.exp(x) - 1))),
    ("Sigmoid", "sigmoid_param { engine: CAFFE }", [IMAGE], lambda x: 1 / (1 + np.exp(-x))),
    ("TanH", "", [IMAGE], np.tanh),
    ("Power", "power_param { power: 3 scale: 0.5 shift: 1 }", [IMAGE], lambda x: (1 + 0.5 * x) ** 3),
    ("Exp", "", [IMAGE], np.exp),
    ("Exp", "exp_param { base: 2 scale: 3 shift: 1 }", [IMAGE], lambda x: 2.0 ** (1 + 3 * x)),
    ("Log", "", [POSITIVE], np.log),
    ("Log", "log_param { base: 10 scale: 2 shift: 0.5 }", [POSITIVE], lambda x: np.log10(0.5 + 2 * x)),
    ("Threshold", "threshold_param { threshold: 0.5 }", [IMAGE], lambda x: (x > 0.5) * 1.0),
    ("Clip", "clip_param { min: -1 max: 0.5 }", [IMAGE], lambda x: np.clip(x, -1, 0.5)),
    ("Swish", "swish_param { beta: 2 }", [IMAGE], lambda x: x / (1 + np.exp(-2 * x))),
    ("Dropout", "dropout_param { dropout_ratio: 0.3 }", [IMAGE], lambda x: x),
    ("Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }", [IMAGE], lambda x: 0.7 * x),
    ("Bias", "bias_param { filler { value: 2 } }", [IMAGE], lambda x: x + 2),
    ("Bias", "bias_param { axis: 0 }", [IMAGE, OTHER[:, :, 0, 0]], lambda x, b: x + b[:, :, None, None]),
    ("Scale", "scale_param { axis: 0 num_axes: -1 filler { value: 3 } }", [IMAGE], lambda x: 3 * x),
    ("Scale", "scale_param { axis: 0 }", [IMAGE, OTHER[:, :, 0, 0]], lambda x, b: x * b[:, :, None, None]),
    ("Scale", "scale_param { bias_term: true bias_filler { value: 2 } }", [IMAGE, OTHER[0, :, 0, 0]],
     lambda x, b: per_channel(x, b) + 2),
    ("BatchNorm", "", [IMAGE], lambda x: x * 1e5**0.5),  # its sums are empty: mean and variance 0, the eps is left
    ("BatchNorm", "batch_norm_param { use_global_stats: false eps: 0 }", [IMAGE], lambda x: normal(x, (0, 2, 3), 0)),
    ("BatchNorm", "batch_norm_param { use_global_stats: false }", [IMAGE[:1, :, :1, :1]], np.zeros_like),
    ("BatchNorm", "batch_norm_param { use_global_stats: false }", [ITEMS[0]], lambda x: normal(x, (0,), 1e-5)),
    ("MVN", "", [IMAGE], lambda x: normal(x, (2, 3), 1e-9, inside=False)),
    ("MVN", "mvn_param { normalize_variance: false }", [IMAGE], lambda x: x - x.mean((2, 3), keepdims=True)),
    ("MVN", "mvn_param { across_channels: true eps: 0.1 }", [IMAGE], lambda x: normal(x, (1, 2, 3), 0.1, inside=False)),
    ("BN", "bn_param { scale_filler { value: 2 } shift_filler { value: 1 } }", [IMAGE],
     lambda x: 2 * normal(x, (0, 2, 3), 1e-9) + 1),
    ("BN", "bn_param { bn_mode: INFERENCE scale_filler { value: 2 } shift_filler { value: 1 } }", [IMAGE],
     lambda x: 2 * x + 1),
    ("BN", "bn_param { slope_filler { value: 2 } bias_filler { value: 1 } eps: 0.25 }", [IMAGE], lambda x: 4 * x + 1),
    ("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 dilation: 2 {ONES} }}", [IMAGE],
     lambda x: convolve(x, 2, 2)),
    ("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 2 hole: 2 {ONES} }}", [IMAGE],
     lambda x: convolve(x, 2, 2)),
    ("Deconvolution", f"convolution_param {{ num_output: 2 kernel_size: 2 stride: 2 {ONES} }}", [IMAGE], spread),
    ("Im2col", "convolution_param { kernel_size: 3 }", [IMAGE], lambda x: columns(x, 3)),
    ("InnerProduct", f"inner_product_param {{ num_output: 2 {ONES} bias_filler {{ value: 3 }} }}", [IMAGE],
     lambda x: np.stack([x.sum((1, 2, 3)) + 3] * 2, 1)),
    ("InnerProduct", f"inner_product_param {{ num_output: 2 axis: -1 transpose: true {ONES} }}", [IMAGE],
     lambda x: np.stack([x.sum(-1)] * 2, -1)),
    ("Embed", f"embed_param {{ num_output: 3 input_dim: 4 {ONES} }}", [CLASS], lambda x: np.ones((3, 3))),
    ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", [IMAGE], lambda x: pool(x, 3, 2, 0, best)),
    ("Pooling", "pooling_param { pool: 1 kernel_size: 3 stride: 2 pad: 1 }", [IMAGE], lambda x: pool(x, 3, 2, 1, mean)),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 3 ceil_mode: false }", [IMAGE],
     lambda x: pool(x, 2, 3, 0, best, up=False)),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 3 round_mode: FLOOR }", [IMAGE],
     lambda x: pool(x, 2, 3, 0, best, up=False)),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 2 } top: 'second'", [IMAGE],
     lambda x: (pool(x, 2, 2, 0, best), places(x))),
    ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }", [POSITIVE],
     lambda x: pool(x, 3, 2, 0, chance)),
    ("Pooling", "pooling_param { pool: AVE global_pooling: true }", [IMAGE], lambda x: x.mean((2, 3), keepdims=True)),
    ("SPP", "spp_param { pyramid_height: 2 }", [IMAGE],
     lambda x: np.concatenate([x.max((2, 3)), pool(np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)), constant_values=-99),
                                                     3, 3, 0, best).reshape(2, -1)], 1)),
    ("SPP", "spp_param { pyramid_height: 1 pool: AVE }", [IMAGE], lambda x: x.mean((2, 3), keepdims=True)),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.5 k: 2 }", [IMAGE], across),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: 1 }", [IMAGE], within),
    ("Crop", "crop_param { offset: 1 offset: 2 }", [IMAGE, IMAGE[:, :, :3, :2]], lambda x, r: x[:, :, 1:4, 2:4]),
    ("Concat", "concat_param { axis: -1 }", [IMAGE, OTHER], lambda a, b: np.concatenate([a, b], 3)),
    ("Slice", "slice_param { slice_dim: 1 slice_point: 3 } top: 'second'", [IMAGE], lambda x: (x[:, :3], x[:, 3:])),
    ("Split", "top: 'second'", [IMAGE], lambda x: (x, x)),
    ("Flatten", "flatten_param { axis: 0 end_axis: -3 }", [IMAGE], lambda x: x.reshape(8, 5, 6)),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }", [IMAGE], lambda x: x.reshape(2, 40, 3)),
    ("Reshape", "reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }", [IMAGE],
     lambda x: x.reshape(2, 2, 2, 5, 6)),
    ("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }", [IMAGE], lambda x: x[..., None]),
    ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", [IMAGE], lambda x: np.moveaxis(x, 1, 3)),
    ("Reduction", "", [IMAGE], np.sum),
    ("Reduction", "reduction_param { operation: ASUM axis: 1 coeff: 2 }", [IMAGE], lambda x: 2 * abs(x).sum((1, 2, 3))),
    ("Reduction", "reduction_param { operation: 3 axis: -1 }", [IMAGE], lambda x: (x**2).sum(-1)),
    ("Reduction", "reduction_param { operation: MEAN axis: 2 }", [IMAGE], lambda x: x.mean((2, 3))),
    ("Tile", "tile_param { axis: 2 tiles: 3 }", [IMAGE], lambda x: np.tile(x, (1, 1, 3, 1))),
    ("ArgMax", "argmax_param { top_k: 2 }", [ITEMS], lambda x: largest(x, 2)[0][:, None]),
    ("ArgMax", "argmax_param { out_max_val: true }", [np.round(ITEMS)],
     lambda x: np.stack(largest(x, 1), 1)),
    ("ArgMax", "argmax_param { axis: 1 top_k: 3 }", [np.round(ITEMS)], lambda x: largest(x, 3)[0]),
    ("ArgMax", "argmax_param { axis: 1 out_max_val: true }", [IMAGE], lambda x: x.max(1, keepdims=True)),
    ("Softmax", "softmax_param { axis: 2 }", [IMAGE], lambda x: softmax(x, 2)),
    ("Eltwise", "eltwise_param { operation: 0 }", [IMAGE, OTHER], lambda a, b: a * b),
    ("Eltwise", "eltwise_param { coeff: 2 coeff: -1 }", [IMAGE, OTHER], lambda a, b: 2 * a - b),
    ("Eltwise", "eltwise_param { operation: MAX }", [IMAGE, OTHER, -OTHER], lambda *x: np.maximum.reduce(x)),
    ("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", [], lambda: np.zeros((2, 3))),
    ("Upsample", "upsample_param { scale: 2 }", [IMAGE, PLACES], unpool),
    ("Upsample", "upsample_param { upsample_h: 10 upsample_w: 12 }", [IMAGE, PLACES], unpool),
    ("Upsample", "upsample_param { scale: 2 }", [IMAGE], lambda x: x.repeat(2, 2).repeat(2, 3)),
    ("Unpooling", "unpooling_param { kernel_size: 2 stride: 2 }", [IMAGE, PLACES], unpool),
    ("Unpooling", "unpooling_param { unpool_h: 10 unpool_w: 12 }", [IMAGE, PLACES], unpool),
    ("Normalize", "norm_param { across_spatial: false channel_shared: false scale_filler { value: 20 } }", [IMAGE],
     lambda x: 20 * x / np.sqrt((x**2).sum(1, keepdims=True))),
    ("Normalize", "", [IMAGE], lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True))),
    ("ReLU6", "", [IMAGE * 5], lambda x: np.clip(x, 0, 6)),
    ("DepthwiseConvolution", f"convolution_param {{ num_output: 4 group: 4 kernel_size: 1 {ONES} }}", [IMAGE],
     lambda x: x),
    ("ConvolutionDepthwise", f"convolution_param {{ num_output: 8 kernel_size: 1 {ONES} }}", [IMAGE],
     lambda x: x.repeat(2, 1)),
    ("Interp", "interp_param { zoom_factor: 3 }", [IMAGE], lambda x: resize(x, 13, 16)),
    ("Interp", "interp_param { shrink_factor: 2 pad_end: -1 }", [IMAGE], lambda x: resize(x[..., :-1, :-1], 2, 3)),
    ("Interp", "interp_param { height: 1 width: 9 pad_beg: -1 }", [IMAGE], lambda x: resize(x[..., 1:, 1:], 1, 9)),
    ("Interp", "interp_param { shrink_factor: 2 zoom_factor: 2 }", [IMAGE], lambda x: resize(x, 5, 5)),
    ("SoftmaxWithLoss", "", [IMAGE, LABEL], lambda x, t: cross_entropy(x, t) / 60),
    ("SoftmaxWithLoss", "loss_param { normalize: false } top: 'second' loss_weight: 1 loss_weight: 0", [IMAGE, LABEL],
     lambda x, t: (cross_entropy(x, t) / 2, softmax(x))),
    ("SoftmaxWithLoss", "loss_param { normalization: 3 weight_by_label_freqs: true class_weighting: 1 "
     "class_weighting: 2 class_weighting: 0 class_weighting: 3 }", [IMAGE, LABEL],
     lambda x, t: cross_entropy(x, t, np.array([1, 2, 0, 3]))),
    ("SoftmaxWithLoss", "loss_param { normalization: NONE weight_by_label_freqs: true }", [IMAGE, LABEL],
     lambda x, t: cross_entropy(x, t, 1 / np.bincount(t.astype(int).reshape(-1), minlength=4))),
    ("SigmoidCrossEntropyLoss", "", [IMAGE, TARGET], lambda x, t: sigmoid_loss(x, t) / 2),
    ("SigmoidCrossEntropyLoss", "loss_param { normalization: FULL }", [IMAGE, TARGET],
     lambda x, t: sigmoid_loss(x, t) / x.size),
    ("SigmoidCrossEntropyLoss", "loss_param { normalization: VALID ignore_label: 1 }", [IMAGE, TARGET],
     lambda x, t: sigmoid_loss(x[t == 0], t[t == 0]) / (t == 0).sum()),
    ("EuclideanLoss", "", [IMAGE, OTHER], lambda a, b: ((a - b) ** 2).sum() / 4),
    ("HingeLoss", "", [ITEMS, CLASS], lambda x, t: hinge(x, t, 1)),
    ("HingeLoss", "hinge_loss_param { norm: 2 }", [ITEMS, CLASS], lambda x, t: hinge(x, t, 2)),
    ("MultinomialLogisticLoss", "", [softmax(ITEMS), CLASS],
     lambda x, t: -np.log(x[range(3), t.astype(int)]).mean()),
    ("InfogainLoss", "top: 'second'", [ITEMS, CLASS, MATRIX],
     lambda x, t, m: (-(m[t.astype(int)] * np.log(softmax(x))).sum() / 3, softmax(x))),
    ("ContrastiveLoss", "contrastive_loss_param { margin: 4 }", [ITEMS, ITEMS[::-1].copy(), ALIKE],
     lambda a, b, t: contrast(a, b, t, legacy=False)),
    ("ContrastiveLoss", "contrastive_loss_param { margin: 4 legacy_version: true }",
     [ITEMS, ITEMS[::-1].copy(), ALIKE], lambda a, b, t: contrast(a, b, t, legacy=True)),
    ("Accuracy", "", [np.round(IMAGE), LABEL], hits),
    ("Accuracy", "accuracy_param { top_k: 2 }", [np.round(ITEMS), CLASS], lambda x, t: hits(x, t, 2)),
    ("Accuracy", "accuracy_param { ignore_label: 0 } top: 'second'", [ITEMS, CLASS],
     lambda x, t: (hits(x[[0, 2]], t[[0, 2]]),
                   np.array([0, 0, hits(x[:1], t[:1]), hits(x[2:], t[2:])]))),
    ("SegAccuracy", "seg_accuracy_param { ignore_label: 255 }", [np.eye(4)[:, :, None, None] * np.ones((1, 1, 1, 2)),
                                                            np.array([[0, 0], [1, 1], [2, 3], [255, 255]])],
     lambda x, t: np.array([5 / 6, 3 / 4, (1 + 1 + 1 / 2 + 0) / 4]).reshape(1, 1, 1, 3)),
]  # fmt: skip


def described(kind: str, fields: str, bottoms: list[np.ndarray]) -> str:
    lines = []
    for index, blob in enumerate(bottoms):
        dims = " ".join(f"dim: {size}" for size in blob.shape)
        lines.append(f"layer {{ name: 'i{index}' type: 'Input' top: 'i{index}' input_param {{ shape {{ {dims} }} }} }}")
    taken = " ".join(f"bottom: 'i{index}'" for index in range(len(bottoms)))
    tops = "top: 'out'" if kind not in ("Silence", "HDF5Output") else ""
    return "\n".join([*lines, f"layer {{ name: 'it' type: '{kind}' {taken} {tops} {fields} }}"])


@pytest.mark.parametrize(
    ("kind", "fields", "bottoms", "oracle"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_layer_computes_what_its_documentation_says(
    tmp_path: Path, kind: str, fields: str, bottoms: list[np.ndarray], oracle: Oracle
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(described(kind, fields, bottoms))
    net = load(path).double()
    found = net({f"i{index}": torch.from_numpy(np.asarray(blob, float)) for index, blob in enumerate(bottoms)})
    expected = oracle(*bottoms)
    both = expected if isinstance(expected, tuple) else (expected,)
    for name, values in zip(("out", "second"), both, strict=False):
        assert found[name].shape == np.shape(values)
        np.testing.assert_allclose(found[name].detach().numpy(), values, rtol=1e-6, atol=1e-9)


def test_every_type_is_swept_and_the_others_are_refused_with_advice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    swept = {kind for kind, *_ in CASES} | {"Silence", "HDF5Output", "MatWrite"}
    assert swept == KINDS.keys()
    path = tmp_path / "net.prototxt"
    for kind in ADVICE:
        path.write_text(described(kind, "", [IMAGE]))
        with pytest.raises(BadFile, match=r"this type is not supported: "):
            load(path)
    counts = {"prototxts": len(CASES), "types": len(swept), "sources": len(SOURCES), "refused": len(ADVICE)}
    record_property("sweep", counts)


def test_a_block_of_another_type_has_no_effect_and_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(described("ReLU", "pooling_param { kernel_size: 2 }", [IMAGE]))
    with pytest.warns(UserWarning, match=r"'it' \(ReLU\): pooling_param has no effect on this type"):
        net = load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(net({"i0": torch.from_numpy(IMAGE)})["out"], torch.from_numpy(IMAGE).relu())
