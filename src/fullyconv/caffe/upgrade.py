"""Layers of Caffe's older forms as today's: V1 (``layers { type: CONVOLUTION }``) and V0 (``layers { layer { } }``).

A layer comes out as the message that a file of today would have for it, with the lines of the old file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fullyconv.caffe.prototxt import Message, Token
from fullyconv.caffe.states import StateRule

# The words that ``layers { type: … }`` uses, in the order of their numbers (from 1 on), and the types of today; behind
# DECONVOLUTION those of forks, whose numbers are their own.
OLD_TYPES = {
    "ACCURACY": "Accuracy", "BNLL": "BNLL", "CONCAT": "Concat", "CONVOLUTION": "Convolution", "DATA": "Data",
    "DROPOUT": "Dropout", "EUCLIDEAN_LOSS": "EuclideanLoss", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct", "LRN": "LRN", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "POOLING": "Pooling", "RELU": "ReLU", "SIGMOID": "Sigmoid", "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "TANH": "TanH", "WINDOW_DATA": "WindowData",
    "ELTWISE": "Eltwise", "POWER": "Power", "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "HINGE_LOSS": "HingeLoss", "MEMORY_DATA": "MemoryData", "ARGMAX": "ArgMax", "THRESHOLD": "Threshold",
    "DUMMY_DATA": "DummyData", "SLICE": "Slice", "MVN": "MVN", "ABSVAL": "AbsVal", "SILENCE": "Silence",
    "CONTRASTIVE_LOSS": "ContrastiveLoss", "EXP": "Exp", "DECONVOLUTION": "Deconvolution",
    "CROP": "Crop", "INTERP": "Interp", "PRELU": "PReLU", "RESHAPE": "Reshape", "BN": "BN", "UNPOOLING": "Unpooling",
    "UPSAMPLE": "Upsample", "IMAGE_SEG_DATA": "ImageSegData", "DENSE_IMAGE_DATA": "DenseImageData",
    "SEG_ACCURACY": "SegAccuracy", "DENSE_CRF": "DenseCRF", "MAT_READ": "MatRead", "MAT_WRITE": "MatWrite",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield", "PYTHON": "Python", "ROI_POOLING": "ROIPooling",
    "UNIQUE_LABEL": "UniqueLabel", "BIAS_CHANNEL": "BiasChannel", "ADAPTIVE_BIAS_CHANNEL": "AdaptiveBiasChannel",
    "CREATE_DEFORMATION": "CreateDeformation", "APPLY_DEFORMATION": "ApplyDeformation",
    "VALUE_AUGMENTATION": "ValueAugmentation", "VALUE_TRANSFORMATION": "ValueTransformation",
}  # fmt: skip

_SOURCE = {"source": "source", "batchsize": "batch_size", "rand_skip": "rand_skip"}
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_WEIGHTED = {
    "num_output": "num_output", "biasterm": "bias_term", "weight_filler": "weight_filler", "bias_filler": "bias_filler"
}  # fmt: skip
_WINDOW = {"pad": "pad", "kernelsize": "kernel_size", "stride": "stride"}

# type of V0 -> type of today, its block, the fields of the block by their names in V0
_V0: dict[str, tuple[str, str, dict[str, str]]] = {
    "accuracy": ("Accuracy", "", {}),
    "bnll": ("BNLL", "", {}),
    "concat": ("Concat", "concat_param", {"concat_dim": "concat_dim"}),
    "conv": ("Convolution", "convolution_param", _WEIGHTED | _WINDOW | {"group": "group"}),
    "data": ("Data", "data_param", _SOURCE),
    "dropout": ("Dropout", "dropout_param", {"dropout_ratio": "dropout_ratio"}),
    "euclidean_loss": ("EuclideanLoss", "", {}),
    "flatten": ("Flatten", "", {}),
    "hdf5_data": ("HDF5Data", "hdf5_data_param", _SOURCE),
    "hdf5_output": ("HDF5Output", "", {}),
    "hinge_loss": ("HingeLoss", "", {}),
    "im2col": ("Im2col", "convolution_param", _WINDOW),
    "images": (
        "ImageData", "image_data_param",
        _SOURCE | {"shuffle_images": "shuffle", "new_height": "new_height", "new_width": "new_width"},
    ),
    "infogain_loss": ("InfogainLoss", "infogain_loss_param", {"source": "source"}),
    "innerproduct": ("InnerProduct", "inner_product_param", _WEIGHTED),
    "lrn": ("LRN", "lrn_param", {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"}),
    "multinomial_logistic_loss": ("MultinomialLogisticLoss", "", {}),
    "padding": ("Padding", "convolution_param", {"pad": "pad"}),
    "pool": ("Pooling", "pooling_param", _WINDOW | {"pool": "pool"}),
    "power": ("Power", "", {}),
    "relu": ("ReLU", "", {}),
    "sigmoid": ("Sigmoid", "", {}),
    "sigmoid_cross_entropy_loss": ("SigmoidCrossEntropyLoss", "", {}),
    "softmax": ("Softmax", "", {}),
    "softmax_loss": ("SoftmaxWithLoss", "", {}),
    "split": ("Split", "", {}),
    "tanh": ("TanH", "", {}),
    "window_data": ("WindowData", "window_data_param", _SOURCE),
}  # fmt: skip


@dataclass(frozen=True)
class OldHeader:
    """The fields that every layer of V1 may have."""

    type: Annotated[Literal[tuple(OLD_TYPES)], 1]  # type: ignore[valid-type]
    name: str = ""
    bottom: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    include: tuple[StateRule, ...] = ()
    exclude: tuple[StateRule, ...] = ()
    blobs_lr: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()
    loss_weight: tuple[float, ...] = ()
    param: tuple[str, ...] = ()
    blob_share_mode: tuple[Literal["STRICT", "PERMISSIVE"], ...] = ()
    strict_dim: bool = (
        True  # DeepLab's: whether weights of another shape are refused; here those of one count are taken
    )


def upgrade_oldest(messages: list[Message]) -> list[Message]:
    """Bring layers of V0 to V1's form, types of today; others are returned as they are.

    A padding layer goes into the convolutions on it. Raises ``BadFile`` for a type or a field that V0 does not have.
    """
    upgraded, padding = [], {}
    for message in messages:
        layer = _upgrade(message) if "layer" in message.fields else message
        kind = layer.fields.get("type", [])
        if [token.text for token in kind if isinstance(token, Token)] == ["Padding"]:
            padding[_word(layer, "top")] = layer
        else:
            upgraded.append(_padded(layer, padding) if "layer" in message.fields else layer)
    return upgraded


def _upgrade(message: Message) -> Message:
    inner = message.messages("layer")[0]
    word = _word(inner, "type")
    if word not in _V0:
        raise inner.fail(f"type {word!r} of the oldest form", f"write one of {', '.join(_V0)}")
    kind, block, names = _V0[word]
    fields: dict[str, list[Token | Message]] = {
        name: found for name, found in message.fields.items() if name in ("bottom", "top")
    }
    fields["type"] = [Token("string", kind, inner.line)]
    parts: dict[str, Message] = {}
    for name, found in inner.fields.items():
        if name in ("name", "blobs_lr", "weight_decay"):
            fields[name] = found
        elif name in names:
            parts.setdefault(block, Message(inner.path, inner.line)).fields[names[name]] = found
        elif name in _TRANSFORM and kind.endswith("Data"):
            parts.setdefault("transform_param", Message(inner.path, inner.line)).fields[_TRANSFORM[name]] = found
        elif name != "type":
            raise inner.fail(f"a {word} layer with {name}", f"write one of {', '.join(names) or 'no field'}")
    return Message(message.path, message.line, {**fields, **{name: [part] for name, part in parts.items()}})


def _padded(layer: Message, padding: dict[str, Message]) -> Message:
    source = padding.get(_word(layer, "bottom"))
    if source is None:
        return layer
    if _word(layer, "type") != "Convolution":
        raise layer.fail("a padding layer before another than a convolution", "write the pad into the layer itself")
    layer.messages("convolution_param")[0].fields["pad"] = source.messages("convolution_param")[0].fields["pad"]
    layer.fields["bottom"] = source.fields["bottom"]
    return layer


def _word(message: Message, name: str) -> str:
    """Return the first value of a field, or nothing."""
    return next((entry.text for entry in message.fields.get(name, []) if isinstance(entry, Token)), "")
