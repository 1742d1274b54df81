"""The table of operations: one row for each that a network may contain, whatever it is spelled.

A row is all there is to know of an operation: how PyTorch spells it (functions, tensor methods, operators, layers),
what it does to positions, its form in a fully convolutional head, its à trous form, what it counts. Whoever asks
something of an operation reads its row; an operation's name stands nowhere else. What is not in the table is refused
by name where it meets a map. A new operation is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.trace import activations, axes, frames, joins, products, reductions, windows
from fullyconv.trace.frames import Frame
from fullyconv.trace.nodes import spelling
from fullyconv.trace.positions import Call, Given, Positions

Rule = Callable[[Call], Positions | None]
"""Finds the positions of a result; ``None`` where it does not depend on the picture."""

HeadForm = Literal["", "position", "as is", "reshape", "reduce", "last", "along", "linear", "product", "convolution"]
"""What an operation on the vector of one picture becomes on the map of all positions' vectors:

"position" the same operation, with a vector's other arguments as those of a map's channels; "as is" the same with
the other arguments unchanged; "reshape" nothing, for it moves a single unit; "reduce" the same over channels;
"last" and "along" the same along the channels, which are the vector's last axis or the axis it names; "linear" a
convolution of the window it reads; "product" a matrix product with the channels; "convolution" itself; "" none.
"""

Affine = Literal["", "always", "one", "first"]
"""Whether the mean of its results is its result of the mean: "one" if one argument alone depends on the picture,
"first" if that is moreover the first."""

AtrousForm = Literal["", "same", "window", "border", "crop", "expand"]
"""What becomes of an operation when the strides before it are removed: "same" nothing, "window" its taps and its
padding are spread out and its stride is removed, "border" and "crop" what it puts on or cuts off is enlarged,
"expand" a vector is not repeated, since each phase has its own; "" there is no such form."""

StreamForm = Literal["", "window", "sliding", "border", "crop", "spread", "resize"]
"""What an operation does to the rows of a picture that comes in bands (``fullyconv.predict.streamed``): "" answers each
row from that row (or from a block of rows, or makes several of each), "window" and "sliding" move a window over them,
"border" adds or cuts, "crop" takes some, "spread" and "resize" enlarge."""

Role = Literal["", "norm", "drop", "idle"]
"""What else is to be known: it normalises; it drops something in training alone; it does nothing."""


@dataclass(frozen=True)
class Operation:
    """One row. Functions, methods and operators are told by their bare names (``fullyconv.trace.nodes.spelling``)."""

    spellings: tuple[str, ...]
    layers: tuple[type[nn.Module], ...] = ()
    positions: Rule = joins.unitwise
    head: HeadForm = "position"
    affine: Affine = ""
    atrous: AtrousForm = "same"
    multiply_adds: Callable[[Call], int] = products.nothing
    pools: Literal["", "mean", "max", "sum"] = ""  # how it makes a vector of a map
    frame: Callable[[Given], Frame | None] | None = None  # reads the window it moves over a map
    dim: int = 1  # the place of the argument that names its axis
    role: Role = ""
    fixed: Callable[..., Tensor] | None = None  # pools to a size; this function pools by a window
    caffe: str = ""  # the type of Caffe's layer for it
    foreign: tuple[str, ...] = ()  # the classes that libraries write for it as modules of their own
    fused: activations.Reads | None = None  # reads it as an activation behind one of oneDNN's convolutions
    stream: StreamForm = ""

    @property
    def unitwise(self) -> bool:
        """Return whether it answers each unit (of each of its arguments) from that unit's channels alone."""
        return self.positions in (joins.unitwise, joins.channelwise, joins.prelu, joins.cast)

    @property
    def joins(self) -> bool:
        """Return whether it lays all its arguments on each other."""
        joining = joins.unitwise, joins.channelwise, joins.prelu, joins.cat, joins.stack, products.einsum
        return self.positions in joining


def _each(
    names: str,
    *layers: type[nn.Module],
    affine: Affine = "",
    caffe: str = "",
    fused: activations.Reads | None = None,
) -> Operation:
    """Make the row of what acts on each number by itself."""
    return Operation(tuple(names.split()), layers, affine=affine, caffe=caffe, fused=fused)


def _channelwise(
    names: str, *layers: type[nn.Module], affine: Affine = "", role: Role = "", caffe: str = ""
) -> Operation:
    return Operation(tuple(names.split()), layers, joins.channelwise, "as is", affine=affine, role=role, caffe=caffe)


def _drop(names: str, *layers: type[nn.Module], caffe: str = "") -> Operation:
    return Operation(tuple(names.split()), layers, affine="always", role="drop", caffe=caffe)


def _window(read: Callable[[Given], Frame | None]) -> Rule:
    """Make the rule of what moves the window that ``read`` reads."""
    return lambda call: windows.frame(call, read)


def _moves(names: str, rule: Rule, *layers: type[nn.Module], head: HeadForm = "reshape") -> Operation:
    """Make the row of what moves axes about."""
    return Operation(tuple(names.split()), layers, rule, head, affine="always" if head == "reshape" else "")


def _refused(names: str, reason: str, *layers: type[nn.Module]) -> Operation:
    return Operation(tuple(names.split()), layers, products.refused(reason), "", atrous="")


ELEMENTWISE = (
    "abs absolute", "acos arccos", "acosh arccosh", "addcdiv", "addcmul", "asin arcsin", "asinh arcsinh", "atan arctan",
    "atan2 arctan2", "atanh arctanh", "bitwise_and and", "bitwise_left_shift lshift", "bitwise_not invert",
    "bitwise_or or", "bitwise_right_shift rshift", "bitwise_xor xor", "ceil", "clamp clip", "clamp_max", "clamp_min",
    "copysign", "cos", "cosh", "deg2rad", "digamma psi", "eq", "erf", "erfc", "erfinv", "exp", "exp2",
    "expm1", "fill", "float_power", "floor", "floor_divide floordiv ifloordiv", "fmax", "fmin", "fmod", "frac",
    "full_like", "ge greater_equal", "gt greater", "heaviside", "hypot", "i0", "isclose", "isfinite", "isinf", "isnan",
    "ldexp", "le less_equal", "lerp", "lgamma gammaln", "log", "log10", "log1p", "log2", "logaddexp", "logaddexp2",
    "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt less", "masked_fill", "maximum", "minimum",
    "nan_to_num", "ne not_equal", "nextafter", "ones_like", "pow ipow", "rad2deg", "rand_like", "randn_like",
    "reciprocal", "remainder mod imod", "round", "rpow", "rsqrt", "rtruediv rdiv", "sgn", "sign", "signbit",
    "sin", "sinc", "sinh", "sqrt", "square", "tan", "trunc fix", "where", "xlogy", "zero", "zeros_like",
    "bool", "byte", "char", "int", "long", "short", "type", "bernoulli",
)  # fmt: skip

ACTIVATIONS: tuple[tuple[str, type[nn.Module], activations.Reads | None], ...] = (
    ("celu", nn.CELU, None), ("elu", nn.ELU, None), ("gelu", nn.GELU, activations.gelu),
    ("hardshrink", nn.Hardshrink, None), ("hardsigmoid", nn.Hardsigmoid, activations.plain("hardsigmoid")),
    ("hardswish", nn.Hardswish, activations.plain("hardswish")), ("hardtanh", nn.Hardtanh, activations.hardtanh),
    ("leaky_relu", nn.LeakyReLU, activations.leaky_relu), ("logsigmoid log_sigmoid", nn.LogSigmoid, None),
    ("mish", nn.Mish, None), ("rrelu", nn.RReLU, None), ("selu", nn.SELU, None),
    ("sigmoid expit", nn.Sigmoid, activations.plain("sigmoid")), ("silu", nn.SiLU, activations.plain("swish")),
    ("softplus", nn.Softplus, None), ("softshrink", nn.Softshrink, None), ("softsign", nn.Softsign, None),
    ("tanh", nn.Tanh, activations.plain("tanh")), ("tanhshrink", nn.Tanhshrink, None),
    ("threshold", nn.Threshold, None),
)  # fmt: skip

PER_UNIT = (
    *map(_each, ELEMENTWISE),
    *(_each(name, layer, fused=fused) for name, layer, fused in ACTIVATIONS),
    _each("relu", nn.ReLU, caffe="ReLU", fused=activations.plain("relu")),
    _each("relu6", nn.ReLU6, caffe="Clip", fused=activations.relu6),
    _each("add iadd radd", affine="always", caffe="Eltwise"),
    *(
        _each(names, affine="always")
        for names in (
            "sub subtract isub rsub", "neg negative", "positive pos", "clone", "detach", "contiguous",
            "cpu", "cuda", "float", "double", "half", "bfloat16", "data", "real", "requires_grad",
        )
    ),
    Operation(("to", "type_as"), (), joins.cast, affine="always"),
    _each("mul multiply imul rmul", affine="one"),
    _each("div divide true_divide truediv itruediv idiv", affine="first"),
    Operation(("identity",), (nn.Identity,), affine="always", role="idle"),
    Operation(("prelu",), (nn.PReLU,), joins.prelu, "as is"),
    _channelwise("batch_norm", nn.modules.batchnorm._BatchNorm, affine="always", role="norm", caffe="BatchNorm"),
    Operation(
        ("local_response_norm",), (nn.LocalResponseNorm, nn.CrossMapLRN2d), joins.channelwise, "as is",
        role="norm", caffe="LRN",
    ),
    _channelwise("channel_shuffle native_channel_shuffle", nn.ChannelShuffle),
    _drop("dropout", nn.Dropout, caffe="Dropout"),
    _drop("dropout1d", nn.Dropout1d),
    _drop("dropout2d", nn.Dropout2d),
    _drop("dropout3d", nn.Dropout3d),
    _drop("alpha_dropout", nn.AlphaDropout),
    _drop("feature_alpha_dropout", nn.FeatureAlphaDropout),
    _drop("feature_dropout"),
    Operation(
        ("stochastic_depth",), foreign=("DropPath", "StochasticDepth", "DropBlock2d", "DropBlock2D", "Dropout2d"),
        affine="always", role="drop",
    ),
)  # fmt: skip

JOINS = (
    Operation(("cat", "concat", "concatenate"), (), joins.cat, affine="always", caffe="Concat"),
    Operation(("stack",), (), joins.stack, ""),
)

REDUCTIONS = (
    Operation(("mean",), (), reductions.reduce(), "reduce", "always", "", pools="mean"),
    Operation(("amax",), (), reductions.reduce(), "reduce", "", "", pools="max"),
    Operation(("sum",), (), reductions.reduce(), "reduce", "always", "", pools="sum"),
    *(Operation((name,), (), reductions.reduce(), "reduce", atrous="") for name in ("amin", "var", "std")),
    *(
        Operation((name,), (), reductions.reduce(), "", atrous="")
        for name in ("max", "min", "prod", "logsumexp", "argmax", "argmin", "median", "all", "any", "nansum", "nanmean",
                     "var_mean", "std_mean", "count_nonzero")
    ),
    Operation(("norm", "vector_norm"), (), reductions.reduce(2), "reduce", atrous=""),
    Operation(("softmax",), (nn.Softmax,), reductions.softmax, "along"),
    Operation(("log_softmax",), (nn.LogSoftmax,), reductions.softmax, "along"),
    Operation(("softmin",), (nn.Softmin,), reductions.softmax, "along"),
    Operation(("softmax2d",), (nn.Softmax2d,), reductions.softmax_2d, ""),
    Operation(("glu",), (nn.GLU,), axes.along(1, -1), "along"),
    Operation(("normalize",), (), reductions.normalize, "along", dim=2, role="norm"),
    Operation(("layer_norm",), (nn.LayerNorm,), reductions.layer_norm, "last", role="norm"),
    Operation(("rms_norm",), (nn.RMSNorm,), reductions.layer_norm, "last", role="norm"),
    Operation(("group_norm",), (nn.GroupNorm,), reductions.spatial_norm, "", role="norm"),
    Operation(("instance_norm",), (nn.modules.instancenorm._InstanceNorm,), reductions.spatial_norm, "", role="norm"),
    *(_moves(name, axes.along(1), head="") for name in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")),
    *(_moves(name, axes.along(1, -1), head="") for name in ("sort", "argsort", "index_select")),
    _moves("topk", axes.along(2, -1), head=""),
    _moves("roll", axes.along(2, name="dims"), head=""),
    _moves("flip", axes.flip, head=""),
)  # fmt: skip

CONVOLUTION = Operation(
    ("conv2d",), (nn.Conv2d,), _window(frames.convolution), "convolution", "always", "window",
    products.weighted, frame=frames.convolution, caffe="Convolution", stream="window",
)  # fmt: skip

WINDOWS = (
    CONVOLUTION,
    Operation(
        ("conv_transpose2d",), (nn.ConvTranspose2d,), _window(frames.transposed), "",
        atrous="", multiply_adds=products.spread, frame=frames.transposed, caffe="Deconvolution", stream="spread",
    ),
    Operation(
        ("max_pool2d", "max_pool2d_with_indices"), (nn.MaxPool2d,),
        _window(frames.max_pool), "", atrous="window", frame=frames.max_pool, caffe="Pooling", stream="window",
    ),
    Operation(("max_unpool2d",), (nn.MaxUnpool2d,), windows.unpool, "", atrous="", caffe="Upsample"),
    Operation(
        ("avg_pool2d",), (nn.AvgPool2d,), _window(frames.average_pool), "reshape",
        "always", "window", pools="mean", frame=frames.average_pool, caffe="Pooling", stream="window",
    ),
    Operation(
        ("adaptive_avg_pool2d",), (nn.AdaptiveAvgPool2d,), windows.adaptive, "reshape", "always", "", pools="mean",
        fixed=functional.avg_pool2d,
    ),
    Operation(
        ("adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"), (nn.AdaptiveMaxPool2d,), windows.adaptive,
        "reshape", "", "", pools="max", fixed=functional.max_pool2d,
    ),
    Operation(
        ("sliding_mean", "sliding_max"), (windows.SlidingWindow,), windows.sliding, "",
        atrous="", multiply_adds=products.windowed, stream="sliding",
    ),
    Operation(("pad",), tuple(windows.PADDING), windows.pad, "", atrous="border", caffe="Crop", stream="border"),
    Operation(
        ("interpolate",), (nn.Upsample,),
        windows.resize, "", atrous="", stream="resize",
    ),
    Operation(("pixel_shuffle",), (nn.PixelShuffle,), windows.shuffle, "", atrous=""),
    Operation(("pixel_unshuffle",), (nn.PixelUnshuffle,), windows.shuffle, "", atrous=""),
)  # fmt: skip

AXES = (
    _moves("view", axes.view),
    _moves("reshape", axes.view),
    _moves("flatten", axes.reshape, nn.Flatten),
    _moves("unflatten", axes.reshape, nn.Unflatten, head=""),
    _moves("view_as reshape_as ravel", axes.reshape, head=""),
    _moves("transpose swapaxes swapdims", axes.transpose),
    _moves("mT adjoint", axes.transpose_last, head=""),
    _moves("T H t", axes.reverse, head=""),
    _moves("permute", axes.permute),
    _moves("movedim moveaxis", axes.movedim, head=""),
    _moves("unsqueeze", axes.unsqueeze),
    _moves("squeeze", axes.squeeze),
    _moves("split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split", axes.split, head=""),
    _moves("unbind select", axes.unbind, head=""),
    Operation(("expand", "expand_as", "broadcast_to"), (), axes.expand, "", atrous="expand"),
    _moves("repeat tile", axes.repeat, head=""),
    Operation(("getitem",), (), axes.item, "reshape", "always", "crop", stream="crop"),
    Operation(("narrow", "narrow_copy"), (), axes.narrow, "", atrous="crop", stream="crop"),
)

NOT_KNOWN = "how this operation treats positions is not known"

PRODUCTS = (
    Operation(("linear",), (nn.Linear,), products.linear, "linear", "always", multiply_adds=products.weighted),
    Operation(("matmul", "bmm", "mm"), (), products.matmul, "product", "first", multiply_adds=products.multiplied),
    Operation(("einsum",), (), products.einsum, "", multiply_adds=products.summed),
    Operation(
        ("scaled_dot_product_attention", "multi_head_attention_forward"),
        (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder,
         nn.TransformerDecoder, nn.Transformer),
        products.attention, "", atrous="",
    ),
    *(
        Operation(names, layers, products.refused(NOT_KNOWN), "", atrous="", multiply_adds=products.weighted)
        for names, layers in ((("conv1d",), (nn.Conv1d,)), (("conv3d",), (nn.Conv3d,)))
    ),
    *(
        Operation(names, layers, products.refused(NOT_KNOWN), "", atrous="", multiply_adds=products.spread)
        for names, layers in (
            (("conv_transpose1d",), (nn.ConvTranspose1d,)), (("conv_transpose3d",), (nn.ConvTranspose3d,))
        )
    ),
    *(
        _refused(name, "adds a matrix product to positions: write a linear layer, or matmul and +")
        for name in ("addmm", "addbmm", "baddbmm", "addmv")
    ),
    _refused("empty_like", "holds what memory held before: write zeros_like or full_like"),
)  # fmt: skip

OPERATIONS: tuple[Operation, ...] = (*PER_UNIT, *JOINS, *REDUCTIONS, *WINDOWS, *AXES, *PRODUCTS)

BY_SPELLING = {name: row for row in OPERATIONS for name in row.spellings}
BY_LAYER = {layer: row for row in OPERATIONS for layer in row.layers}
BY_CLASS = {name: row for row in OPERATIONS for name in row.foreign}


def row_of(layer: nn.Module) -> Operation | None:
    """Return the row of a layer; ``None`` where the table does not have it."""
    foreign = BY_CLASS.get(type(layer).__name__)
    return foreign or next((BY_LAYER[kind] for kind in type(layer).__mro__ if kind in BY_LAYER), None)


def operation(node: fx.Node, layer: nn.Module | None) -> Operation | None:
    """Return the row of what a node does; ``None`` where the table does not have it."""
    return BY_SPELLING.get(spelling(node)) if layer is None else row_of(layer)
