"""Layers of the segmenters of Caffe's years that are not Caffe's own: SegNet's, ENet's, DeepLab's and PSPNet's.

BN has three forms under one name: SegNet's (a factor and a bias; statistics of the batch, or none with ``INFERENCE``),
PSPNet's (factor, bias, mean, variance) and the older one of caffe-windows, which differs from it in names.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.caffe.description import Layer
from fullyconv.caffe.fields import Engine, Filler
from fullyconv.caffe.kind import Fillers, Kind, Shapes, count
from fullyconv.caffe.modules import Pooling, normalise, statistics

SEGNET_EPS = 1e-9
ONE = Filler(value=1)


@dataclass(frozen=True)
class _Bn:
    """``bn_param``, of all its forms."""

    scale_filler: Filler | None = None
    shift_filler: Filler | None = None
    slope_filler: Filler | None = None
    bias_filler: Filler | None = None
    bn_mode: Literal["LEARN", "INFERENCE"] | None = None
    momentum: float | None = None
    eps: float | None = None
    frozen: bool | None = None
    var_eps: float | None = None
    decay: float | None = None
    moving_average: bool | None = None
    icnet: bool | None = None
    axis: int = 1
    engine: Engine = "DEFAULT"

    @property
    def stores(self) -> bool | None:
        """Whether the layer stores statistics; ``None`` where the file does not tell (its weights do)."""
        if self.bn_mode is not None:
            return False
        own = (self.slope_filler, self.bias_filler, self.momentum, self.eps, self.frozen, self.icnet)
        return True if self.is_older or any(value is not None for value in own) else None

    @property
    def is_older(self) -> bool:
        """Whether the layer is of caffe-windows' form."""
        return any(value is not None for value in (self.var_eps, self.decay, self.moving_average))


@dataclass(frozen=True)
class _Upsample:
    """``upsample_param``."""

    scale: int | None = None
    scale_h: int | None = None
    scale_w: int | None = None
    pad_out_h: bool = False
    pad_out_w: bool = False
    upsample_h: int | None = None
    upsample_w: int | None = None


@dataclass(frozen=True)
class _Interp:
    """``interp_param``."""

    height: int | None = None
    width: int | None = None
    zoom_factor: int | None = None
    shrink_factor: int | None = None
    pad_beg: int = 0
    pad_end: int = 0


@dataclass(frozen=True)
class _Unpooling:
    """``unpooling_param``, DeconvNet's."""

    unpool: Literal["MAX", "AVE", "TILE"] = "MAX"
    pad: int = 0
    kernel_size: int = 0
    stride: int = 1
    unpool_size: int | None = None
    unpool_h: int | None = None
    unpool_w: int | None = None


@dataclass(frozen=True)
class _Norm:
    """``norm_param``, of ParseNet and SSD."""

    across_spatial: bool = True
    scale_filler: Filler = ONE
    channel_shared: bool = True
    eps: float = 1e-10


@dataclass(frozen=True)
class PythonLayer:
    """``python_param``."""

    module: str = ""
    layer: str = ""
    param_str: str = ""
    share_in_parallel: bool = False


Statistics = Literal["none", "batch", "moving", "fixed"]


class Normal(nn.Module):
    """A normalised channel times ``weight`` plus ``bias``, C each.

    Normalised by no ``statistics`` (SegNet's INFERENCE), by those of the batch, by ``mean`` and ``variance`` while
    predicting (moving), or always (fixed). ``stored`` has these two as blobs; ``momentum`` is how much of them a batch
    leaves while training.
    """

    def __init__(
        self, channels: int, eps: float, statistics: Statistics, *, stored: bool = False, momentum: float = 0.9
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.statistics = eps, momentum, statistics
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.mean: Tensor | None
        self.variance: Tensor | None
        self.register_buffer("mean", torch.empty(channels) if stored else None)
        self.register_buffer("variance", torch.empty(channels) if stored else None)

    def forward(self, bottom: Tensor) -> Tensor:
        """Normalise N x C x …."""
        if self.statistics != "none":
            bottom = normalise(bottom, *self._statistics(bottom), self.eps)
        shape = (-1, *[1] * (bottom.ndim - 2))
        return bottom * self.weight.reshape(shape) + self.bias.reshape(shape)

    def _statistics(self, bottom: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.variance is None:
            return statistics(bottom)
        if self.statistics == "fixed" or (self.statistics == "moving" and not self.training):
            return self.mean, self.variance
        mean, variance = statistics(bottom)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
                self.variance.mul_(self.momentum).add_(variance, alpha=1 - self.momentum)
        return mean, variance


class Unpool(nn.Module):
    """Values put back to where a pooling found them, zeros elsewhere.

    The plane is ``size``, or ``scale`` times the bottom less ``cut``; it must be the one that was pooled, or the places
    would be others: where the pooling is known, another size is an error.
    """

    def __init__(self, *, size: tuple[int, int] | None, scale: tuple[int, int], cut: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.scale, self.cut = size, scale, cut
        self._pooling: list[Pooling] = []  # a list, for the pooling is no part of this module

    def find_places(self, pooling: Pooling | None) -> None:
        """Remember the layer that finds the places."""
        self._pooling = [] if pooling is None else [pooling]

    def forward(self, bottom: Tensor, places: Tensor) -> Tensor:
        """Unpool N x C x H x W by places of the same shape; raises ``ValueError`` for places outside the plane."""
        if bottom.shape != places.shape:
            raise ValueError(f"places of {tuple(places.shape)} for values of {tuple(bottom.shape)}")
        height, width = self.size or (
            side * factor - less for side, factor, less in zip(bottom.shape[2:], self.scale, self.cut, strict=True)
        )
        pooled = self._pooling[0].plane if self._pooling else None
        if pooled is not None and pooled != (height, width):
            raise ValueError(
                f"the places are in a plane of {tuple(pooled)}, this layer makes {(height, width)}: "
                "feed the size that the net was made for"
            )
        index = places.long().flatten(2)
        if not index.is_meta and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < height * width:
            raise ValueError(f"places outside a plane of {height} x {width}")
        top = bottom.new_zeros(*bottom.shape[:2], height * width)
        return top.scatter(2, index, bottom.flatten(2)).reshape(*bottom.shape[:2], height, width)


class Normalize(nn.Module):
    """Divide by the root of the sum of squares over channels (and positions: ``across``), multiply by ``weight``."""

    def __init__(self, channels: int | None, *, across: bool, eps: float) -> None:
        super().__init__()
        self.across, self.eps = across, eps
        self.weight = nn.Parameter(torch.empty(() if channels is None else channels))

    def forward(self, bottom: Tensor) -> Tensor:
        """Normalise N x C x …."""
        axes = list(range(1, bottom.ndim)) if self.across else [1]
        length = ((bottom**2).sum(axes, keepdim=True) + self.eps).sqrt()
        return bottom / length * self.weight.reshape(-1, *[1] * (bottom.ndim - 2))


class Interp(nn.Module):
    """Bilinear interpolation that maps corners onto corners, of a map from which ``crop`` (before, after) was cut."""

    def __init__(self, given: _Interp) -> None:
        super().__init__()
        self.given = given

    def forward(self, bottom: Tensor) -> Tensor:
        """Interpolate N x C x H x W."""
        height, width = bottom.shape[2:]
        before, after = -self.given.pad_beg, -self.given.pad_end
        cropped = bottom[:, :, before : height - after, before : width - after]
        if min(cropped.shape[2:]) < 1:
            raise ValueError(f"{height} x {width} less {before + after} leaves nothing")
        sizes = [self._size(side, index) for index, side in enumerate(cropped.shape[2:])]
        return functional.interpolate(cropped, sizes, mode="bilinear", align_corners=True)

    def _size(self, side: int, axis: int) -> int:
        zoom, shrink = self.given.zoom_factor, self.given.shrink_factor
        wanted = (self.given.height, self.given.width)
        if wanted[0] and wanted[1] and not (zoom is None) ^ (shrink is None):
            return cast("int", wanted[axis])
        side = (side - 1) // (shrink or 1) + 1
        return side + (side - 1) * ((zoom or 1) - 1)


def _bn(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("bn_param", _Bn)
    if len(shapes[0]) < 2 or given.axis != 1:
        raise layer.fail(f"axis {given.axis} of a blob of {len(shapes[0])} axes", "axis 1 of N x C x … is supported")
    channels = shapes[0][1]
    if not given.stores:
        return Normal(channels, SEGNET_EPS, "none" if given.bn_mode == "INFERENCE" else "batch")
    if given.is_older:
        if given.var_eps is None:
            raise layer.fail("has no var_eps, whose default is not the same in all versions", "add var_eps: …")
        kept = 1 - (0.05 if given.decay is None else given.decay)
        return Normal(
            channels, given.var_eps, "moving" if given.moving_average else "batch", stored=True, momentum=kept
        )
    eps, momentum = 1e-5 if given.eps is None else given.eps, 0.9 if given.momentum is None else given.momentum
    return Normal(channels, eps, "fixed" if given.frozen else "moving", stored=True, momentum=momentum)


def with_stored_statistics(layer: Layer, module: nn.Module, blobs: int) -> nn.Module:
    """Return the BN that a caffemodel's number of blobs tells: four are PSPNet's form where the file leaves it open."""
    if blobs != 4 or not isinstance(module, Normal) or layer.block("bn_param", _Bn).stores is not None:
        return module
    with torch.device("meta"):
        return Normal(len(module.bias), 1e-5, "moving", stored=True)


def _bn_fillers(layer: Layer) -> Fillers:
    given = layer.block("bn_param", _Bn)
    # SegNet's factor starts as its filler says, which is 0 where there is none; PSPNet's at 1.
    start = ONE if given.stores else Filler()
    return (given.slope_filler or given.scale_filler or start, given.bias_filler or given.shift_filler or Filler())


def _upsample(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("upsample_param", _Upsample)
    if len(shapes) == 1:  # no places: darknet's layer of this name repeats every value
        return nn.Upsample(scale_factor=count(layer, "scale", given.scale or 1), mode="nearest")
    if given.upsample_h is not None and given.upsample_w is not None:
        return Unpool(size=(given.upsample_h, given.upsample_w), scale=(1, 1), cut=(0, 0))
    if (given.scale is not None) == (given.scale_h is not None or given.scale_w is not None):
        raise layer.fail("its size is not clear", "give upsample_h and upsample_w, or scale")
    scale = (given.scale or given.scale_h or 0, given.scale or given.scale_w or 0)
    count(layer, "scale", min(scale), least=2)
    cut = (int(given.pad_out_h), int(given.pad_out_w))
    if any(less and factor != 2 for less, factor in zip(cut, scale, strict=True)):
        raise layer.fail(f"pad_out with a scale of {scale}", "it belongs to a scale of 2")
    return Unpool(size=None, scale=scale, cut=cut)


def _unpooling(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("unpooling_param", _Unpooling)
    if given.unpool != "MAX" or given.pad:
        raise layer.fail(f"unpool is {given.unpool}, pad {given.pad}", "MAX without a pad is supported")
    height, width = given.unpool_h or given.unpool_size, given.unpool_w or given.unpool_size
    if height and width:
        return Unpool(size=(height, width), scale=(1, 1), cut=(0, 0))
    if given.kernel_size != given.stride:
        raise layer.fail("its size is not clear", "give unpool_size, or a stride that is the kernel_size")
    return Unpool(size=None, scale=(given.stride, given.stride), cut=(0, 0))


def _normalize(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("norm_param", _Norm)
    if len(shapes[0]) < 2:
        raise layer.fail(f"a blob of {len(shapes[0])} axes", "it needs N x C x …")
    channels = None if given.channel_shared else shapes[0][1]
    return Normalize(channels, across=given.across_spatial, eps=given.eps)


def _norm_fillers(layer: Layer) -> Fillers:
    return (layer.block("norm_param", _Norm).scale_filler,)


def _interp(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("interp_param", _Interp)
    if given.pad_beg > 0 or given.pad_end > 0:
        raise layer.fail("a pad above 0", "pad_beg and pad_end crop: they are 0 or less")
    for what, value in (("zoom_factor", given.zoom_factor), ("shrink_factor", given.shrink_factor)):
        count(layer, what, 1 if value is None else value)
    sized = given.height is not None and given.width is not None
    if not sized and given.zoom_factor is None and given.shrink_factor is None:
        raise layer.fail("its size is not given", "give height and width, zoom_factor or shrink_factor")
    if sized and min(cast("int", given.height), cast("int", given.width)) < 1:
        raise layer.fail(f"a size of {given.height} x {given.width}", "height and width are at least 1")
    return Interp(given)


def is_spatial_dropout(layer: Layer) -> bool:
    """Return whether a Python layer is ENet's, which drops whole maps while training."""
    return layer.kind == "Python" and layer.block("python_param", PythonLayer).layer == "SpatialDropoutLayer"


def _spatial_dropout(layer: Layer, shapes: Shapes) -> nn.Module:
    text = layer.block("python_param", PythonLayer).param_str
    try:
        ratio = float(ast.literal_eval(text)["p"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise layer.fail(f"its param_str {text!r}", "write \"{'phase': 'TRAIN', 'p': '0.1'}\"") from None
    if not 0 <= ratio < 1:
        raise layer.fail(f"p is {ratio}", "write 0 to below 1")
    return nn.Dropout2d(ratio)


KINDS: dict[str, Kind] = {
    "BN": Kind(_bn, ("bn_param",), fillers=_bn_fillers),
    "Upsample": Kind(_upsample, ("upsample_param",), most=2),
    "Unpooling": Kind(_unpooling, ("unpooling_param",), least=2, most=2),
    "Normalize": Kind(_normalize, ("norm_param",), fillers=_norm_fillers),
    "ReLU6": Kind(lambda layer, shapes: nn.ReLU6(), ("relu_param", "relu6_param")),
    "Interp": Kind(_interp, ("interp_param",)),
}
SPATIAL_DROPOUT = Kind(_spatial_dropout, ("python_param",))
