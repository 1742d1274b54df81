"""Fully connected conditional random fields, which sharpen what a network says.

The dense CRF compiles its loops with numba when it is first used.
"""

from fullyconv.crf.dense import dense_crf, image_crf
from fullyconv.crf.meanfield import DenseCRF
from fullyconv.crf.parameters import CRFParameters
from fullyconv.crf.stepwise import Inference
from fullyconv.crf.terms import (
    Gaussian,
    GridGaussian,
    appearance,
    positions,
    unary_from_labels,
    unary_from_probabilities,
    unary_from_scores,
)

__all__ = [
    "CRFParameters",
    "DenseCRF",
    "Gaussian",
    "GridGaussian",
    "Inference",
    "appearance",
    "dense_crf",
    "image_crf",
    "positions",
    "unary_from_labels",
    "unary_from_probabilities",
    "unary_from_scores",
]
