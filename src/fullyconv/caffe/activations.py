"""Layers that work on every value alone: their fields, their modules, and how these are made."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from fullyconv.caffe.description import Layer
from fullyconv.caffe.fields import Engine, Filler
from fullyconv.caffe.kind import Fillers, Kind, Shapes

NATURAL = -1.0  # the base that stands for e
SLOPE = Filler(value=0.25)  # what PReLU starts with


@dataclass(frozen=True)
class Relu:
    """``relu_param``."""

    negative_slope: float = 0
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Prelu:
    """``prelu_param``."""

    filler: Filler = SLOPE
    channel_shared: bool = False


@dataclass(frozen=True)
class Elu:
    """``elu_param``."""

    alpha: float = 1


@dataclass(frozen=True)
class Power:
    """``power_param``."""

    power: float = 1
    scale: float = 1
    shift: float = 0


@dataclass(frozen=True)
class Exponent:
    """``exp_param`` and ``log_param``."""

    base: float = NATURAL
    scale: float = 1
    shift: float = 0


@dataclass(frozen=True)
class Threshold:
    """``threshold_param``."""

    threshold: float = 0


@dataclass(frozen=True)
class Clip:
    """``clip_param``."""

    min: float
    max: float


@dataclass(frozen=True)
class Swish:
    """``swish_param``."""

    beta: float = 1


@dataclass(frozen=True)
class Dropout:
    """``dropout_param``."""

    dropout_ratio: float = 0.5
    sample_weights_test: bool = False  # SegNet: drop in TEST, too
    scale_train: bool = True


@dataclass(frozen=True)
class _EngineOnly:
    """``sigmoid_param``, ``tanh_param``."""

    engine: Engine = "DEFAULT"


class Prelus(nn.Module):
    """x where it is positive, else x times a learned factor for each channel (or for all: a shape of no axes)."""

    def __init__(self, shape: Size) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self, bottom: Tensor) -> Tensor:
        """Bend N x C x …."""
        slope = self.weight.reshape(-1, *[1] * max(bottom.ndim - 2, 0)) if self.weight.ndim else self.weight
        return bottom.clamp(min=0) + slope * bottom.clamp(max=0)


class Powers(nn.Module):
    """(shift + scale * x) ** power."""

    def __init__(self, power: float, scale: float, shift: float) -> None:
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        line: Tensor = self.shift + self.scale * bottom
        return line if self.power == 1 else line**self.power


class Exponential(nn.Module):
    """base ** (shift + scale * x)."""

    def __init__(self, base: float, scale: float, shift: float) -> None:
        super().__init__()
        self.rate, self.scale, self.shift = 1.0 if base == NATURAL else log(base), scale, shift

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return (self.rate * (self.shift + self.scale * bottom)).exp()


class Logarithm(nn.Module):
    """The logarithm of shift + scale * x."""

    def __init__(self, base: float, scale: float, shift: float) -> None:
        super().__init__()
        self.rate, self.scale, self.shift = 1.0 if base == NATURAL else log(base), scale, shift

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return (self.shift + self.scale * bottom).log() / self.rate


class Above(nn.Module):
    """1 where x is above a threshold, else 0."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return (bottom > self.threshold).to(bottom.dtype)


class Absolute(nn.Module):
    """The absolute value."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return bottom.abs()


class BinomialLikelihood(nn.Module):
    """log(1 + e ** x)."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return bottom.clamp(min=0) + (-bottom.abs()).exp().log1p()


class Swishes(nn.Module):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        return bottom * (self.beta * bottom).sigmoid()


class Drop(nn.Module):
    """Set a share of the values to 0 and scale the others up to match: always (Bayesian SegNet), not in training only.

    ``scale_train`` of false scales nothing while training, and all values by what is kept in TEST.
    """

    def __init__(self, ratio: float, *, always: bool, scale_train: bool) -> None:
        super().__init__()
        self.ratio, self.always, self.scale_train = ratio, always, scale_train

    def forward(self, bottom: Tensor) -> Tensor:
        """Drop values of any blob."""
        active = self.training or self.always
        dropped = functional.dropout(bottom, self.ratio, active)
        kept = 1 if self.scale_train else 1 - self.ratio
        return dropped * kept


def _prelu(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("prelu_param", Prelu)
    if len(shapes[0]) < 2:
        raise layer.fail(f"a blob of {len(shapes[0])} axes", "it needs N x C x …")
    return Prelus(Size([] if given.channel_shared else [shapes[0][1]]))


def _prelu_fillers(layer: Layer) -> Fillers:
    return (layer.block("prelu_param", Prelu).filler,)


def _relu(layer: Layer, shapes: Shapes) -> nn.Module:
    slope = layer.block("relu_param", Relu).negative_slope
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _dropout(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("dropout_param", Dropout)
    if not 0 <= given.dropout_ratio < 1:
        raise layer.fail(f"dropout_ratio is {given.dropout_ratio}", "write 0 to below 1")
    if given.scale_train and not given.sample_weights_test:
        return nn.Dropout(given.dropout_ratio)
    return Drop(given.dropout_ratio, always=given.sample_weights_test, scale_train=given.scale_train)


def _power(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("power_param", Power)
    return Powers(given.power, given.scale, given.shift)


def _base(layer: Layer, block: str) -> Exponent:
    given = layer.block(block, Exponent)
    if given.base != NATURAL and not (given.base > 0 and given.base != 1):
        raise layer.fail(f"base is {given.base}", "a base is above 0 and not 1; -1 stands for e")
    return given


def _exp(layer: Layer, shapes: Shapes) -> nn.Module:
    given = _base(layer, "exp_param")
    return Exponential(given.base, given.scale, given.shift)


def _log(layer: Layer, shapes: Shapes) -> nn.Module:
    given = _base(layer, "log_param")
    return Logarithm(given.base, given.scale, given.shift)


def _clip(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("clip_param", Clip)
    return nn.Hardtanh(given.min, given.max)


def _sigmoid(layer: Layer, shapes: Shapes) -> nn.Module:
    layer.block("sigmoid_param", _EngineOnly)
    return nn.Sigmoid()


def _tanh(layer: Layer, shapes: Shapes) -> nn.Module:
    layer.block("tanh_param", _EngineOnly)
    return nn.Tanh()


KINDS: dict[str, Kind] = {
    "ReLU": Kind(_relu, ("relu_param",)),
    "PReLU": Kind(_prelu, ("prelu_param",), fillers=_prelu_fillers),
    "ELU": Kind(lambda layer, shapes: nn.ELU(layer.block("elu_param", Elu).alpha), ("elu_param",)),
    "Sigmoid": Kind(_sigmoid, ("sigmoid_param",)),
    "TanH": Kind(_tanh, ("tanh_param",)),
    "AbsVal": Kind(lambda layer, shapes: Absolute()),
    "BNLL": Kind(lambda layer, shapes: BinomialLikelihood()),
    "Power": Kind(_power, ("power_param",)),
    "Exp": Kind(_exp, ("exp_param",)),
    "Log": Kind(_log, ("log_param",)),
    "Threshold": Kind(
        lambda layer, shapes: Above(layer.block("threshold_param", Threshold).threshold), ("threshold_param",)
    ),
    "Clip": Kind(_clip, ("clip_param",)),
    "Swish": Kind(lambda layer, shapes: Swishes(layer.block("swish_param", Swish).beta), ("swish_param",)),
    "Dropout": Kind(_dropout, ("dropout_param",)),
}
