"""A Caffe net as an ordinary module: a dict of blobs in, a dict of its outputs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Size, Tensor, nn

from fullyconv.caffe import fields
from fullyconv.caffe.build import KINDS, SOURCES, make_module
from fullyconv.caffe.description import Description, Layer, Phase, describe, input_shapes
from fullyconv.caffe.fill import assign, fill
from fullyconv.caffe.wire import read_weights
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

REFUSALS = (RuntimeError, IndexError, OverflowError, TypeError)  # PyTorch's, of sizes and axes that do not fit
USUAL_SIDE = 500  # stands for the height and width that a data layer does not say
USUAL_CHANNELS = 3
# Data layers do not say what they bring; these blobs of the reference nets are no colour pictures.
CHANNELS = {"depth": 1, "label": 1, "sem": 1, "geo": 1}


class Net(nn.Module):
    """The layers of a prototxt, run in order; ``layers`` holds their modules under their Caffe names.

    ``inputs`` are the blobs to feed, with the sizes that the file gives as a default; any batch size, height and width
    may be fed unless an InnerProduct fixes them. ``load`` makes one.

    Args:
        description: The file, read.
        shapes: Sizes of inputs that data layers leave open, by blob.

    Raises:
        BadFile: For layers and fields that cannot be honoured.

    >>> import tempfile
    >>> from fullyconv.caffe import export
    >>> from fullyconv.networks import build
    >>> with tempfile.TemporaryDirectory() as place:
    ...     net = load(*export(build("lenet"), place))
    >>> [layer.name for layer in net.described][:3]
    ['conv1', 'pool1', 'conv2']
    """

    def __init__(self, description: Description, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.name, self.path = description.name, description.path
        self.inputs: dict[str, tuple[int, ...]] = {}
        self._keys: dict[Layer, str] = {}
        self.bottom_sizes: dict[Layer, tuple[int, ...]] = {}
        """The size of each layer's first bottom, at the sizes that ``inputs`` says."""
        self._unsized: set[str] = set()  # blobs whose height and width stand in for unknown ones
        self.layers = nn.ModuleDict()
        blobs: dict[str, Tensor] = {}
        with torch.device("meta"):
            for name, shape in description.inputs.items():
                self._feed(name, shapes.get(name, shape), blobs)
            for layer in description.layers:
                if layer.kind in SOURCES and not layer.bottoms:
                    self._source(layer, shapes, blobs)
                else:
                    self._add(layer, blobs)
        unknown = shapes.keys() - self.inputs.keys()
        if unknown:
            raise ValueError(f"no input is called {', '.join(sorted(unknown))}: the net has {', '.join(self.inputs)}")

    def _source(self, layer: Layer, shapes: Mapping[str, Sequence[int]], blobs: dict[str, Tensor]) -> None:
        written = input_shapes(layer)
        for top in layer.tops:
            try:
                self._feed(top, shapes.get(top) or written.get(top, ()), blobs)
            except ValueError as error:
                raise layer.fail(str(error), "give the blob sizes from 0 to 2147483647") from None

    def _feed(self, name: str, shape: Sequence[int], blobs: dict[str, Tensor]) -> None:
        if not shape:
            self._unsized.add(name)
        shape = shape or (1, CHANNELS.get(name, USUAL_CHANNELS), USUAL_SIDE, USUAL_SIDE)
        if any(size < 0 for size in shape) or Size(shape).numel() > LIMITS.values:
            raise ValueError(f"input {name!r} of {' x '.join(map(str, shape))}")
        self.inputs[name] = tuple(shape)
        blobs[name] = torch.empty(self.inputs[name])

    def _add(self, layer: Layer, blobs: dict[str, Tensor]) -> None:
        """Make a layer's module and run it on sizes alone, which checks them."""
        missing = [bottom for bottom in layer.bottoms if bottom not in blobs]
        if missing:
            raise layer.fail(f"its bottom {missing[0]!r} is no top of an earlier layer", "correct the name")
        bottoms = [blobs[bottom] for bottom in layer.bottoms]
        if not self._unsized.isdisjoint(layer.bottoms):
            self._unsized.update(layer.tops)
        if layer.kind == "InnerProduct" and not self._unsized.isdisjoint(layer.bottoms):
            raise layer.fail(
                "the size of its input is not known, for the net's data layer does not say it",
                "give load() the size: shapes={'data': (1, 3, height, width)}",
            )
        try:
            module = make_module(layer, [bottom.shape for bottom in bottoms])
        except REFUSALS as error:  # PyTorch's own, of a size
            raise layer.fail(str(error), "correct its sizes") from None
        key = layer.name.replace(".", "_")
        while key in self.layers or hasattr(self.layers, key):
            key += "_"
        self.layers[key] = module
        self._keys[layer] = key
        self.bottom_sizes[layer] = tuple(bottoms[0].shape) if bottoms else ()
        blobs.update(self._sizes(layer, module, bottoms))

    def _sizes(self, layer: Layer, module: nn.Module, bottoms: Sequence[Tensor]) -> dict[str, Tensor]:
        """Run a layer on sizes alone."""
        if KINDS[layer.kind].observes:  # labels come in any shape
            return dict.fromkeys(layer.tops, torch.empty(()))
        try:
            tops = _run(layer, module, bottoms)
        except ValueError as error:
            raise layer.message.fail(str(error), "correct the layer, or the sizes of the input") from None
        if any(top.numel() > LIMITS.values for top in tops.values()):
            raise layer.fail(f"gives over {LIMITS.values} values", "correct its sizes, or those of the input")
        return tops

    def forward(self, blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the layers and return the blobs that no layer uses up.

        A loss does not use up what it looks at. Where a blob that only losses and accuracies need (a label) is not
        given, those layers are left out.

        Args:
            blobs: The inputs by name, N x C x H x W.

        Returns:
            The outputs by name.

        Raises:
            ValueError: Naming the blob that is missing or unknown, or the layer that a blob does not fit.
        """
        active = self._active(blobs)
        last = {bottom: index for index, (layer, _) in enumerate(active) for bottom in layer.bottoms}
        live, outputs = dict(blobs), dict.fromkeys(blobs, False)
        for index, (layer, key) in enumerate(active):
            bottoms = [live[bottom] for bottom in layer.bottoms]
            if not KINDS[layer.kind].observes:
                outputs.update(dict.fromkeys(layer.bottoms, False))
            live.update(_run(layer, self.layers[key], bottoms))
            outputs.update(dict.fromkeys(layer.tops, True))
            for bottom in layer.bottoms:
                if last[bottom] == index and not outputs[bottom]:
                    live.pop(bottom, None)  # frees its memory
        return {name: live[name] for name, is_output in outputs.items() if is_output}

    def _active(self, blobs: Mapping[str, Tensor]) -> list[tuple[Layer, str]]:
        """Choose the layers that can run on what is given."""
        unknown = sorted(blobs.keys() - self.inputs.keys())
        if unknown:
            raise ValueError(f"no input is called {unknown[0]!r}: the net has {', '.join(self.inputs)}")
        absent = self.inputs.keys() - blobs.keys()
        active = []
        for layer, key in self._keys.items():
            lacking = [bottom for bottom in layer.bottoms if bottom in absent]
            if not lacking:
                active.append((layer, key))
            elif KINDS[layer.kind].observes or not layer.tops:
                absent = absent | set(layer.tops)
            else:
                raise ValueError(f"input {lacking[0]!r} is missing: {layer.label} needs it")
        return active

    @property
    def described(self) -> list[Layer]:
        """The layers as the file describes them, data layers left out."""
        return list(self._keys)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The factor of every loss in the total that training minimises."""
        losses = [layer for layer in self._keys if layer.kind.endswith("Loss")]
        return {layer.tops[0]: (layer.loss_weights or (1.0,))[0] for layer in losses}

    def module(self, layer: Layer) -> nn.Module:
        """Return a layer's module.

        Args:
            layer: One of ``described``.

        Returns:
            The module that runs it.
        """
        return self.layers[self._keys[layer]]

    def blobs(self, layer: Layer) -> list[tuple[str, Tensor]]:
        """Return a layer's weights in Caffe's order.

        Args:
            layer: One of ``described``.

        Returns:
            Each weight with its name in the module.
        """
        module = self.module(layer)
        return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _run(layer: Layer, module: nn.Module, bottoms: Sequence[Tensor]) -> dict[str, Tensor]:
    """Apply a layer; raises ``ValueError`` naming it where the blobs do not fit."""
    try:
        tops = module(*bottoms)
    except torch.OutOfMemoryError:
        raise
    except (*REFUSALS, ValueError) as error:
        raise ValueError(f"{layer.label} does not take {[tuple(b.shape) for b in bottoms]}: {error}") from None
    return dict(zip(layer.tops, tops if isinstance(tops, tuple) else (tops,), strict=True))


def _shapes_of(description: Description, weights: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Sequence[int]]:
    """Return the channels of inputs that the file leaves open from the weights of the convolutions on them."""
    open_tops = {
        top
        for layer in description.layers
        if layer.kind in SOURCES and not layer.bottoms
        for top in layer.tops
        if not input_shapes(layer).get(top)
    }
    shapes: dict[str, Sequence[int]] = {}
    for layer in description.layers:
        if layer.kind != "Convolution" or layer.bottoms[:1] == () or layer.bottoms[0] not in open_tops:
            continue
        if layer.name in weights and weights[layer.name][0].ndim == 4:
            groups = layer.block("convolution_param", fields.Convolution).group
            shapes[layer.bottoms[0]] = (1, weights[layer.name][0].shape[1] * groups, USUAL_SIDE, USUAL_SIDE)
    return shapes


def load(
    prototxt: Path | str,
    caffemodel: Path | str | None = None,
    *,
    phase: Phase | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Net:
    """Read a net from Caffe's files: ``load("deploy.prototxt", "net.caffemodel")({"data": x})["score"]``.

    Args:
        prototxt: The net's description.
        caffemodel: Its weights; without them they start as the fillers say.
        phase: Which layers to take of a file that serves both training and testing; default TEST.
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
    description = describe(prototxt, phase)
    weights = None if caffemodel is None else read_weights(caffemodel)
    net = Net(description, {**_shapes_of(description, weights or {}), **(shapes or {})})
    allowed = max(LIMITS.weights, sum(blob.size for blobs in (weights or {}).values() for blob in blobs))
    if sum(tensor.numel() for tensor in net.state_dict().values()) > allowed:
        raise BadFile(prototxt, f"a net of over {allowed} weights", f"correct its sizes, or {LIMITS.remedy('weights')}")
    for layer in net.described:
        if weights is None:
            fill(layer, net.module(layer))
        else:
            assign(layer, net.module(layer), weights, str(caffemodel))
        for rate, (_, tensor) in zip(layer.rates, net.blobs(layer), strict=False):
            if rate == 0 and isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(False)
    return net.eval()
