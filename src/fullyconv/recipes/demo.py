"""The demonstration's generated pictures: six classes, 144..208 x 112..176 pixels.

``fullyconv demo`` (or ``make demo``): about three minutes on two CPU cores, mean IU 0.88 on the unseen split.
"""

from fullyconv.train.chain import Chain
from fullyconv.train.recipe import Recipe

DEMO = Recipe(
    network="fcn8s-resnet18",
    crop=(128, 160),
    scale=(0.9, 1.1),
    colour=0.2,
    epochs=28,
    minutes=3.75,
    batch=8,
    learning_rate=2e-3,
    balance=0.5,
    validate_every=3,
)

DEMO_STAGED = Chain(
    {
        "fcn32s": DEMO.model_copy(update={"network": "fcn32s-resnet18"}),
        "fcn16s": DEMO.model_copy(update={"network": "fcn16s-resnet18", "epochs": 8, "learning_rate": 1e-3}),
        "fcn8s": DEMO.model_copy(update={"network": "fcn8s-resnet18", "epochs": 8, "learning_rate": 1e-3}),
    }
)
"""The paper's three stages on the generated pictures: each starts from the best model of the one before.

``fullyconv data demo shapes`` and ``fullyconv train demo-staged --data shapes --out runs/staged``.
"""
