"""Labels are never the argmax of what is no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.crf import CRFParameters
from fullyconv.predict.refine import CRFSegmenter


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("refined", [False, True])
def test_scores_that_are_no_numbers_are_refused_not_labelled(junk: float, refined: bool) -> None:
    network = build("fcn32s-resnet18", 3)
    model = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), device="cpu")
    if refined:
        model = CRFSegmenter(model, CRFParameters(iterations=1))
    picture = np.zeros((9, 8, 3), np.uint8)
    model.predict(picture)
    with torch.no_grad():
        network.heads[-1].bias[1] = junk
    with pytest.raises(
        ValueError, match=r"scores are not finite \(NaN or infinity\): its heads\.0\.bias holds such numbers"
    ):
        model.predict(picture)
