"""What data layers bring, batch by batch, in the order in which Caffe brings it.

A feed gives the blobs of its number-th batch: the number alone decides, so that a resumed training goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from fullyconv.caffe import fields
from fullyconv.caffe.description import Description, Layer
from fullyconv.caffe.fill import FILLERS
from fullyconv.caffe.sources import DummyData, source_shapes
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.solver.hdf5 import hdf5_feed
from fullyconv.solver.lists import LISTS, list_feed
from fullyconv.solver.released import Roots, released_feed

Blobs = dict[str, np.ndarray]
LISTS_INSTEAD = (
    "write the pictures as files and their names as a list: ImageData, DenseImageData or ImageSegData read these"
)
REFUSED = {
    "Data": ("databases (LMDB, LevelDB) are not read", f"{LISTS_INSTEAD}; HDF5Data reads numbers"),
    "AnnotatedData": ("databases of pictures with boxes are not read, and boxes not learned", LISTS_INSTEAD),
    "WindowData": ("windows cut out of pictures are not read", LISTS_INSTEAD),
    "VideoData": ("films are not read", f"cut them into pictures, and {LISTS_INSTEAD}"),
    "MultiImageData": ("lists of several pictures a line are not read", LISTS_INSTEAD),
    "Input": ("brings no data", "a training needs a layer that brings data"),
    "MemoryData": ("is fed by a program", "a training needs a layer that brings data: HDF5Data or a list of files"),
}
"""By the kind of layer, what is not read here and what to do instead."""


@dataclass(frozen=True)
class Feed:
    """The data of a net: ``batch(number)`` are the blobs of batch 0, 1, …; ``items`` one pass over all, if it ends."""

    batch: Callable[[int], Blobs]
    items: int | None = None


def feed_of(net: Description, roots: Roots, seed: int) -> Feed:
    """Return the data of all data layers of a net; raises ``BadFile`` for one that is not read here."""
    if net.inputs:
        raise BadFile(net.path, f"input {next(iter(net.inputs))!r} has no data layer", REFUSED["Input"][1])
    feeds = [_layer_feed(layer, net, roots, seed) for layer in net.layers if layer.is_source]
    items = [feed.items for feed in feeds if feed.items is not None]
    return Feed(lambda number: _joined(feeds, number), max(items) if items else None)


def _joined(feeds: Sequence[Feed], number: int) -> Blobs:
    return {name: blob for feed in feeds for name, blob in feed.batch(number).items()}


def _layer_feed(layer: Layer, net: Description, roots: Roots, seed: int) -> Feed:
    if layer.kind == "DummyData":
        return Feed(_dummy_feed(layer, seed))
    if layer.kind == "Python":
        return Feed(*released_feed(layer, roots))
    if layer.kind in LISTS:
        return Feed(*list_feed(layer, training=net.state.phase == "TRAIN", seed=seed))
    if layer.kind == "HDF5Data":
        return Feed(*hdf5_feed(layer, seed=seed))
    raise layer.fail(*REFUSED.get(layer.kind, ("its data are not read here", LISTS_INSTEAD)))


def _dummy_feed(layer: Layer, seed: int) -> Callable[[int], Blobs]:
    """Fill blobs as ``data_filler`` says: constants, or anew for every batch."""
    given, shapes = layer.block("dummy_data_param", DummyData), source_shapes(layer)
    fillers = given.data_filler or (fields.Filler(),)
    if len(fillers) not in (1, len(shapes)):
        raise layer.fail(f"{len(fillers)} data_filler for {len(shapes)} tops", "give one for each")
    if any(prod(shape) * 4 > LIMITS.array_bytes or min(shape, default=0) < 0 for shape in shapes.values()):
        raise layer.fail(f"blobs of {[*shapes.values()]}", f"correct them, or {LIMITS.remedy('array_bytes')}")
    by_top = dict(zip(shapes, fillers if len(fillers) > 1 else fillers * len(shapes), strict=True))
    for filler in fillers:
        if filler.type not in FILLERS:
            raise layer.fail(f"filler {filler.type!r}", f"supported are {', '.join(FILLERS)}")

    def batch(number: int) -> Blobs:
        blobs = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + number)
            for top, shape in shapes.items():
                blob = torch.empty(shape)
                FILLERS[by_top[top].type](by_top[top], blob)
                blobs[top] = blob.numpy()
        return blobs

    return batch
