"""The data sets of the papers as one of their networks sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullyconv.data.context import open_context
from fullyconv.data.nyud import Stream, is_nyud, open_nyud
from fullyconv.data.pairs import Folder
from fullyconv.data.pascal import open_pascal
from fullyconv.data.siftflow import is_siftflow, open_both
from fullyconv.files import BadFile
from fullyconv.networks.reference import NYUD_HHA, REFERENCES

FAMILIES = {"pascalcontext": "PASCAL-Context", "siftflow": "SIFT Flow", "nyud": "NYUDv2"}


@dataclass(frozen=True)
class Places:
    """Where data sets lie: VOC and SBDD, or another one."""

    voc: Path | None = None
    sbdd: Path | None = None
    data: Path | None = None


STREAMS: dict[tuple[str, ...], Stream] = {("color", "depth"): "colour-d", ("color", "hha"): "colour-hha"}


def open_for(network: str, root: Path) -> Folder | None:
    """Open a data set for a network that needs more than pictures and one mask each.

    Args:
        network: A network's name.
        root: The data set's folder.

    Returns:
        Its pairs with what else the network sees or learns; ``None`` for networks of pictures and one mask.

    Raises:
        BadFile: For a folder that does not have it.
    """
    reference = REFERENCES.get(network)
    if reference is None:
        return None
    if reference.tasks:
        if not is_siftflow(root):
            raise BadFile(root, f"not SIFT Flow, whose two tasks {network} learns", "name SiftFlowDataset")
        return open_both(root)
    stream: Stream | None = STREAMS.get(reference.streams)
    if reference.mean == NYUD_HHA:
        stream = "hha"
    if stream is None:
        return None
    if not is_nyud(root):
        raise BadFile(root, f"not NYUDv2, of which {network} sees {stream}", "name the folder of segmentation/")
    return open_nyud(root, stream)


def open_published(network: str, places: Places) -> Folder:
    """Open the data set that a network of the papers was trained on, with their training set and their test set.

    Args:
        network: Its name.
        places: Where the data sets lie.

    Returns:
        Pairs in the splits ``train`` and ``val``, on which it is scored.

    Raises:
        BadFile: For a folder that is not the data set.
        ValueError: For a place that is missing.
    """
    family = network.partition("-")[0]
    if family == "voc":
        return open_pascal(_given(places.voc, "--voc VOCdevkit/VOC2011"), _given(places.sbdd, "--sbdd dataset"))
    root = _given(places.data, f"--data, the folder of {FAMILIES[family]}")
    if family == "pascalcontext":
        return open_context(root, places.voc)
    folder = open_for(network, root) or open_nyud(root, "colour")
    splits = folder.splits
    folder.splits = {"train": [*splits.get("train", []), *splits.get("val", [])], "val": splits.get("test", [])}
    return folder


def _given(place: Path | None, option: str) -> Path:
    if place is None:
        raise ValueError(f"say where the data lie: {option}")
    return place
