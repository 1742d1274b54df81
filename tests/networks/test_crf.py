from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fullyconv.crf import CRFParameters, appearance, dense_crf, positions, unary_from_scores
from fullyconv.crf.filtering import LatticeFilter
from fullyconv.networks import build
from fullyconv.networks.crf import CRFLayer, WithCRF, lattice_filter
from fullyconv.types import Preprocess

PARAMETERS = CRFParameters(3, 1.0, 2.0, 2.0, 8.0, 20.0)


def pictures(count: int = 1, height: int = 9, width: int = 8) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(60, 160, (count, 3, height, width))).float()


def test_the_layer_begins_as_the_dense_crf() -> None:
    scores = torch.randn(2, 4, 9, 8, generator=torch.manual_seed(0))
    image = pictures(2)
    found = CRFLayer(4, PARAMETERS)(scores, image).softmax(1)
    unary = np.stack([unary_from_scores(one) for one in scores.numpy()])
    expected = dense_crf(unary, image.permute(0, 2, 3, 1).numpy(), **PARAMETERS.__dict__)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def test_the_backward_filter_is_the_transposed_one() -> None:
    rng = np.random.default_rng(0)
    lattice = LatticeFilter(rng.random((4, 300), np.float32) * 6)
    left, right = rng.random((2, 3, 300), np.float32)
    forwards, backwards = (left * lattice(right)).sum(1), (lattice(left, transposed=True) * right).sum(1)
    np.testing.assert_allclose(forwards, backwards, rtol=1e-5)
    values = torch.from_numpy(right).requires_grad_()
    (lattice_filter(values, lattice) * torch.from_numpy(left)).sum().backward()
    np.testing.assert_allclose(values.grad, lattice(left, transposed=True), rtol=1e-6)


def by_hand(scores: Tensor, weights: Tensor, penalties: Tensor, kernels: list[Tensor]) -> Tensor:
    """The layer in float64, with the lattices as matrices."""
    certain = scores.log_softmax(0)
    settled = certain
    for _ in range(PARAMETERS.iterations):
        beliefs = settled.softmax(0)
        heard = sum(strength[:, None] * (beliefs @ kernel.T) for strength, kernel in zip(weights, kernels, strict=True))
        settled = certain - penalties @ heard
    return settled


def test_gradients_are_those_of_finite_differences() -> None:
    image = pictures(1, 5, 6)
    pixels = image[0].permute(1, 2, 0).numpy()
    kernels = []
    for space in (positions((5, 6), (2.0, 2.0)), appearance(pixels, 8.0, 20.0)):
        matrix = LatticeFilter(space.reshape(len(space), -1))(np.eye(30, dtype=np.float32)).T.astype(np.float64)
        root = 1 / np.sqrt(matrix.sum(1))
        kernels.append(torch.from_numpy(matrix * root[:, None] * root))
    generator = torch.Generator().manual_seed(0)
    layer = CRFLayer(3, PARAMETERS)
    with torch.no_grad():
        layer.compatibility += 0.3 * torch.rand(3, 3, generator=generator)
        layer.weights += torch.rand(2, 3, generator=generator)
    scores = torch.randn(1, 3, 5, 6, generator=generator, requires_grad=True)
    aim = torch.randn(3, 30, generator=generator)
    (layer(scores, image)[0].flatten(1).softmax(0) * aim).sum().backward()

    leaves = [tensor.detach().double().requires_grad_() for tensor in (scores, layer.weights, layer.compatibility)]
    leaves[0] = leaves[0].detach()[0].flatten(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w, p: by_hand(s, w, p, kernels).softmax(0), leaves)
    (by_hand(*leaves, kernels).softmax(0) * aim).sum().backward()
    for ours, expected in zip((scores, layer.weights, layer.compatibility), leaves, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.flatten().double(), expected.grad.flatten(), rtol=1e-3, atol=2e-5)


def test_a_network_with_the_layer_learns() -> None:
    torch.manual_seed(0)
    network = WithCRF(build("fcn8s-resnet18", classes=3), CRFLayer(3, PARAMETERS), Preprocess())
    images = torch.zeros(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    images[:, 0, :, 16:], labels[:, :, 16:] = 2.0, 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert network.layer.weights.grad is not None
    assert network.layer.weights.grad.abs().sum() > 0
    assert network.layer.compatibility.grad is not None


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        CRFLayer(3, PARAMETERS)(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 5, 4))
