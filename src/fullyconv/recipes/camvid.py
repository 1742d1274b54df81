"""CamVid street scenes, 480 x 360, 11 classes, from scratch."""

from fullyconv.train.recipe import Recipe
from fullyconv.types import ClassSet

CLASSES = ClassSet(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    colours=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    ignore_index=11,
)  # fmt: skip

CAMVID = Recipe(
    network="fcn8s-resnet18",
    classes=CLASSES,
    crop=(320, 320),
    scale=(0.5, 2.0),
    epochs=80,
    minutes=28.0,
    batch=8,
    learning_rate=1e-3,
    balance=0.5,
    validate_every=2,
)

PRETRAINED = CAMVID.model_copy(
    update={
        "network": "fpn4s-lite0",
        "crop": (360, 480),
        "scale": (0.7, 2.0),
        "colour": 0.4,
        "blur": 0.8,
        "epochs": 80,
        "minutes": 60.0,
        "trunk_rate": 0.5,
        "average": 0.997,
        "validate_every": 5,
    }
)
"""From ImageNet's weights: ``--set start_from=tf_efficientnet_lite0.safetensors`` (timm's)."""
