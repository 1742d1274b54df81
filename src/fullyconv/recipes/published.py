"""The papers' scores, in percent, and the trainings that lead to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fullyconv.recipes import voc
from fullyconv.recipes.scenes import CONTEXT_NETS, NYUD_NETS, SIFTFLOW_NETS
from fullyconv.train.chain import Chain
from fullyconv.train.recipe import Recipe


@dataclass(frozen=True)
class Published:
    """A row of the papers: pixel accuracy, mean accuracy, mean IU, frequency-weighted IU; ``None``: not given."""

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iu: float | None
    frequency_weighted_iu: float | None
    source: str
    geometric_accuracy: float | None = None  # of a second task


PAMI = "PAMI 2016"
PUBLISHED = {
    "voc-fcn32s": Published(90.5, 76.5, 63.6, 83.5, PAMI),
    "voc-fcn16s": Published(91.0, 78.1, 65.0, 84.3, PAMI),
    "voc-fcn8s": Published(91.2, 77.6, 65.5, 84.5, PAMI),
    "voc-fcn8s-atonce": Published(91.1, 78.5, 65.4, 84.4, PAMI),
    "voc-fcn32s-accumulated": Published(89.1, 73.3, 59.4, 81.4, "CVPR 2015, table 2"),
    "voc-fcn16s-learned": Published(90.0, 75.7, 62.4, 83.0, "CVPR 2015, table 2"),
    "voc-fcn8s-learned": Published(90.3, 75.9, 62.7, 83.2, "CVPR 2015, table 2"),
    "voc-fcn-googlenet": Published(None, None, 42.5, None, "CVPR 2015, table 1"),
    "voc-fcn32s-fixed": Published(83.0, 59.7, 45.4, 72.0, "CVPR 2015, table 2"),
    "voc-fcn16s-max": Published(None, None, None, None, "CVPR 2015, section 4.2: learns badly"),
    "voc-fcn8s-max": Published(None, None, None, None, "none published"),
    "voc-fcn-pool5": Published(None, None, 50.0, None, PAMI),
    "voc-fcn-pool4": Published(None, None, 22.4, None, PAMI),
    "voc-fcn-pool3": Published(None, None, 9.2, None, PAMI),
    "voc-fcn-alexnet": Published(None, None, 48.0, None, "release notes"),
    "voc-fcn32s-patchwise": Published(None, None, None, None, "CVPR 2015, figure 5: as without sampling"),
    "pascalcontext-fcn32s": Published(63.8, 42.7, 31.8, 48.3, "arXiv appendix"),
    "pascalcontext-fcn16s": Published(65.7, 46.2, 34.8, 50.7, "arXiv appendix"),
    "pascalcontext-fcn8s": Published(65.9, 46.5, 35.1, 51.0, "arXiv appendix"),
    "siftflow-fcn32s": Published(None, None, None, None, "none published"),
    "siftflow-fcn16s": Published(85.2, 51.7, 39.5, 76.1, "CVPR 2015, table 5", geometric_accuracy=94.3),
    "siftflow-fcn8s": Published(None, None, None, None, "none published"),
    "nyud-fcn32s-color": Published(60.0, 42.2, 29.2, 43.9, "CVPR 2015, table 4"),
    "nyud-fcn32s-color-d": Published(61.5, 42.4, 30.5, 45.5, "CVPR 2015, table 4"),
    "nyud-fcn32s-hha": Published(57.1, 35.2, 24.2, 40.4, "CVPR 2015, table 4"),
    "nyud-fcn32s-color-hha": Published(64.3, 44.9, 32.8, 48.0, "CVPR 2015, table 4"),
    "nyud-fcn16s-color-hha": Published(65.4, 46.1, 34.0, 49.5, "CVPR 2015, table 4"),
}

_FUSED = {"nyud-fcn32s-hha": (), "nyud-fcn32s-color-hha": ("nyud-fcn32s-color", "nyud-fcn32s-hha")}


def _up_to(nets: Mapping[str, Recipe], last: str) -> dict[str, Recipe]:
    """Take the stages of a data set up to one."""
    names = list(nets)
    return {name: nets[name] for name in names[: names.index(last) + 1]}


def _nyud(*names: str) -> Chain:
    sources = {name: before for name, before in _FUSED.items() if name in names and len(names) > 1}
    return Chain({name: NYUD_NETS[name] for name in names}, sources)


_STREAMS = ("nyud-fcn32s-color", "nyud-fcn32s-hha", "nyud-fcn32s-color-hha")

_LEARNED = {
    "voc-fcn32s-accumulated": voc.ACCUMULATED,
    "voc-fcn16s-learned": voc.LEARNED_16S,
    "voc-fcn8s-learned": voc.LEARNED_8S,
}

# What has to be trained, first to last, for each network; stages carry the networks' names.
REPRODUCTIONS = {
    "voc-fcn32s": Chain({"voc-fcn32s": voc.HEAVY_32S}),
    "voc-fcn16s": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s": voc.HEAVY_16S}),
    "voc-fcn8s": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s": voc.HEAVY_16S, "voc-fcn8s": voc.HEAVY_8S}),
    "voc-fcn8s-atonce": Chain({"voc-fcn8s-atonce": voc.AT_ONCE}),
    "voc-fcn16s-max": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s-max": voc.MAX_16S}),
    "voc-fcn8s-max": Chain({"voc-fcn32s": voc.HEAVY_32S, "voc-fcn16s-max": voc.MAX_16S, "voc-fcn8s-max": voc.MAX_8S}),
    **{name: Chain({name: recipe}) for name, recipe in voc.POOLS.items()},
    "voc-fcn32s-accumulated": Chain({"voc-fcn32s-accumulated": voc.ACCUMULATED}),
    "voc-fcn16s-learned": Chain(_up_to(_LEARNED, "voc-fcn16s-learned")),
    "voc-fcn8s-learned": Chain(_LEARNED),
    "voc-fcn-googlenet": Chain({"voc-fcn-googlenet": voc.GOOGLENET}),
    "voc-fcn32s-fixed": Chain({"voc-fcn32s-fixed": voc.FIXED}),
    "voc-fcn-alexnet": Chain({"voc-fcn-alexnet": voc.ALEXNET}),
    "voc-fcn32s-patchwise": Chain({"voc-fcn32s-patchwise": voc.PATCHWISE}),
    **{name: Chain(_up_to(CONTEXT_NETS, name)) for name in CONTEXT_NETS},
    **{name: Chain(_up_to(SIFTFLOW_NETS, name)) for name in SIFTFLOW_NETS},
    "nyud-fcn32s-color": _nyud("nyud-fcn32s-color"),
    "nyud-fcn32s-color-d": _nyud("nyud-fcn32s-color-d"),
    "nyud-fcn32s-hha": _nyud("nyud-fcn32s-hha"),
    "nyud-fcn32s-color-hha": _nyud(*_STREAMS),
    "nyud-fcn16s-color-hha": _nyud(*_STREAMS, "nyud-fcn16s-color-hha"),
}
