"""An ENet with random weights beside NumPy loops, written from the paper and its layers' documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fullyconv.caffe import load
from fullyconv.caffe.wire import write_weights

Blobs = list[np.ndarray]
RANDOM = np.random.default_rng(0)


class Net:
    """Writes layers as text with random weights, and computes each at once in float64."""

    def __init__(self, image: np.ndarray) -> None:
        dims = " ".join(f"dim: {size}" for size in image.shape)
        self.text = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
        self.blobs: dict[str, tuple[str, Blobs]] = {}
        self.values = {"data": image}
        self.top = "data"

    def add(self, kind: str, fields: str, tops: list[np.ndarray], on: str, *blobs: np.ndarray) -> str:
        """Write a layer that gives ``tops``, which are called by its number."""
        name = f"{kind}{len(self.values)}"
        names = [name, f"{name}_places"][: len(tops)]
        ends = "".join(f' bottom: "{each}"' for each in on.split()) + "".join(f' top: "{each}"' for each in names)
        self.text += f'layer {{ name: "{name}" type: "{kind}"{ends} {fields} }}\n'
        self.values |= dict(zip(names, tops, strict=True))
        if blobs:
            self.blobs[name] = (kind, list(blobs))
        self.top = name
        return name

    def conv(self, wide: int, kernel: tuple[int, int] = (1, 1), *, stride: int = 1, rate: int = 1, on: str = "") -> str:
        """A convolution without a bias that keeps the size but for its stride; SegNet's BN in INFERENCE; a PReLU."""
        x = self.values[on or self.top]
        weight = RANDOM.normal(0, (x.shape[1] * kernel[0] * kernel[1]) ** -0.5, (wide, x.shape[1], *kernel))
        pad = [0 if stride == size else rate * (size - 1) // 2 for size in kernel]
        fields = (
            f"convolution_param {{ num_output: {wide} kernel_h: {kernel[0]} kernel_w: {kernel[1]} pad_h: {pad[0]} "
            f"pad_w: {pad[1]} stride: {stride} dilation: {rate} bias_term: false }}"
        )
        padded = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
        rows, columns = ((padded.shape[2 + axis] - rate * (kernel[axis] - 1) - 1) // stride + 1 for axis in (0, 1))
        y = np.zeros((len(x), wide, rows, columns))
        for i, j, a, b in np.ndindex(rows, columns, *kernel):
            y[:, :, i, j] += padded[:, :, i * stride + a * rate, j * stride + b * rate] @ weight[:, :, a, b].T
        self.add("Convolution", fields, [y], on or self.top, weight)
        factor, bias, slope = RANDOM.uniform(0.5, 1.5, wide), RANDOM.normal(0, 0.1, wide), RANDOM.uniform(0, 0.4, wide)
        y = y * factor[:, None, None] + bias[:, None, None]
        self.add(
            "BN", "bn_param { bn_mode: INFERENCE }", [y], self.top, *(v.reshape(1, -1, 1, 1) for v in (factor, bias))
        )
        return self.add("PReLU", "", [np.where(y > 0, y, slope[:, None, None] * y)], self.top, slope)

    def pool(self, on: str) -> str:
        """The maxima of 2 x 2 windows and where they lie."""
        x = self.values[on]
        best = np.zeros((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))
        places = best.copy()
        for n, c, i, j in np.ndindex(best.shape):
            window = [(x[n, c, r, k], r * x.shape[3] + k) for r in (2 * i, 2 * i + 1) for k in (2 * j, 2 * j + 1)]
            best[n, c, i, j], places[n, c, i, j] = max(window)
        return self.add("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", [best, places], on)

    def unpool(self, on: str, places: str) -> str:
        x, index = self.values[on], self.values[places].astype(int)
        y = np.zeros((*x.shape[:2], 4 * x.shape[2] * x.shape[3]))
        for n, c, i, j in np.ndindex(x.shape):
            y[n, c, index[n, c, i, j]] = x[n, c, i, j]
        y = y.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        return self.add("Upsample", "upsample_param { scale: 2 }", [y], f"{on} {places}")

    def join(self, kind: str, *ons: str) -> str:
        parts = [self.values[on] for on in ons]
        joined = np.concatenate(parts, 1) if kind == "Concat" else np.sum(parts, 0)
        return self.add(kind, "", [joined], " ".join(ons))

    def dropout(self) -> str:
        fields = (
            "python_param { module: 'spatial_dropout' layer: 'SpatialDropoutLayer' "
            "param_str: \"{'phase': 'TEST', 'p': '0.1'}\" }"
        )
        return self.add("Python", fields, [self.values[self.top]], self.top)

    def deconv(self, wide: int) -> str:
        x = self.values[self.top]
        weight, bias = RANDOM.normal(0, 0.3, (x.shape[1], wide, 2, 2)), RANDOM.normal(0, 0.1, wide)
        y = np.zeros((len(x), wide, 2 * x.shape[2], 2 * x.shape[3])) + bias[:, None, None]
        for i, j, a, b in np.ndindex(*x.shape[2:], 2, 2):
            y[:, :, 2 * i + a, 2 * j + b] += x[:, :, i, j] @ weight[:, :, a, b]
        fields = f"convolution_param {{ num_output: {wide} kernel_size: 2 stride: 2 }}"
        return self.add("Deconvolution", fields, [y], self.top, weight, bias)


def enet(image: np.ndarray) -> Net:
    """The initial block; bottlenecks that shrink, spread out, go by rows and columns, and enlarge; the last layer."""
    net = Net(image)
    start = net.join("Concat", net.conv(5, (3, 3), stride=2), net.pool("data"))
    pooled = net.pool(start)
    net.conv(4, (2, 2), stride=2, on=start)
    net.conv(4, (3, 3))
    net.conv(8)
    narrow = net.join("Eltwise", net.dropout(), pooled)
    for kernels, rate in ((((3, 3),), 2), (((5, 1), (1, 5)), 1), (((3, 3),), 4)):
        net.conv(4, on=narrow)
        for kernel in kernels:
            net.conv(4, kernel, rate=rate)
        net.conv(8)
        narrow = net.join("Eltwise", net.dropout(), narrow)
    wide = net.unpool(net.conv(8, on=narrow), f"{pooled}_places")
    net.conv(4, on=narrow)
    net.deconv(4)
    net.join("Eltwise", net.conv(8), wide)
    net.deconv(19)
    return net


def test_an_enet_computes_what_its_layers_say(tmp_path: Path) -> None:
    written = enet(RANDOM.normal(size=(1, 3, 16, 24)))
    prototxt, caffemodel = tmp_path / "enet.prototxt", tmp_path / "enet.caffemodel"
    prototxt.write_text(written.text)
    write_weights(caffemodel, "enet", {
        name: (kind, [blob.astype(np.float32) for blob in blobs]) for name, (kind, blobs) in written.blobs.items()
    })  # fmt: skip
    with torch.inference_mode():
        found = load(prototxt, caffemodel)({"data": torch.from_numpy(written.values["data"]).float()})[written.top]
    assert found.shape == (1, 19, 16, 24)
    np.testing.assert_allclose(found.numpy(), written.values[written.top], rtol=1e-4, atol=1e-4)
