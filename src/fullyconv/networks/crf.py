"""The dense CRF as a layer whose weights are learned with the network's (Zheng et al. 2015, "CRF as RNN").

Each mean-field update is differentiable: softmax and compatibility as any layer, the lattice filter
because it is linear; its gradient is the transposed filter, which blurs along the axes in reverse.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fullyconv.crf.filtering import LatticeFilter
from fullyconv.crf.meanfield import DenseCRF
from fullyconv.crf.parameters import CRFParameters
from fullyconv.crf.terms import Gaussian, along_axes, appearance, positions
from fullyconv.types import Preprocess

WITHOUT_CRF = "to write the network alone, load it in Python and set network.crf = None first"


class _Filtered(torch.autograd.Function):
    """``filter`` of C x N values on the CPU, wherever they are."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: LatticeFilter) -> Tensor:
        ctx.lattice = lattice
        return _on_cpu(values, lattice, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None]:
        return _on_cpu(output_gradient, ctx.lattice, transposed=True), None


def _on_cpu(values: Tensor, lattice: LatticeFilter, *, transposed: bool) -> Tensor:
    filtered = lattice(values.detach().cpu().float().numpy(), transposed=transposed)
    return torch.from_numpy(filtered).to(values)


def lattice_filter(values: Tensor, lattice: LatticeFilter) -> Tensor:
    """Filter C x N values, differentiably; on other devices than the CPU they are copied there and back."""
    filtered: Tensor = _Filtered.apply(values, lattice)  # type: ignore[no-untyped-call]
    return filtered


class CRFLayer(nn.Module):
    """Mean-field updates with learned kernel weights and label compatibilities.

    Takes N x C x H x W class scores and the N x K x H x W pictures they are of (0..255), gives
    N x C x H x W scores whose softmax is the marginals. ``weights`` is 2 x C: smoothness and
    appearance kernel, per label; ``compatibility`` C x C the penalties. Both begin as in
    ``parameters``, where the layer is exactly ``dense_crf``; the bandwidths and the number of updates
    stay as they are (5 by default). It computes in float32, whatever the precision around it.
    """

    def __init__(self, classes: int, parameters: CRFParameters | None = None) -> None:
        super().__init__()
        self.settings = parameters or CRFParameters(iterations=5)
        strengths = torch.tensor([[self.settings.smoothness_weight], [self.settings.appearance_weight]])
        self.weights = nn.Parameter(strengths.repeat(1, classes))
        self.compatibility = nn.Parameter(1 - torch.eye(classes))

    def forward(self, scores: Tensor, image: Tensor) -> Tensor:
        """Sharpen scores; raises ``ValueError`` when they and the pictures differ in size."""
        with torch.autocast(scores.device.type, enabled=False):
            return self._sharpened(scores.float(), image)

    def dense(self, image: np.ndarray) -> DenseCRF:
        """Return the CRF of a picture, H x W x K, as it has been learned up to now: quicker, and without gradients."""
        penalties = self.compatibility.detach().cpu().numpy()
        terms = [
            Gaussian(space, compatibility=penalties * strength)
            for space, strength in zip(self._spaces(image), self.weights.detach().cpu().numpy(), strict=True)
        ]
        return DenseCRF(image.shape[:2], terms)

    def _sharpened(self, scores: Tensor, image: Tensor) -> Tensor:
        if scores.shape[:1] + scores.shape[2:] != image.shape[:1] + image.shape[2:]:
            raise ValueError(f"scores {tuple(scores.shape)} and pictures {tuple(image.shape)} differ in size")
        return torch.stack([self._settle(one, picture) for one, picture in zip(scores, image, strict=True)])

    def _settle(self, scores: Tensor, image: Tensor) -> Tensor:
        lattices = self._lattices(image)
        certain = scores.flatten(1).log_softmax(0)  # C x N
        settled = certain
        for _ in range(self.settings.iterations):
            beliefs = settled.softmax(0)
            messages = torch.zeros_like(beliefs)
            for strength, (lattice, norm) in zip(self.weights, lattices, strict=True):
                messages = messages + strength[:, None] * norm * lattice_filter(norm * beliefs, lattice)
            settled = certain - self.compatibility @ messages
        return settled.view_as(scores)

    def _lattices(self, image: Tensor) -> list[tuple[LatticeFilter, Tensor]]:
        """Build both lattices of a K x H x W picture, with the roots of their row sums' inverses (symmetric)."""
        lattices = []
        for space in self._spaces(image.detach().cpu().float().numpy().transpose(1, 2, 0)):
            lattice = LatticeFilter(space.reshape(len(space), -1))
            sums = lattice(np.ones((1, lattice.points), np.float32))
            lattices.append((lattice, torch.from_numpy(1 / np.sqrt(sums)).to(self.weights)))
        return lattices

    def _spaces(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the features by which pixels of H x W x K are compared, of both kernels."""
        settings = self.settings
        return (
            positions(pixels.shape[:2], along_axes(settings.smoothness_sxy)),
            appearance(pixels, settings.appearance_sxy, settings.appearance_srgb),
        )


class WithCRF(nn.Module):
    """A network and a CRF layer on its scores: N x 3 x H x W normalised images in, N x C x H x W scores out.

    The layer compares the pixels (RGB) as they were before ``preprocess`` normalised them.
    """

    def __init__(self, network: nn.Module, layer: CRFLayer, preprocess: Preprocess) -> None:
        super().__init__()
        self.network, self.layer, self.turned = network, layer, preprocess.order == "BGR"
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel."""
        pixels = image * cast("Tensor", self.std) + cast("Tensor", self.mean)
        pixels = pixels.flip(1) if self.turned else pixels
        settled: Tensor = self.layer(self.network(image), pixels)
        return settled
