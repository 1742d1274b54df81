"""What a name on the command line stands for: a model folder, a network or a classifier."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.console import complain

if TYPE_CHECKING:
    from torch import nn

    from fullyconv.data.pairs import Folder, Pair
    from fullyconv.networks.fcn import FCN
    from fullyconv.predict.image import Segmenter
    from fullyconv.types import Preprocess, SpectralPreprocess


@dataclass(frozen=True)
class Subject:
    """A network to look into, with the names of its classes as far as they are known.

    ``example`` is the size (C, H, W) a classifier was made for, ``None`` for a segmentation network. ``trained``
    tells whether its weights come from a file; ``temperature`` is that of a model's probabilities.
    """

    network: nn.Module
    preprocess: Preprocess | SpectralPreprocess
    classes: tuple[str, ...] = ()
    example: tuple[int, int, int] | None = None
    trained: bool = False
    temperature: float = 1.0


def open_subject(
    name: str, *, weights: Path | None, side: tuple[int, int] | None, trust: Sequence[str] = ()
) -> Subject:
    """Open a model folder, or build what a name stands for and fill it with ``weights`` if they are given.

    ``side`` is the height and width a classifier was made for, where it does not say so itself; ``trust`` names
    the functions that a model folder may call. Raises ``ValueError`` for what is neither.
    """
    from fullyconv.models import packaged
    from fullyconv.networks import CLASSIFIERS, external_trunk, network_names
    from fullyconv.networks.trunks.external import is_external

    if Path(name).is_dir() or name in packaged():
        return _open_model(Path(name), weights, trust)
    if name in CLASSIFIERS:
        subject = _published(name)
    elif name in network_names() or external_trunk(name) is not None:
        subject = _network(name)
    elif is_external(name):
        subject = _external(name, side)
    else:
        raise ValueError(_unknown(name, [*CLASSIFIERS, *network_names()]))
    return subject if weights is None else _filled(subject, weights)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"networks are {', '.join(known)}"
    return (
        f"{name!r} is no model folder, network or classifier: {hint} "
        "(or timm:NAME, torchvision:NAME, package.module:function)"
    )


def _open_model(folder: Path, weights: Path | None, trust: Sequence[str]) -> Subject:
    from fullyconv.checkpoint import load_network

    if weights is not None:
        raise ValueError(f"{folder} is a model and has its weights: leave --weights out, or name its network")
    network, config = load_network(folder, trust=trust)
    return Subject(network, config.preprocess, config.classes.names, trained=True, temperature=config.temperature)


def _network(name: str) -> Subject:
    from fullyconv.networks import REFERENCES, build
    from fullyconv.networks.reference import preprocess_of
    from fullyconv.networks.trunks.external import usual_preprocess

    network: FCN = build(name)
    preprocess = preprocess_of(name) if name in REFERENCES else usual_preprocess(network)
    return Subject(network, preprocess)


def _published(name: str) -> Subject:
    from fullyconv.networks import CLASSIFIERS, build
    from fullyconv.networks.reference import preprocess_of
    from fullyconv.networks.trunks.external import imagenet_classes
    from fullyconv.trace import input_channels

    side, network = CLASSIFIERS[name].side, build(name)
    classes = imagenet_classes() if CLASSIFIERS[name].classes == 1000 else ()
    return Subject(network, preprocess_of(name), classes, (input_channels(network), side, side))


def _external(name: str, side: tuple[int, int] | None) -> Subject:
    from fullyconv.networks.trunks.external import build_classifier, imagenet_classes, usual_example, usual_preprocess
    from fullyconv.trace import input_channels
    from fullyconv.trace.recording import USUAL_SIDE

    network = build_classifier(name)
    channels, *own = usual_example(network) or (input_channels(network), USUAL_SIDE, USUAL_SIDE)
    height, width = side or own
    classes = imagenet_classes() if name.startswith(("timm:", "torchvision:")) else ()
    return Subject(network, usual_preprocess(network), classes, (channels, height, width))


def _filled(subject: Subject, weights: Path) -> Subject:
    from fullyconv.cli.console import err
    from fullyconv.files import BadFile
    from fullyconv.surgery import transplant
    from fullyconv.tensors import read_weights

    moved = transplant(read_weights(weights), subject.network)
    if not (moved.moved or moved.reshaped):
        raise BadFile(weights, "no tensor has a name of this network's", f"it needs {', '.join(moved.missing[:3])}, …")
    err.print(f"weights: {moved}")
    return replace(subject, trained=True)


def class_index(wanted: str, names: Sequence[str], count: int) -> int:
    """Find a class by its number or its name (or a part of it that no other has); raises ``ValueError``."""
    if wanted.isdecimal():
        if int(wanted) < count:
            return int(wanted)
        raise ValueError(f"there is no class {wanted}: the network scores {count}, 0 to {count - 1}")
    exact = [index for index, name in enumerate(names) if name == wanted]
    found = exact or [index for index, name in enumerate(names) if wanted.lower() in name.lower()]
    if exact or len(found) == 1:
        return found[0]
    listed = ", ".join(f"{names[index]} ({index})" for index in found[:8]) or ", ".join(names[:8])
    known = f"{'several match' if found else 'there are'} {listed}" if names else "only numbers are known here"
    raise ValueError(f"no one class is called {wanted!r}: {known}")


def pairs_to_score(
    data: Path, split: str | None, segmenter: Segmenter, *, mask_suffix: str | None = None
) -> tuple[Folder, list[Pair]]:
    """Open a data set to score a model on a split of it; says so where its classes are not in the model's order.

    Images are read by the model's range of numbers.
    """
    from fullyconv.data.folder import evaluation_split
    from fullyconv.data.matching import match_classes, match_heads
    from fullyconv.files import BadFile
    from fullyconv.hsi.formats.by_suffix import is_scene

    if data.is_file() and is_scene(data):
        raise BadFile(data, "a scene's file, and this model labels pictures", "name a folder of pictures with masks")
    folder = _open(data, segmenter.network, mask_suffix)
    notes = [match_classes(folder, segmenter.classes)]
    notes += match_heads(folder, {name: head.classes for name, head in segmenter.heads.items()})
    for note in filter(None, notes):
        complain("careful", note)
    folder.splits = {name: segmenter.seen(pairs) for name, pairs in folder.splits.items()}
    return folder, evaluation_split(folder, split)


def unseen(model: Path, folder: Folder, pairs: list[Pair], split: str | None) -> list[Pair]:
    """Say which pictures the model was trained on; leave them out where all are taken for want of a split."""
    from fullyconv.checkpoint import read_config
    from fullyconv.data.dataset import trained_on
    from fullyconv.files import BadFile

    seen = {pair.image for pair in trained_on(pairs, read_config(model).notes)}
    if not seen:
        return pairs
    what = f"the model was trained on {len(seen)} of {len(pairs)} pictures"
    if split is not None or pairs is not folder.splits.get("all"):
        complain("careful", f"{what}: their scores flatter it")
        return pairs
    left = [pair for pair in pairs if pair.image not in seen]
    if not left:
        raise BadFile(pairs[0].image.parent, what, "take pictures that it has not seen, or these with --split all")
    rest = "1 is scored" if len(left) == 1 else f"{len(left)} are scored"
    complain("careful", f"{what}: they are left out, {rest} (--split all scores all)")
    return left


def _open(data: Path, network: FCN, mask_suffix: str | None) -> Folder:
    """Open a data set with all that a network sees and learns of it; what only further heads learn may be missing."""
    from fullyconv.data.folder import open_folder
    from fullyconv.data.published import open_for
    from fullyconv.data.siftflow import is_siftflow

    name = "" if network.architecture is None else network.architecture.name
    if network.tasks and not is_siftflow(data):  # the nets of SIFT Flow, on other pictures
        name = ""
    return open_for(name, data) or open_folder(data, mask_suffix)


def tell_heads(network: FCN, option: str) -> None:
    """Say of a network of several heads that labels are those of the first, and which option has the others."""
    if network.tasks:
        what = f"a model of {1 + len(network.tasks)} heads: labels are those of the first"
        complain("careful", f"{what}; {option} has those of {', '.join(network.tasks)}")


def with_views(segmenter: Segmenter, tta: str | None) -> Segmenter:
    """Let a segmenter look at several views of each picture, as ``--tta`` says."""
    if tta is None:
        return segmenter
    from fullyconv.predict.refine import CRFSegmenter
    from fullyconv.predict.views import Views, ViewsSegmenter

    if isinstance(segmenter, CRFSegmenter):  # it hears the views, not the views it
        return CRFSegmenter(ViewsSegmenter(segmenter.before, Views.read(tta)), segmenter.parameters)
    return ViewsSegmenter(segmenter, Views.read(tta))


def with_doubt(segmenter: Segmenter) -> Segmenter:
    """Let a segmenter look several times, to tell how certain it is, as ``--uncertainty`` says; says how."""
    from fullyconv.cli.console import err
    from fullyconv.predict.uncertainty import Doubter

    doubter = Doubter(segmenter)
    err.print(f"uncertainty by {doubter.how}")
    return doubter
