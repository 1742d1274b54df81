"""The dense CRF of images: one call, arrays or tensors, one image or a batch."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from fullyconv.crf.meanfield import DenseCRF
from fullyconv.crf.parameters import CRFParameters
from fullyconv.crf.terms import Gaussian, appearance, positions

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def dense_crf(  # noqa: PLR0913 (six numbers make the model)
    unary: Array,
    image: np.ndarray | torch.Tensor,
    *,
    iterations: int,
    smoothness_weight: float,
    smoothness_sxy: float,
    appearance_weight: float,
    appearance_sxy: float,
    appearance_srgb: float,
) -> Array:
    """Infer each pixel's marginals from its own energies and from all other pixels (Krähenbühl & Koltun 2011).

    ``unary`` is C x H x W energies (-log probability; ``unary_from_scores`` and its siblings make
    them) or a batch, N x C x H x W; ``image`` H x W x K or N x H x W x K of any range, usually uint8
    RGB, ``appearance_srgb`` on its scale. The other numbers are those of ``CRFParameters``: Potts
    labels, symmetric normalisation, the diagonal kept. Gives marginals, float32, in the shape, kind
    and place of ``unary``: arrays and CPU tensors are read where they are; tensors from a GPU are
    copied to the CPU and back. Raises ``ValueError`` for sizes that differ or numbers out of range,
    ``ImportError`` without numba.
    """
    parameters = CRFParameters(
        iterations, smoothness_weight, smoothness_sxy, appearance_weight, appearance_sxy, appearance_srgb
    )
    energies, pixels = as_array(unary), as_array(image)
    single = energies.ndim != 4
    batch: np.ndarray = energies[None] if single else energies
    images: np.ndarray = pixels[None] if single else pixels
    if batch.ndim != 4 or images.ndim not in (3, 4) or images.shape[:3] != (len(batch), *batch.shape[2:]):
        raise ValueError(
            f"unaries C x H x W go with an image H x W x K (or N of each), not {energies.shape} with {pixels.shape}"
        )
    marginals = np.empty(batch.shape, np.float32)
    for one, picture, found in zip(batch, images, marginals, strict=True):
        image_crf(picture, parameters).marginals(one, iterations=iterations, out=found)
    marginals = marginals.reshape(energies.shape)
    if isinstance(unary, torch.Tensor):
        return torch.from_numpy(marginals).to(unary.device)
    return marginals


def image_crf(image: np.ndarray, parameters: CRFParameters, *, mask: np.ndarray | None = None) -> DenseCRF:
    """Build the CRF of an H x W (x K) image; ``mask`` (H x W bool) says which pixels take part."""
    height, width = image.shape[:2]
    terms = []
    if parameters.smoothness_weight:
        deviations = (parameters.smoothness_sxy, parameters.smoothness_sxy)
        terms.append(Gaussian(positions((height, width), deviations), parameters.smoothness_weight))
    if parameters.appearance_weight:
        features = appearance(image, parameters.appearance_sxy, parameters.appearance_srgb)
        terms.append(Gaussian(features, parameters.appearance_weight))
    return DenseCRF((height, width), terms, mask=mask)


def as_array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Look at a tensor as an array, without a copy where it is on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
