"""The official classes of the published data sets, in their official order.

Sources: PASCAL VOC development kit; the ``labels.txt`` of PASCAL-Context (59 classes of the task, spelt
as the task spells them); SIFT Flow (Liu et al., 33 semantic; Tighe and Lazebnik, 3 geometric); NYUDv2's
40 classes (Gupta et al.). Only VOC has an official palette: the others are painted by its rule.
"""

from __future__ import annotations

from fullyconv.types import ClassSet

VOC = ClassSet(
    names=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ),
)  # fmt: skip

CONTEXT = ClassSet(
    names=(
        *VOC.names,
        "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door",
        "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain",
        "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track",
        "tree", "truck", "wall", "water", "window", "wood",
    ),
)  # fmt: skip

SIFTFLOW_SEMANTIC = ClassSet(
    names=(
        "awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door",
        "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand",
        "sea", "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window",
    ),
)  # fmt: skip

SIFTFLOW_GEOMETRIC = ClassSet(names=("sky", "horizontal", "vertical"))

NYUD = ClassSet(
    names=(
        "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
        "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
        "ceiling", "books", "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
        "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture",
        "otherprop",
    ),
)  # fmt: skip
