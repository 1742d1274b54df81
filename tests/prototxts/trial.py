"""What comes of a prototxt: it loads and gives what it must, is refused as it must, or does neither."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from fullyconv.caffe import load
from fullyconv.caffe.net import Net
from fullyconv.files import BadFile
from prototxts.dense import dense_nets
from prototxts.heads import classifiers
from prototxts.layers import Prototxt, layers
from prototxts.others import refused, small_nets


def prototxts() -> Iterator[Prototxt]:
    """Return all there are, by groups."""
    for group in (layers, classifiers, dense_nets, small_nets, refused):
        yield from group()


def loaded(case: Prototxt, place: Path) -> Net:
    """Load a prototxt, whatever it warns of."""
    path = place / "net.prototxt"
    path.write_text(case.text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(path, **case.options)  # type: ignore[arg-type]


def tried(case: Prototxt, place: Path) -> tuple[Literal["loaded", "refused", "wrong"], str]:
    """Load a prototxt and run it, whole nets on sizes alone; returns what came of it and, if wrong, what was found."""
    try:
        with torch.device("cpu" if case.group == "layers" else "meta"):
            net = loaded(case, place)
            blobs = {name: torch.zeros(case.feeds.get(name, shape)) for name, shape in net.inputs.items()}
            found = {name: tuple(top.shape) for name, top in net(blobs).items()}
    except (BadFile, ValueError) as error:
        is_right = bool(case.refused) and re.search(case.refused, str(error)) is not None
        return "refused" if is_right else "wrong", str(error)
    trained = sum(weights.numel() for weights in net.parameters())
    differs = any(found.get(name) != shape for name, shape in case.tops.items())
    if case.refused or differs or case.parameters not in (None, trained):
        return "wrong", f"{found}, {trained} parameters"
    return "loaded", ""
