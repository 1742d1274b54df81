"""What the drivers of the release do to a net before it trains: weights of other nets, and bilinear upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.caffe import Net, fields
from fullyconv.caffe.description import Layer
from fullyconv.caffe.wire import read_weights
from fullyconv.files import BadFile
from fullyconv.upsample import bilinear_taps

WIDENED = "_bgrd"  # the release's name for a layer that sees a fourth channel


@dataclass(frozen=True)
class Copied:
    """What a copy did: layers that were filled, those of the file that have no place, those it does not have."""

    moved: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.moved)} layers"]
        parts += [f"{len(names)} {what} ({', '.join(names[:6])}{', …' if len(names) > 6 else ''})"
                  for what, names in (("left behind", self.left), ("not there", self.missing)) if names]  # fmt: skip
        return "; ".join(parts)


def copy_weights(net: Net, path: Path, *, suffix: str = "", skip: Sequence[str] = ()) -> Copied:
    """Copy a caffemodel's weights to the layers of the same names, with ``suffix`` behind them.

    Blobs of one size but another shape are filled in flat order (a matrix becomes the kernels that it stands for). A
    layer NAME_bgrd takes NAME's three channels and, for its fourth, their mean. Raises ``BadFile`` for blobs of another
    size or number, as Caffe does, and where no layer fits at all.
    """
    source = {name + suffix: blobs for name, blobs in read_weights(path).items() if name not in skip}
    moved, missing = [], []
    for layer in net.described:
        own = net.blobs(layer)
        if not own:
            continue
        name = layer.name if layer.name in source else layer.name.removesuffix(WIDENED)
        if name not in source:
            missing.append(layer.name)
            continue
        blobs = source[name]
        if name != layer.name:
            blobs = [_widen(blobs[0], own[0][1]), *blobs[1:]]
        _fill(layer, own, blobs, path)
        moved.append(name)
    if not moved:
        raise BadFile(path, "has no layer of this net", "give the weights of a net that shares layers with it by name")
    left = [name for name in source if name not in moved]
    return Copied(tuple(moved), tuple(left), tuple(missing))


@torch.no_grad()
def _fill(layer: Layer, own: Sequence[tuple[str, Tensor]], blobs: Sequence[np.ndarray], path: Path) -> None:
    sizes, wanted = [blob.size for blob in blobs], [tensor.numel() for _, tensor in own]
    if sizes != wanted:
        what = f"{layer.label} has blobs of {sizes} numbers here, it needs {wanted}"
        raise BadFile(path, what, f"give the layer another name, or --skip {layer.name}")
    for (_, tensor), blob in zip(own, blobs, strict=True):
        tensor.copy_(torch.from_numpy(blob.reshape(tuple(tensor.shape))))


def _widen(kernels: np.ndarray, like: Tensor) -> np.ndarray:
    if kernels.ndim != 4 or like.ndim != 4 or like.shape[1] != kernels.shape[1] + 1:
        return kernels
    return np.concatenate([kernels, kernels.mean(1, keepdims=True)], 1)


@torch.no_grad()
def interpolate(net: Net) -> list[str]:
    """Give every upsampling that the file leaves at zero bilinear kernels, class by class; returns its layers.

    That is each Deconvolution with "up" in its name and no filler. Raises ``BadFile`` for one that has no such kernels.
    """
    filled = []
    for layer in net.described:
        module = net.module(layer)
        if layer.kind != "Deconvolution" or "up" not in layer.name or not isinstance(module, nn.ConvTranspose2d):
            continue
        if any("weight_filler" in block.fields for block in layer.message.messages("convolution_param")):
            continue
        group = layer.block("convolution_param", fields.Convolution).group
        rows, columns = module.kernel_size
        if rows != columns or module.in_channels != module.out_channels or group not in (1, module.in_channels):
            raise layer.fail("no bilinear upsampling", "it needs square kernels and as many channels out as in")
        kernel = torch.outer(bilinear_taps(rows), bilinear_taps(columns)).to(module.weight)
        module.weight.zero_()
        channels = range(module.in_channels)
        module.weight[channels, channels if group == 1 else [0] * len(channels)] = kernel
        filled.append(layer.name)
    return filled


def zeros(net: Net) -> list[str]:
    """Name the convolutions and matrices whose weights are all zero: no gradient passes them."""
    names = []
    for layer in net.described:
        weight = getattr(net.module(layer), "weight", None)
        if layer.kind in ("Convolution", "InnerProduct", "Deconvolution") and weight is not None and not weight.any():
            names.append(layer.name)
    return names
