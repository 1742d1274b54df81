"""A Caffe net as an ordinary module: a dict of blobs in, a dict of its outputs out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Size, Tensor, nn

from fullyconv.caffe.build import kind_of, make_module, open_inner_product
from fullyconv.caffe.coordinates import ORIGIN, Lines, placed, placed_crop
from fullyconv.caffe.description import Description, Layer
from fullyconv.caffe.dialects import Unpool
from fullyconv.caffe.fill import blobs_of
from fullyconv.caffe.modules import InnerProduct, Pooling
from fullyconv.caffe.reshaping import Concat
from fullyconv.caffe.sources import USUAL_CHANNELS, source_shapes
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

REFUSALS = (RuntimeError, IndexError, OverflowError, TypeError)  # PyTorch's, of sizes and axes that do not fit
USUAL_SIDE = 500  # stands for the height and width that a data layer does not say
# Data layers do not say what they bring; these blobs of the reference nets are no colour pictures.
CHANNELS = {"depth": 1, "label": 1, "sem": 1, "geo": 1}


class Net(nn.Module):
    """The layers of a prototxt, run in order; ``layers`` holds their modules under their Caffe names.

    ``inputs`` are the blobs to feed, with the sizes that the file gives as a default; any batch size, height and width
    may be fed unless an InnerProduct fixes them. ``fullyconv.caffe.load`` makes one.

    Args:
        description: The file, read.
        shapes: Sizes of inputs that data layers leave open, by blob.
        channels: Or their channels alone: height and width stay open.

    Raises:
        BadFile: For layers and fields that cannot be honoured.

    >>> import tempfile
    >>> from fullyconv.caffe import export, load
    >>> from fullyconv.networks import build
    >>> with tempfile.TemporaryDirectory() as place:
    ...     net = load(*export(build("lenet"), place))
    >>> [layer.name for layer in net.described][:3]
    ['conv1', 'pool1', 'conv2']
    """

    def __init__(
        self,
        description: Description,
        shapes: Mapping[str, Sequence[int]],
        channels: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.name, self.path = description.name, description.path
        self.inputs: dict[str, tuple[int, ...]] = {}
        self._keys: dict[Layer, str] = {}
        self.bottom_sizes: dict[Layer, tuple[int, ...]] = {}
        """The size of each layer's first bottom, at the sizes that ``inputs`` says."""
        self._unsized: set[str] = set()  # blobs whose height and width stand in for unknown ones
        self._channels = channels
        self._guessed: set[str] = set()  # inputs whose channels nothing says
        self.layers = nn.ModuleDict()
        self._pools: dict[str, Pooling] = {}  # by the blob of places that each gives
        self._description = description
        self._lines: dict[str, Lines | None] = {}  # where the units of each blob lie in the input
        blobs: dict[str, Tensor] = {}
        with torch.device("meta"):
            for name, shape in description.inputs.items():
                self._feed(name, shapes.get(name), shape, blobs)
            for layer in description.layers:
                if layer.is_source:
                    self._source(layer, shapes, blobs)
                else:
                    self._add(layer, blobs)
        self._beside = _beside(self._keys)
        unknown = shapes.keys() - self.inputs.keys()
        if unknown:
            raise ValueError(f"no input is called {', '.join(sorted(unknown))}: the net has {', '.join(self.inputs)}")

    def _source(self, layer: Layer, shapes: Mapping[str, Sequence[int]], blobs: dict[str, Tensor]) -> None:
        written = source_shapes(layer)
        for top in layer.tops:
            try:
                self._feed(top, shapes.get(top), written.get(top, ()), blobs)
            except ValueError as error:
                raise layer.fail(str(error), "give the blob sizes from 0 to 2147483647") from None

    def _feed(self, name: str, asked: Sequence[int] | None, written: Sequence[int], blobs: dict[str, Tensor]) -> None:
        shape = asked or written
        if not shape:
            self._unsized.add(name)
            self._guessed.add(name)
            shape = (1, CHANNELS.get(name, USUAL_CHANNELS), USUAL_SIDE, USUAL_SIDE)
        if name in self._channels and not asked:
            shape = (shape[0], self._channels[name], *shape[2:])
            self._guessed.discard(name)
        if any(size < 0 for size in shape) or Size(shape).numel() > LIMITS.values:
            raise ValueError(f"input {name!r} of {' x '.join(map(str, shape))}")
        self.inputs[name] = tuple(shape)
        blobs[name] = torch.empty(self.inputs[name])
        self._lines[name] = ORIGIN

    def _add(self, layer: Layer, blobs: dict[str, Tensor]) -> None:
        """Make a layer's module and run it on sizes alone, which checks them."""
        self._check_names(layer, blobs)
        bottoms = [blobs[bottom] for bottom in layer.bottoms]
        is_open = not self._unsized.isdisjoint(layer.bottoms)
        try:
            is_matrix = is_open and layer.kind == "InnerProduct"
            module = open_inner_product(layer) if is_matrix else make_module(layer, [b.shape for b in bottoms])
            if layer.kind == "Crop":
                module = placed_crop(layer, module, [self._lines[bottom] for bottom in layer.bottoms])
        except BadFile:
            raise
        except (*REFUSALS, ValueError) as error:  # PyTorch's own, of a size; of a limit
            raise layer.fail(str(error), "correct its sizes") from None
        if is_open and not is_matrix:
            self._unsized.update(layer.tops)
        key = layer.name.replace(".", "_")
        while key in self.layers or hasattr(self.layers, key):
            key += "_"
        self.layers[key] = module
        self._keys[layer] = key
        self.bottom_sizes[layer] = tuple(bottoms[0].shape) if bottoms else ()
        first = self._lines[layer.bottoms[0]] if layer.bottoms else None
        self._lines.update(dict.fromkeys(layer.tops, placed(module, first)))
        if isinstance(module, Pooling) and module.places:
            self._pools[layer.tops[1]] = module
        elif isinstance(module, Unpool):
            module.find_places(self._pools.get(layer.bottoms[1]))
        blobs.update(self._sizes(layer, module, bottoms))

    def _check_names(self, layer: Layer, blobs: Mapping[str, Tensor]) -> None:
        """Refuse a bottom that is not there, and a top that is, unless the layer works in place."""
        missing = [bottom for bottom in layer.bottoms if bottom not in blobs]
        if missing:
            fix = self._description.origin(missing[0])
            raise layer.fail(f"its bottom {missing[0]!r} is no top of an earlier layer", fix)
        for index, top in enumerate(layer.tops):
            is_there = top in blobs or top in layer.tops[:index]
            if is_there and top not in layer.bottoms[index : index + 1]:
                raise layer.fail(f"its top {top!r} is there already", "give it a name of its own, as Caffe requires")

    def _sizes(self, layer: Layer, module: nn.Module, bottoms: Sequence[Tensor]) -> dict[str, Tensor]:
        """Run a layer on sizes alone."""
        if kind_of(layer).observes:  # labels come in any shape; a second top is like the scores
            return {top: bottoms[0] if index else torch.empty(()) for index, top in enumerate(layer.tops)}
        try:
            tops = _run(layer, module, bottoms)
        except ValueError as error:
            if self._unsized.isdisjoint(layer.bottoms):
                fix = "correct the layer, or the sizes of the input"
                raise layer.message.fail(str(error), fix) from None
            # The stand-in for an unknown height and width says nothing: what is fed decides. Channels are known.
            tops = dict.fromkeys(layer.tops, _stand_in(module, bottoms))
        if any(top.numel() // max(len(top), 1) > LIMITS.values for top in tops.values() if top.ndim):
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
            if not kind_of(layer).observes:
                outputs.update(dict.fromkeys(layer.bottoms, False))
            try:
                live.update(_run(layer, self.layers[key], bottoms))
            except ValueError as error:
                raise ValueError(f"{error}{self._advice(layer, blobs)}") from None
            outputs.update(dict.fromkeys(layer.tops, True))
            for bottom in layer.bottoms:
                if last[bottom] == index and not outputs[bottom]:
                    live.pop(bottom, None)  # frees its memory
        return {name: live[name] for name, is_output in outputs.items() if is_output}

    def _advice(self, layer: Layer, blobs: Mapping[str, Tensor]) -> str:
        """Say what to do where a layer is made for other channels than are fed, for nothing says how many."""
        for name in layer.bottoms:
            given = tuple(blobs[name].shape) if name in blobs else ()
            if name in self._guessed and len(given) > 1 and given[1] != self.inputs[name][1]:
                return f"; the file does not say the size of {name!r}: give it to load(), shapes={{{name!r}: {given}}}"
        return ""

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
            elif kind_of(layer).observes or layer in self._beside:
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
        weights = {layer: layer.loss_weights or ((1.0,) if layer.is_loss else ()) for layer in self._keys if layer.tops}
        pairs = (pair for layer, own in weights.items() for pair in zip(layer.tops, own, strict=False))
        return {top: weight for top, weight in pairs if weight}

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
        return blobs_of(self.module(layer))

    def replace(self, layer: Layer, module: nn.Module) -> None:
        """Put another module in a layer's place.

        Args:
            layer: One of ``described``.
            module: What runs it from now on.
        """
        self.layers[self._keys[layer]] = module

    def share(self) -> list[str]:
        """Let layers whose ``param`` have one name share the first one's weights.

        Returns:
            The names of the layers that have none of their own any more.

        Raises:
            BadFile: For weights of different shapes.
        """
        owners: dict[str, tuple[Layer, str]] = {}
        sharing = []
        for layer in self._keys:
            module = self.module(layer)
            keys = [key for key, _ in self.blobs(layer)]
            if isinstance(module, InnerProduct) and module.weight is None:  # not made yet
                keys = ["weight", *keys]
            for spec, key in zip(layer.params, keys, strict=False):
                owner = owners.setdefault(spec.name, (layer, key))
                if spec.name and owner != (layer, key) and self._join(layer, key, owner, spec.name):
                    sharing.append(layer.name)
        return sharing

    def _join(self, layer: Layer, key: str, owner: tuple[Layer, str], name: str) -> bool:
        """Let a layer have the weights of another; returns whether it had its own."""
        module, first = self.module(layer), self.module(owner[0])
        own, weights = getattr(module, key), getattr(first, owner[1])
        if own is not None and own is weights:
            return False
        if isinstance(module, InnerProduct) and isinstance(first, InnerProduct) and (own is None or weights is None):
            fits = key == owner[1] and (module.outputs, module.transpose) == (first.outputs, first.transpose)
            if fits:
                first.twin(module)
        else:
            fits = own is not None and weights is not None and own.shape == weights.shape
            if fits:
                setattr(module, key, weights)
        if not fits:
            what = f"shares the weights {name!r} of {owner[0].label}, which have another shape"
            raise layer.fail(what, "give each its own name")
        return True


def _beside(layers: Iterable[Layer]) -> set[Layer]:
    """Return the layers that only bring labels to losses and accuracies: without labels the net runs without them."""
    layers = list(layers)
    # What is not the first bottom of a loss is what its scores are compared with.
    used = {bottom for layer in layers for bottom in layer.bottoms[kind_of(layer).observes :]}
    wanted: set[str] = set()
    beside = set()
    for layer in reversed(layers):
        if any(top in wanted or top not in used for top in layer.tops) and not kind_of(layer).observes:
            wanted.update(layer.bottoms)
        else:
            beside.add(layer)
    return beside


def _stand_in(module: nn.Module, bottoms: Sequence[Tensor]) -> Tensor:
    """Return what stands for the top of a layer that the stand-ins before it do not fit."""
    if isinstance(module, Concat) and module.axis == 1 and all(bottom.ndim == 4 for bottom in bottoms):
        return torch.empty(len(bottoms[0]), sum(bottom.shape[1] for bottom in bottoms), *bottoms[0].shape[2:])
    return bottoms[0]


def _run(layer: Layer, module: nn.Module, bottoms: Sequence[Tensor]) -> dict[str, Tensor]:
    """Apply a layer; raises ``ValueError`` naming it where the blobs do not fit."""
    try:
        if kind_of(layer).each and len(bottoms) > 1:
            tops = tuple(module(bottom) for bottom in bottoms)
        else:
            tops = module(*bottoms)
    except torch.OutOfMemoryError:
        raise
    except (*REFUSALS, ValueError) as error:
        raise ValueError(f"{layer.label} does not take {[tuple(b.shape) for b in bottoms]}: {error}") from None
    return dict(zip(layer.tops, tops if isinstance(tops, tuple) else (tops,), strict=True))
