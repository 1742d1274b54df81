"""A Caffe net from its files: its description, and its weights as a caffemodel or its fillers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fullyconv.caffe import fields
from fullyconv.caffe.description import Description, Layer, describe
from fullyconv.caffe.dialects import with_stored_statistics
from fullyconv.caffe.fill import assign, blobs_of, fill
from fullyconv.caffe.modules import InnerProduct
from fullyconv.caffe.net import Net
from fullyconv.caffe.reshaping import SliceFields
from fullyconv.caffe.sources import WRITTEN, source_shapes
from fullyconv.caffe.states import Phase, State
from fullyconv.caffe.wire import read_weights
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS


def _channels_of(description: Description, weights: Mapping[str, Sequence[np.ndarray]]) -> dict[str, int]:
    """Return the channels of pictures, where no layer says them, from the first layers on them."""
    is_open = {name for name, shape in description.inputs.items() if not shape}
    for layer in description.layers:
        if layer.is_source:
            is_open |= {top for top, shape in source_shapes(layer).items() if not shape or layer.kind not in WRITTEN}
    found: dict[str, int] = {}
    for layer in description.layers:
        if not layer.bottoms or layer.bottoms[0] not in is_open:
            continue
        channels = _sliced(layer) if layer.kind == "Slice" else _convolved(layer, weights.get(layer.name, ()))
        if channels:
            found[layer.bottoms[0]] = channels
    return found


def _convolved(layer: Layer, blobs: Sequence[np.ndarray]) -> int | None:
    """Return the channels of what a convolution sees, by its weights."""
    if layer.kind != "Convolution" or not blobs or blobs[0].ndim != 4:
        return None
    return int(blobs[0].shape[1]) * layer.block("convolution_param", fields.Convolution).group


def _sliced(layer: Layer) -> int | None:
    """Return the channels of what is cut, as a pair of pictures is: the last part is as large as the one before."""
    given = layer.block("slice_param", SliceFields)
    points = (0, *given.slice_point)
    if not given.slice_point or (given.axis if given.axis is not None else given.slice_dim) not in (None, 1):
        return None
    return 2 * points[-1] - points[-2]


def load(
    prototxt: Path | str,
    caffemodel: Path | str | None = None,
    *,
    phase: Phase | None = None,
    stage: str | Sequence[str] = (),
    level: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Net:
    """Read a net from Caffe's files: ``load("deploy.prototxt", "net.caffemodel")({"data": x})["score"]``.

    Args:
        prototxt: The net's description.
        caffemodel: Its weights, ``.caffemodel`` or ``.caffemodel.h5``; without them they start as the fillers say.
        phase: Which layers to take of a file that serves both training and testing; default TEST.
        stage: Or of one that serves several stages: the stage, or stages, of the net.
        level: Or several levels: the level of the net.
        shapes: The sizes of inputs that data layers leave open, by blob.

    Returns:
        The net in evaluation mode; weights whose ``lr_mult`` is 0 do not require gradients.

    Raises:
        BadFile: For layers, fields and weights that cannot be honoured.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     file = Path(place, "deploy.prototxt")
    ...     _ = file.write_text(
    ...         'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
    ...         'layer { name: "score" type: "Convolution" bottom: "data" top: "score"'
    ...         '        convolution_param { num_output: 2 kernel_size: 3 } }'
    ...     )
    ...     load(file)({"data": torch.zeros(1, 3, 10, 12)})["score"].shape
    torch.Size([1, 2, 8, 10])
    """
    description = describe(prototxt, State(phase, level, (stage,) if isinstance(stage, str) else tuple(stage)))
    weights = None if caffemodel is None else read_weights(caffemodel)
    net = Net(description, shapes or {}, _channels_of(description, weights or {}))
    if weights is not None:
        _fit(net, weights)
    allowed = max(LIMITS.weights, sum(blob.size for blobs in (weights or {}).values() for blob in blobs))
    if sum(tensor.numel() for tensor in net.state_dict().values()) > allowed:
        raise BadFile(prototxt, f"a net of over {allowed} weights", f"correct its sizes, or {LIMITS.remedy('weights')}")
    set_weights(net, weights, str(caffemodel))
    for layer in net.described:
        _freeze(layer, net.module(layer))
    return net.eval()


def _freeze(layer: Layer, module: nn.Module) -> None:
    """Let the weights whose factor on the learning rate is 0 require no gradients."""
    params = layer.params
    if isinstance(module, InnerProduct) and module.weight is None:  # its matrix is made, and trains, later
        module.trains = not params or params[0].lr_mult != 0
        params = params[1:]
    for spec, (_, tensor) in zip(params, blobs_of(module), strict=False):
        if spec.lr_mult == 0 and isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)


def _fit(net: Net, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Choose the form of layers that only their weights tell."""
    for layer in net.described:
        blobs = weights.get(layer.name, ())
        module = with_stored_statistics(layer, net.module(layer), len(blobs))
        if isinstance(module, InnerProduct) and module.weight is None and len(blobs):
            with torch.device("meta"):
                module.settle(blobs[0].size // module.outputs)
        if module is not net.module(layer):
            net.replace(layer, module)


def set_weights(net: Net, weights: dict[str, list[np.ndarray]] | None, path: str) -> None:
    """Fill all weights as fillers say, or take them from a file (``path`` in errors); join the shared ones."""
    names = [spec.name for layer in net.described for spec in layer.params if spec.name]
    seen: set[str] = set()
    for layer in net.described:
        own = {spec.name for spec in layer.params if spec.name}
        if weights is None:
            fill(layer, net.module(layer))
        else:
            assign(layer, net.module(layer), weights, path, shared=bool(own) and own <= seen)
        seen |= own
    if len(names) > len(set(names)):
        net.share()
