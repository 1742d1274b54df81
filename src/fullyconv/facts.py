"""What is known of the published data sets: classes in their official order, mean colours, counts of pairs.

A room below networks and files, so that both read one truth, and reading a data set needs no networks.

Sources of the classes: PASCAL VOC development kit; the ``labels.txt`` of PASCAL-Context (59 classes of the
task, spelt as the task spells them); SIFT Flow (Liu et al., 33 semantic; Tighe and Lazebnik, 3 geometric);
NYUDv2's 40 classes (Gupta et al.). Only VOC has an official palette: the others are painted by its rule.
The means are those the papers' networks were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fullyconv.types import ClassSet, Preprocess


@dataclass(frozen=True)
class Facts:
    """What is known of a published data set.

    ``mean`` is what the papers subtract from its pixels, 0..255, in ``order``; they divide by nothing.
    ``counts`` are the published numbers of pairs, by split.

    >>> VOC.preprocess.mean[0], VOC.preprocess.std
    (104.00699, (1.0, 1.0, 1.0))
    """

    classes: ClassSet
    mean: tuple[float, ...]
    order: Literal["RGB", "BGR"] = "BGR"
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def preprocess(self) -> Preprocess:
        """The papers' normalisation of its pictures."""
        return Preprocess(self.mean, (1.0,) * len(self.mean), self.order)


VOC = Facts(
    ClassSet((
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )),
    mean=(104.00699, 116.66877, 122.67892),
)  # fmt: skip

VOC_COUNTS = {  # of the segmentation lists, by year
    "VOC2007": {"train": 209, "val": 213, "trainval": 422, "test": 210},
    "VOC2008": {"train": 511, "val": 512, "trainval": 1023},
    "VOC2009": {"train": 749, "val": 750, "trainval": 1499},
    "VOC2010": {"train": 964, "val": 964, "trainval": 1928},
    "VOC2011": {"train": 1112, "val": 1111, "trainval": 2223},
    "VOC2012": {"train": 1464, "val": 1449, "trainval": 2913},
}

SBDD = Facts(VOC.classes, VOC.mean, counts={"train": 8498, "val": 2857})

SEG11VALID, SEG11VALID_COUNT = "seg11valid", 736  # what the papers score on: VOC2011's val without SBDD's train

CONTEXT = Facts(
    ClassSet((
        *VOC.classes.names,
        "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door",
        "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain",
        "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track",
        "tree", "truck", "wall", "water", "window", "wood",
    )),
    mean=(104.007, 116.669, 122.679),
    counts={"train": 4998, "val": 5105},
)  # fmt: skip

SIFTFLOW_SEMANTIC = Facts(
    ClassSet((
        "awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door",
        "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand",
        "sea", "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window",
    )),
    mean=(114.578, 115.294, 108.353),
    counts={"train": 2486, "test": 200},
)  # fmt: skip

SIFTFLOW_GEOMETRIC = Facts(
    ClassSet(("sky", "horizontal", "vertical")), SIFTFLOW_SEMANTIC.mean, counts=SIFTFLOW_SEMANTIC.counts
)

NYUD = Facts(
    ClassSet((
        "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
        "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
        "ceiling", "books", "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
        "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture",
        "otherprop",
    )),
    mean=(116.190, 97.203, 92.318),
    counts={"train": 381, "val": 414, "trainval": 795, "test": 654},
)  # fmt: skip

NYUD_HHA = Facts(NYUD.classes, (132.431, 94.076, 118.477), order="RGB", counts=NYUD.counts)

NYUD_LOG_DEPTH = (7.844,)  # the mean of the natural logarithm of depth in millimetres
