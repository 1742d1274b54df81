"""The dense CRF of images: one call, arrays or tensors, one image or a batch."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from fullyconv.crf.meanfield import DenseCRF
from fullyconv.crf.parameters import CRFParameters
from fullyconv.crf.terms import Gaussian, GridGaussian, along_axes, appearance, as_array, positions

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def dense_crf(  # noqa: PLR0913 (these numbers make the model)
    unary: Array,
    image: np.ndarray | torch.Tensor,
    *,
    iterations: int,
    smoothness_weight: float,
    smoothness_sxy: float | tuple[float, ...],
    appearance_weight: float,
    appearance_sxy: float | tuple[float, ...],
    appearance_srgb: float | tuple[float, ...],
    keep_diagonal: bool = True,
    exact_smoothness: bool = False,
) -> Array:
    """Infer each pixel's marginals from its own energies and from all other pixels (Krähenbühl & Koltun 2011).

    Potts labels, symmetric normalisation, the diagonal kept: what published parameters were tuned with.

    Args:
        unary: C x H x W energies (-log probability; ``unary_from_scores`` and its siblings make them) or a batch,
            N x C x H x W; arrays or tensors of any floating type. Arrays and CPU tensors are read where they
            are, tensors from a GPU copied to the CPU and back.
        image: H x W x K or N x H x W x K of any range, usually uint8 RGB.
        iterations: Mean-field updates, 5 to 10.
        smoothness_weight: Weight of the kernel over positions.
        smoothness_sxy: Its standard deviation in pixels, or two: along x and y.
        appearance_weight: Weight of the kernel over positions and colours.
        appearance_sxy: Its standard deviation in pixels, or two.
        appearance_srgb: Its standard deviation of colours, on the image's scale, or one for each channel.
        keep_diagonal: Whether a pixel's message to itself counts.
        exact_smoothness: Compute the kernel over positions exactly, not on a lattice.

    Returns:
        Marginals, float32, in the shape, kind and place of ``unary``; they add up to 1 over the labels.

    Raises:
        ValueError: For sizes that differ, numbers out of range, and energies or pictures with NaN or infinity.

    >>> from fullyconv.crf import unary_from_labels
    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> image[:, 4:] = 255  # the picture's edge lies between the columns 3 and 4, that of the labels one before
    >>> unary = unary_from_labels((np.indices((8, 8))[1] > 2).astype(int), classes=2, confidence=0.6)
    >>> marginals = dense_crf(unary, image, iterations=5, smoothness_weight=0.0, smoothness_sxy=1.0,
    ...                       appearance_weight=5.0, appearance_sxy=9.0, appearance_srgb=9.0)
    >>> marginals.argmax(0)[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    parameters = CRFParameters(
        iterations,
        smoothness_weight,
        smoothness_sxy,
        appearance_weight,
        appearance_sxy,
        appearance_srgb,
        keep_diagonal,
        exact_smoothness,
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
    """Build the CRF of an image; infer marginals with it as often as needed.

    Args:
        image: H x W or H x W x K.
        parameters: Weights and bandwidths; a kernel of weight 0 is left out.
        mask: H x W bool, which pixels take part; all by default.

    Returns:
        The CRF, ready for unaries C x H x W.

    >>> crf = image_crf(np.zeros((4, 5, 3), np.uint8), CRFParameters(appearance_weight=0))
    >>> crf.marginals(np.zeros((2, 4, 5), np.float32), iterations=1).shape
    (2, 4, 5)
    """
    height, width = image.shape[:2]
    terms: list[Gaussian | GridGaussian] = []
    if parameters.smoothness_weight:
        deviations, weight = along_axes(parameters.smoothness_sxy), parameters.smoothness_weight
        smooth = GridGaussian(deviations, weight) if parameters.exact_smoothness else None
        terms.append(smooth or Gaussian(positions((height, width), deviations), weight))
    if parameters.appearance_weight:
        features = appearance(image, parameters.appearance_sxy, parameters.appearance_srgb)
        terms.append(Gaussian(features, parameters.appearance_weight))
    return DenseCRF((height, width), terms, keep_diagonal=parameters.keep_diagonal, mask=mask)
