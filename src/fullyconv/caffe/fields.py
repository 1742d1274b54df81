"""The fields of Caffe's layers, as frozen values with Caffe's defaults.

What is here is honoured, or (under "no effect") changes nothing about what a layer computes; a field
that is not here is refused by ``Message.read``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal["DEFAULT", "CAFFE", "CUDNN"]  # no effect: which library computes


@dataclass(frozen=True)
class Filler:
    """How weights start."""

    type: str = "constant"
    value: float = 0
    min: float = 0
    max: float = 1
    mean: float = 0
    std: float = 1
    variance_norm: Literal["FAN_IN", "FAN_OUT", "AVERAGE"] = "FAN_IN"


@dataclass(frozen=True)
class Convolution:
    """``convolution_param``, of Convolution and Deconvolution."""

    num_output: int
    bias_term: bool = True
    pad: tuple[int, ...] = ()
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    group: int = 1
    axis: int = 1
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()
    engine: Engine = "DEFAULT"
    force_nd_im2col: bool = False  # no effect


@dataclass(frozen=True)
class Pooling:
    """``pooling_param``."""

    pool: Literal["MAX", "AVE", "STOCHASTIC"] = "MAX"
    pad: int | None = None
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_size: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    global_pooling: bool = False
    round_mode: Literal["CEIL", "FLOOR"] = "CEIL"
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Lrn:
    """``lrn_param``."""

    local_size: int = 5
    alpha: float = 1
    beta: float = 0.75
    k: float = 1
    norm_region: Literal["ACROSS_CHANNELS", "WITHIN_CHANNEL"] = "ACROSS_CHANNELS"
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Relu:
    """``relu_param``."""

    negative_slope: float = 0
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Dropout:
    """``dropout_param``."""

    dropout_ratio: float = 0.5


@dataclass(frozen=True)
class InnerProduct:
    """``inner_product_param``."""

    num_output: int
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()


@dataclass(frozen=True)
class Crop:
    """``crop_param``."""

    axis: int = 2
    offset: tuple[int, ...] = ()


@dataclass(frozen=True)
class Eltwise:
    """``eltwise_param``."""

    operation: Literal["PROD", "SUM", "MAX"] = "SUM"
    coeff: tuple[float, ...] = ()
    stable_prod_grad: bool = True  # no effect: two ways to compute one gradient


@dataclass(frozen=True)
class Concat:
    """``concat_param``; ``concat_dim`` is the old name of ``axis``."""

    axis: int | None = None
    concat_dim: int | None = None


@dataclass(frozen=True)
class Slice:
    """``slice_param``; ``slice_dim`` is the old name of ``axis``."""

    axis: int | None = None
    slice_dim: int | None = None
    slice_point: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scale:
    """``scale_param``."""

    axis: int = 1
    num_axes: int = 1
    filler: Filler = Filler(value=1)
    bias_term: bool = False
    bias_filler: Filler = Filler()


@dataclass(frozen=True)
class Power:
    """``power_param``."""

    power: float = 1
    scale: float = 1
    shift: float = 0


@dataclass(frozen=True)
class BatchNorm:
    """``batch_norm_param``."""

    use_global_stats: bool | None = None
    moving_average_fraction: float = 0.999
    eps: float = 1e-5


@dataclass(frozen=True)
class Softmax:
    """``softmax_param``."""

    axis: int = 1
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Loss:
    """``loss_param``."""

    ignore_label: int | None = None
    normalization: Literal["FULL", "VALID", "BATCH_SIZE", "NONE"] | None = None
    normalize: bool | None = None


@dataclass(frozen=True)
class Accuracy:
    """``accuracy_param``."""

    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None


@dataclass(frozen=True)
class Shape:
    """A blob's sizes."""

    dim: tuple[int, ...] = ()


@dataclass(frozen=True)
class Input:
    """``input_param``."""

    shape: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class ParamSpec:
    """``param``: how a blob of weights trains."""

    name: str = ""
    share_mode: Literal["STRICT", "PERMISSIVE"] = "STRICT"
    lr_mult: float = 1
    decay_mult: float = 1


@dataclass(frozen=True)
class StateRule:
    """``include`` and ``exclude``: in which state of the net a layer is there."""

    phase: Literal["TRAIN", "TEST"] | None = None
    min_level: int | None = None
    max_level: int | None = None
    stage: tuple[str, ...] = ()
    not_stage: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """The state of a net."""

    phase: Literal["TRAIN", "TEST"] | None = None
    level: int = 0
    stage: tuple[str, ...] = ()

    def meets(self, rule: StateRule) -> bool:
        """Return whether a rule holds in this state (Caffe's ``StateMeetsRule``)."""
        return (
            rule.phase in (None, self.phase)
            and (rule.min_level is None or self.level >= rule.min_level)
            and (rule.max_level is None or self.level <= rule.max_level)
            and all(stage in self.stage for stage in rule.stage)
            and not any(stage in self.stage for stage in rule.not_stage)
        )
