"""The Python data layers of the papers' release, by name: one picture a batch at its own size, BGR less a mean.

Where the name of a split holds "train" the next picture is drawn from all, as Python 2's ``random.randint`` drew it
from the layer's seed; else pictures come in the list's order, again and again.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fullyconv import facts
from fullyconv.caffe.description import Description, Layer
from fullyconv.caffe.dialects import PythonLayer
from fullyconv.data.context import open_context
from fullyconv.data.dataset import read_labels, size_mismatch
from fullyconv.data.images import read_image
from fullyconv.data.nyud import depth_path, log_depth, open_nyud, read_depth
from fullyconv.data.pairs import Folder, Listing, Pair, Places, pair_listed, read_list
from fullyconv.data.pascal import SBDD_MASKS, seg11valid
from fullyconv.data.siftflow import open_siftflow
from fullyconv.files import BadFile
from fullyconv.types import ClassSet

IGNORED = 255
SEG11VALID = ("seg11valid", "segvalid11")
Reader = Callable[[Mapping[str, Pair]], np.ndarray]


@dataclass(frozen=True)
class Roots:
    """Where data sets are on this machine; one that is not given is where the net's file says."""

    voc: Path | None = None
    sbdd: Path | None = None
    siftflow: Path | None = None
    nyud: Path | None = None
    context: Path | None = None


@dataclass(frozen=True)
class _Data:
    """Pictures of one split, each with the pairs that hold its parts, and what the layer's tops are of them."""

    pictures: Sequence[Mapping[str, Pair]]
    tops: Sequence[Reader]


def released_feed(layer: Layer, roots: Roots) -> tuple[Callable[[int], dict[str, np.ndarray]], int]:
    """Return the batches of a layer of the release, and how many pictures there are; raises ``BadFile`` for others."""
    given = layer.block("python_param", PythonLayer)
    kind = LAYERS.get((given.module, given.layer))
    if kind is None:
        known = ", ".join(f"{module}.{name}" for module, name in LAYERS)
        raise layer.fail(f"Python code {given.module}.{given.layer} is not run here", f"known by name are {known}")
    values = _values(layer, given.param_str)
    data = kind(layer, values, roots)
    if not data.pictures:
        raise layer.fail(f"split {values['split']!r} has no pictures", "name the folder of the data set")
    if len(layer.tops) != len(data.tops):
        raise layer.fail(f"{len(layer.tops)} tops", f"this layer has {len(data.tops)}")
    order = _Order(len(data.pictures), values)

    def batch(number: int) -> dict[str, np.ndarray]:
        picture = data.pictures[order(number)]
        return {top: read(picture)[None] for top, read in zip(layer.tops, data.tops, strict=True)}

    return batch, len(data.pictures)


def _values(layer: Layer, text: str) -> dict[str, Any]:
    try:
        values = ast.literal_eval(text)
        kinds = {"split": str, "seed": int | None, "tops": list, "voc_dir": str, "mean": tuple | list}
        if not isinstance(values, dict) or not isinstance(values.get("split"), str):
            raise ValueError
        if not all(isinstance(values[key], kind) for key, kind in kinds.items() if key in values):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        fix = "write a dict of plain values with a split, \"{'split': 'train', 'seed': 1337}\""
        raise layer.fail(f"its param_str {text[:80]!r}", fix) from None
    return values


def stated_roots(net: Description, roots: Roots) -> Roots:
    """Add what the data layers of a net say of SBDD, since the list ``seg11valid`` is computed from it."""
    for layer in net.layers:
        given = layer.block("python_param", PythonLayer) if layer.is_source and layer.kind == "Python" else None
        if roots.sbdd is None and given is not None and given.layer == "SBDDSegDataLayer":
            roots = replace(roots, sbdd=_root(layer, None, _values(layer, given.param_str), "sbdd_dir"))
    return roots


class _Order:
    """The picture of each batch: in order, or drawn, as the release's layers do."""

    def __init__(self, count: int, values: Mapping[str, Any]) -> None:
        self.count = count
        self.draws = bool(values.get("randomize", True)) and "train" in values["split"]
        self.random = Random(values.get("seed") or 0)
        self.drawn: list[int] = []

    def __call__(self, number: int) -> int:
        if not self.draws:
            return number % self.count
        missing = number + 1 - len(self.drawn)
        # Python 2's randint: the real number times the count, cut off.
        self.drawn += [int(self.random.random() * self.count) for _ in range(missing)]
        return self.drawn[number]


def _colour(mean: Sequence[float]) -> Reader:
    def read(picture: Mapping[str, Pair]) -> np.ndarray:
        bgr = read_image(picture["image"].image)[..., ::-1].astype(np.float32)
        return np.ascontiguousarray((bgr - np.asarray(mean, np.float32)).transpose(2, 0, 1))

    return read


def _label(part: str, classes: ClassSet) -> Reader:
    def read(picture: Mapping[str, Pair]) -> np.ndarray:
        pair = picture[part]
        labels = read_labels(pair, classes)
        height, width = read_image(pair.image).shape[:2]
        if labels.shape != (height, width):
            raise size_mismatch(pair, (height, width), labels.shape)
        return np.where(labels < 0, IGNORED, labels)[None].astype(np.float32)

    return read


def _listed(folder: Folder, places: Places, listing: Listing) -> list[Mapping[str, Pair]]:
    pair_listed(folder, places, {"val": listing})  # a split that has to be whole
    return _pictures(folder, "val", image=folder)


def _pictures(folder: Folder, split: str, **parts: Folder) -> list[Mapping[str, Pair]]:
    """Return the pictures of a split, each with its pair in every part; raises the first problem there is."""
    for part in (folder, *parts.values()):
        if part.problems:
            raise part.problems[0]
    rows = [part.splits.get(split, []) for part in parts.values()]
    return [dict(zip(parts, row, strict=True)) for row in zip(*rows, strict=True)]


def _root(layer: Layer, given: Path | None, values: Mapping[str, Any], *keys: str) -> Path:
    """Return a data set's folder: that of the command, else the file's, from the working folder or beside the file."""
    if given is not None:
        return given
    named = next((str(values[key]) for key in keys if key in values), "")
    places = [Path(named), Path(layer.message.path).parent / named] if named else []
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise layer.fail(f"the folder {named!r} is not there", f"give it by --{keys[0].removesuffix('_dir')}")
    return found


def _inner(root: Path, *below: str) -> Path:
    return next((root / place for place in ("", *below) if (root / place / "JPEGImages").is_dir()), root)


def _voc(layer: Layer, values: Mapping[str, Any], roots: Roots) -> _Data:
    root = _inner(_root(layer, roots.voc, values, "voc_dir"), "VOC2011", "VOCdevkit/VOC2011", "VOC2012")
    split = values["split"]
    file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if file.is_file() or split not in SEG11VALID:
        listing = read_list(file)
    elif roots.sbdd is not None:
        listing = Listing(file, seg11valid(root, roots.sbdd))
    else:
        raise BadFile(file, "there is no such list", "give --sbdd: it is val.txt without what SBDD trains on")
    folder = Folder(root, classes=facts.VOC.classes)
    pictures = _listed(folder, Places(root / "JPEGImages", root / "SegmentationClass"), listing)
    return _Data(pictures, (_colour(_mean(layer, values, facts.VOC.mean)), _label("image", facts.VOC.classes)))


def _sbdd(layer: Layer, values: Mapping[str, Any], roots: Roots) -> _Data:
    root = _root(layer, roots.sbdd, values, "sbdd_dir")
    folder = Folder(root, classes=facts.VOC.classes)
    listing = read_list(root / f"{values['split']}.txt")
    pictures = _listed(folder, Places(root / "img", root / "cls", SBDD_MASKS), listing)
    return _Data(pictures, (_colour(_mean(layer, values, facts.VOC.mean)), _label("image", facts.VOC.classes)))


def _mean(layer: Layer, values: Mapping[str, Any], usual: Sequence[float]) -> Sequence[float]:
    mean: Sequence[float] = values.get("mean", usual)
    if len(mean) != len(usual) or not all(isinstance(value, int | float) for value in mean):
        raise layer.fail(f"mean is {mean!r}", f"write {len(usual)} numbers")
    return mean


def _siftflow(layer: Layer, values: Mapping[str, Any], roots: Roots) -> _Data:
    root = _root(layer, roots.siftflow, values, "siftflow_dir")
    semantic, geometric = open_siftflow(root, "semantic"), open_siftflow(root, "geometric")
    split = "test" if values["split"] == "test" else "train"
    pictures = _pictures(semantic, split, image=semantic, geometric=geometric)
    labels = (
        _label("image", facts.SIFTFLOW_SEMANTIC.classes),
        _label("geometric", facts.SIFTFLOW_GEOMETRIC.classes),
    )
    return _Data(pictures, (_colour(facts.SIFTFLOW_SEMANTIC.mean), *labels))


def _nyud(layer: Layer, values: Mapping[str, Any], roots: Roots) -> _Data:
    root, tops = _root(layer, roots.nyud, values, "nyud_dir"), values.get("tops", ["color", "label"])
    colour = open_nyud(root, "colour")
    parts = {"image": colour} | ({"hha": open_nyud(root, "hha")} if "hha" in tops else {})
    splits = ["train", "val"] if values["split"] == "trainval" and "val" in colour.splits else [values["split"]]
    if splits == ["trainval"]:
        splits = ["train"]  # the reader's name where there is but a list of both
    pictures = [picture for split in splits for picture in _pictures(colour, split, **parts)]
    readers: dict[str, Reader] = {
        "color": _colour(facts.NYUD.mean),
        "depth": _read_depth,
        "hha": _read_hha,
        "label": _label("image", facts.NYUD.classes),
    }
    unknown = [top for top in tops if not isinstance(top, str) or top not in readers]
    if unknown:
        raise layer.fail(f"a top of {unknown[0]!r}", f"its tops are {', '.join(readers)}")
    return _Data(pictures, [readers[top] for top in tops])


def _read_depth(picture: Mapping[str, Pair]) -> np.ndarray:
    file = depth_path(picture["image"])
    try:
        return (log_depth(read_depth(file)) - np.float32(facts.NYUD_LOG_DEPTH[0]))[None]
    except ValueError as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(file, str(error), "in-fill its depth, or leave the picture out") from None


def _read_hha(picture: Mapping[str, Pair]) -> np.ndarray:
    hha = read_image(picture["hha"].image).astype(np.float32)
    return np.ascontiguousarray((hha - np.asarray(facts.NYUD_HHA.mean, np.float32)).transpose(2, 0, 1))


def _context(layer: Layer, values: Mapping[str, Any], roots: Roots) -> _Data:
    root = _root(layer, roots.context, values, "context_dir")
    voc = roots.voc or (Path(values["voc_dir"]) if Path(str(values.get("voc_dir", ""))).is_dir() else None)
    folder = open_context(root, None if voc is None else _inner(voc, "VOC2010", "VOCdevkit/VOC2010"))
    pictures = _pictures(folder, values["split"], image=folder)
    return _Data(pictures, (_colour(facts.CONTEXT.mean), _label("image", facts.CONTEXT.classes)))


LAYERS: dict[tuple[str, str], Callable[[Layer, Mapping[str, Any], Roots], _Data]] = {
    ("voc_layers", "VOCSegDataLayer"): _voc,
    ("voc_layers", "SBDDSegDataLayer"): _sbdd,
    ("siftflow_layers", "SIFTFlowSegDataLayer"): _siftflow,
    ("nyud_layers", "NYUDSegDataLayer"): _nyud,
    ("pascalcontext_layers", "PASCALContextSegDataLayer"): _context,
}
