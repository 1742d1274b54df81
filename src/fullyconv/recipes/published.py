"""The papers' scores on PASCAL VOC (seg11valid), in percent, and the trainings that lead to them."""

from __future__ import annotations

from dataclasses import dataclass

from fullyconv.recipes import voc
from fullyconv.train.chain import Chain


@dataclass(frozen=True)
class Published:
    """A row of the papers: pixel accuracy, mean accuracy, mean IU, frequency-weighted IU; ``None``: not given."""

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iu: float
    frequency_weighted_iu: float | None
    source: str


PAMI = "PAMI 2016"
PUBLISHED = {
    "voc-fcn32s": Published(90.5, 76.5, 63.6, 83.5, PAMI),
    "voc-fcn16s": Published(91.0, 78.1, 65.0, 84.3, PAMI),
    "voc-fcn8s": Published(91.2, 77.6, 65.5, 84.5, PAMI),
    "voc-fcn8s-atonce": Published(91.1, 78.5, 65.4, 84.4, PAMI),
    "voc-fcn32s-fixed": Published(83.0, 59.7, 45.4, 72.0, "CVPR 2015, table 2"),
    "voc-fcn-alexnet": Published(None, None, 48.0, None, "release notes"),
}

# What has to be trained, first to last, for each network; stages carry the networks' names.
REPRODUCTIONS = {
    "voc-fcn32s": Chain({"voc-fcn32s": voc.HEAVY_32S}),
    "voc-fcn16s": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s": voc.HEAVY_16S}),
    "voc-fcn8s": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s": voc.HEAVY_16S, "voc-fcn8s": voc.HEAVY_8S}),
    "voc-fcn8s-atonce": Chain({"voc-fcn8s-atonce": voc.AT_ONCE}),
    "voc-fcn32s-fixed": Chain({"voc-fcn32s-fixed": voc.FIXED}),
    "voc-fcn-alexnet": Chain({"voc-fcn-alexnet": voc.ALEXNET}),
}
