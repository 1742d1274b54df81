"""The networks of the papers and of their release, as values (fact sheet, section 1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fullyconv import facts
from fullyconv.networks.architecture import Fusion, Upsampling
from fullyconv.types import Preprocess

VOC, PASCAL_CONTEXT, SIFT_FLOW = facts.VOC.mean, facts.CONTEXT.mean, facts.SIFTFLOW_SEMANTIC.mean
NYUD_COLOUR, NYUD_DEPTH, NYUD_HHA = facts.NYUD.mean, facts.NYUD_LOG_DEPTH, facts.NYUD_HHA.mean

GEOMETRIC = (("geometric", len(facts.SIFTFLOW_GEOMETRIC.classes)),)


@dataclass(frozen=True)
class Reference:
    """A network of the papers.

    ``mean`` is subtracted from the input's channels, 0..255, in their order: BGR colour, then log-depth
    or HHA where the network sees those. ``scales`` shrink the maps that the skips score, coarse to
    fine; ``tasks`` are further ones with their numbers of classes; ``streams`` the blobs of a network
    that sees several pictures; ``trains`` what is not frozen; ``fusion`` how scores are joined.
    """

    mean: tuple[float, ...]
    classes: int = 21
    skips: int = 0
    trunk: str = "vgg16"
    scales: tuple[float, ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    streams: tuple[str, ...] = ()
    upsampling: Upsampling = "fixed"
    trains: Literal["all", "score"] = "all"
    fusion: Fusion = "sum"


REFERENCES: dict[str, Reference] = {
    "voc-fcn32s": Reference(VOC),
    "voc-fcn16s": Reference(VOC, skips=1),
    "voc-fcn8s": Reference(VOC, skips=2),
    "voc-fcn8s-atonce": Reference(VOC, skips=2, scales=(0.01, 0.0001)),
    "voc-fcn-alexnet": Reference(VOC, trunk="caffenet"),
    "pascalcontext-fcn32s": Reference(PASCAL_CONTEXT, 60),
    "pascalcontext-fcn16s": Reference(PASCAL_CONTEXT, 60, skips=1),
    "pascalcontext-fcn8s": Reference(PASCAL_CONTEXT, 60, skips=2),
    "siftflow-fcn32s": Reference(SIFT_FLOW, 33, tasks=GEOMETRIC),
    "siftflow-fcn16s": Reference(SIFT_FLOW, 33, skips=1, tasks=GEOMETRIC),
    "siftflow-fcn8s": Reference(SIFT_FLOW, 33, skips=2, tasks=GEOMETRIC),
    "nyud-fcn32s-color": Reference(NYUD_COLOUR, 40),
    "nyud-fcn32s-color-d": Reference(NYUD_COLOUR + NYUD_DEPTH, 40, trunk="vgg16-bgrd", streams=("color", "depth")),
    "nyud-fcn32s-hha": Reference(NYUD_HHA, 40),
    "nyud-fcn32s-color-hha": Reference(NYUD_COLOUR + NYUD_HHA, 40, streams=("color", "hha")),
    # In the papers, not in the release:
    "nyud-fcn16s-color-hha": Reference(NYUD_COLOUR + NYUD_HHA, 40, skips=1, streams=("color", "hha")),
    "voc-fcn32s-fixed": Reference(VOC, trains="score"),
    "voc-fcn-googlenet": Reference(VOC, trunk="googlenet"),
    "voc-fcn16s-learned": Reference(VOC, skips=1, upsampling="learned"),
    "voc-fcn8s-learned": Reference(VOC, skips=2, upsampling="learned"),
    "voc-fcn16s-max": Reference(VOC, skips=1, fusion="max"),
    "voc-fcn8s-max": Reference(VOC, skips=2, fusion="max"),
    "voc-fcn-pool5": Reference(VOC, trunk="vgg16-pool5"),  # scored alone, without what lies above
    "voc-fcn-pool4": Reference(VOC, trunk="vgg16-pool4"),
    "voc-fcn-pool3": Reference(VOC, trunk="vgg16-pool3"),
}

RELEASED = tuple(REFERENCES)[:15]
"""The fifteen networks of the release."""


def preprocess_of(name: str) -> Preprocess:
    """Return the normalisation of a network of the papers; of any other, that of the VOC nets.

    Mean-free BGR at its full range, then log-depth or HHA where the network sees those; HHA alone in
    its own order.
    """
    mean = REFERENCES.get(name, REFERENCES["voc-fcn32s"]).mean
    return Preprocess(mean, (1.0,) * len(mean), "RGB" if mean == NYUD_HHA else "BGR")
