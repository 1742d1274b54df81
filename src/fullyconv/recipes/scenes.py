"""PASCAL-Context, SIFT Flow and NYUDv2: the papers' trainings of FCN on VGG-16 (release, solver files).

Whole images one by one, as ``voc.HEAVY_32S``; the first stage of each starts from VGG-16 in convolutional form.
``fullyconv train siftflow-fcn32s --data SiftFlowDataset --out RUN --set start_from=VGG`` is one stage,
``fullyconv reproduce siftflow-fcn16s --data SiftFlowDataset --weights VGG`` a whole chain.
"""

from fullyconv.facts import CONTEXT, NYUD, SIFTFLOW_SEMANTIC
from fullyconv.networks.reference import preprocess_of
from fullyconv.recipes.voc import HEAVY_32S
from fullyconv.train.recipe import Recipe

_RATES = {"fcn32s": 1e-10, "fcn16s": 1e-12, "fcn8s": 1e-14}
_FACTS = {"pascalcontext": CONTEXT, "siftflow": SIFTFLOW_SEMANTIC, "nyud": NYUD}


def _stage(network: str, rate: float, epochs: int) -> Recipe:
    """Change what differs from VOC's: network, classes, normalisation, rate and passes."""
    classes = _FACTS[network.partition("-")[0]].classes
    changed = {"network": network, "classes": classes, "preprocess": preprocess_of(network)}
    return HEAVY_32S.model_copy(update=changed | {"learning_rate": rate, "epochs": epochs})


CONTEXT_NETS = {f"pascalcontext-{stage}": _stage(f"pascalcontext-{stage}", rate, 60) for stage, rate in _RATES.items()}
"""300,000 updates each."""

SIFTFLOW_NETS = {
    f"siftflow-{stage}": _stage(f"siftflow-{stage}", max(rate, 1e-12), 40) for stage, rate in _RATES.items()
}
"""100,000 updates each, both tasks' losses added; the third stage goes on at the second's rate, as released."""

NYUD_NETS = {
    name: _stage(name, rate, 126)
    for name, rate in {
        "nyud-fcn32s-color": 1e-10,
        "nyud-fcn32s-color-d": 1e-10,
        "nyud-fcn32s-hha": 1e-10,
        "nyud-fcn32s-color-hha": 1e-12,
        "nyud-fcn16s-color-hha": 1e-14,
    }.items()
}
"""100,000 updates each on train and val; the last has no released solver: a hundredth of the rate, as everywhere."""
