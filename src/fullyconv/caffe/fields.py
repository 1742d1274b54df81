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
    sparse: int = -1
    num_groups: int = 1  # of "identity", the dilated nets' own
    variance_norm: Literal["FAN_IN", "FAN_OUT", "AVERAGE"] = "FAN_IN"


@dataclass(frozen=True)
class Convolution:
    """``convolution_param``, of Convolution, Deconvolution and Im2col."""

    pad: tuple[int, ...] = ()
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    hole: tuple[int, ...] = ()  # DeepLab's word for dilation
    hole_h: int | None = None
    hole_w: int | None = None
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    axis: int = 1
    force_nd_im2col: bool = False  # no effect
    engine: Engine = "DEFAULT"
    num_output: int = 0
    bias_term: bool = True
    group: int = 1
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()
    cudnn_convolution_algo_seeker: Literal["GET", "FINDEX"] = "FINDEX"  # NVCaffe: no effect
    conv_algos_override: str = ""


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
    round_mode: Literal["CEIL", "FLOOR"] | None = None
    ceil_mode: bool | None = None  # the same in forks
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
class InnerProduct:
    """``inner_product_param``."""

    num_output: int
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()


@dataclass(frozen=True)
class Embed:
    """``embed_param``."""

    num_output: int
    input_dim: int
    bias_term: bool = True
    weight_filler: Filler = Filler()
    bias_filler: Filler = Filler()


@dataclass(frozen=True)
class Mvn:
    """``mvn_param``."""

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9


@dataclass(frozen=True)
class Bias:
    """``bias_param``."""

    axis: int = 1
    num_axes: int = 1
    filler: Filler = Filler()


@dataclass(frozen=True)
class Spp:
    """``spp_param``."""

    pyramid_height: int
    pool: Literal["MAX", "AVE", "STOCHASTIC"] = "MAX"
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Eltwise:
    """``eltwise_param``."""

    operation: Literal["PROD", "SUM", "MAX"] = "SUM"
    coeff: tuple[float, ...] = ()
    stable_prod_grad: bool = True  # no effect: two ways to compute one gradient


@dataclass(frozen=True)
class Scale:
    """``scale_param``."""

    axis: int = 1
    num_axes: int = 1
    filler: Filler = Filler(value=1)
    bias_term: bool = False
    bias_filler: Filler = Filler()


@dataclass(frozen=True)
class BatchNorm:
    """``batch_norm_param``."""

    use_global_stats: bool | None = None
    moving_average_fraction: float = 0.999
    eps: float = 1e-5
    scale_bias: bool = False  # NVCaffe: a factor and a bias of its own
    scale_filler: Filler = Filler(value=1)
    bias_filler: Filler = Filler()
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Softmax:
    """``softmax_param``."""

    axis: int = 1
    engine: Engine = "DEFAULT"


@dataclass(frozen=True)
class Shape:
    """A blob's sizes."""

    dim: tuple[int, ...] = ()


@dataclass(frozen=True)
class Input:
    """``input_param``."""

    shape: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """``parameter_param``."""

    shape: Shape = Shape()
