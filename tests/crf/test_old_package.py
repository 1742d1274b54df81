"""What people who come from pydensecrf use, beside pydensecrf itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fullyconv.crf import (
    CRFParameters,
    DenseCRF,
    Gaussian,
    appearance,
    dense_crf,
    image_crf,
    positions,
    unary_from_labels,
    unary_from_probabilities,
    unary_from_scores,
)

from .oracle import kernel, mean_field, normalised
from .test_meanfield import problem

ABSENT = "pydensecrf2 is not installed (make bench installs it)"
SHAPE = (21, 17)
WEIGHTS = {"smoothness_weight": 2.0, "appearance_weight": 4.0}
WIDTHS: dict[str, Any] = {
    "smoothness_sxy": (5.0, 2.0), "appearance_sxy": (9.0, 20.0), "appearance_srgb": (30.0, 13.0, 20.0)
}  # fmt: skip


def old(unary: np.ndarray, image: np.ndarray, compats: tuple[Any, Any] = (2.0, 4.0)) -> Any:
    densecrf = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed (make bench installs it)"
    )
    crf = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(unary), -1), np.float32))
    # The oracle keeps pointers: arrays are made contiguous here.
    crf.addPairwiseGaussian(sxy=WIDTHS["smoothness_sxy"], compat=compats[0])
    crf.addPairwiseBilateral(
        sxy=WIDTHS["appearance_sxy"], srgb=WIDTHS["appearance_srgb"], rgbim=np.ascontiguousarray(image),
        compat=compats[1],
    )  # fmt: skip
    return crf


def test_every_step_is_that_of_the_old_package() -> None:
    unary, image = problem(*SHAPE)
    theirs = old(unary, image)
    crf = image_crf(image, CRFParameters(**WEIGHTS, **WIDTHS))
    ours = crf.start(unary)
    q, one, two = theirs.startInference()
    energies = [ours.kl_divergence]
    for _ in range(4):
        theirs.stepInference(q, one, two)
        ours.step()
        np.testing.assert_allclose(ours.marginals.reshape(5, -1), np.asarray(q), atol=2e-4)
        np.testing.assert_array_equal(ours.labels.ravel(), np.asarray(q).argmax(0))
        pairs = float(
            (ours.marginals * image_crf(image, CRFParameters(**WEIGHTS, **WIDTHS)).messages(ours.marginals)).sum()
        )
        assert ours.kl_divergence - pairs / 2 == pytest.approx(theirs.klDivergence(q), rel=1e-3)
        energies.append(ours.kl_divergence)
    assert energies[-1] < energies[0]


@pytest.mark.parametrize("kind", ["vector", "symmetric", "asymmetric"])
def test_compatibilities_are_those_of_the_old_package(kind: str) -> None:
    unary, image = problem(*SHAPE)
    rng = np.random.default_rng(3)
    given = -rng.random(5) * 4 if kind == "vector" else rng.random((5, 5)) * 4
    given = (given + given.T) / 2 if kind == "symmetric" else given
    given = given.astype(np.float32)
    theirs = old(unary, image, (given, 2 * given)).inference(3)
    same = (given + given.T) / 2 if kind == "asymmetric" else given  # theirs is the mean with the transpose
    features = (
        positions(SHAPE, WIDTHS["smoothness_sxy"][::-1]),
        appearance(image, WIDTHS["appearance_sxy"], WIDTHS["appearance_srgb"]),
    )
    terms = [Gaussian(each, weight, same) for each, weight in zip(features, (1.0, 2.0), strict=True)]
    ours = DenseCRF(SHAPE, terms).marginals(unary, iterations=3)
    np.testing.assert_allclose(ours.reshape(5, -1), np.asarray(theirs), atol=5e-4)


def test_an_asymmetric_compatibility_is_taken_as_it_is() -> None:
    unary, image = problem(12, 9)
    penalties = np.random.default_rng(0).random((5, 5))
    features = appearance(image, 10.0, 30.0)
    found = DenseCRF((12, 9), [Gaussian(features, 2.0, penalties)]).marginals(unary, iterations=3)
    matrix = normalised(kernel(features), "symmetric", keep_diagonal=True, mask=None)
    expected = mean_field(unary, [matrix], [2 * penalties], iterations=3)
    other = mean_field(unary, [matrix], [penalties + penalties.T], iterations=3)
    assert np.abs(found - expected).mean() < 0.02 < np.abs(other - expected).mean() * 4


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("diagonal", [True, False])
def test_steps_come_to_the_marginals(exact: bool, diagonal: bool) -> None:
    unary, image = problem(14, 11)
    parameters = CRFParameters(**WEIGHTS, **WIDTHS, exact_smoothness=exact, keep_diagonal=diagonal)
    crf = image_crf(image, parameters)
    for count in (0, 1, 5):
        wanted = crf.marginals(unary, iterations=count)
        np.testing.assert_allclose(crf.start(unary).step(count).marginals, wanted, atol=1e-5)
    np.testing.assert_array_equal(crf.map(unary, iterations=5), wanted.argmax(0))
    with pytest.raises(ValueError, match="finite"):
        crf.start(np.full_like(unary, np.nan))


def test_no_small_change_of_settled_marginals_lowers_the_free_energy() -> None:
    unary, image = problem(6, 5, labels=3)
    crf = image_crf(image, CRFParameters(**WEIGHTS, **WIDTHS, keep_diagonal=False))
    state = crf.start(unary).step(60)
    least = state.kl_divergence
    rng = np.random.default_rng(0)
    settled = state.marginals.copy()
    for _ in range(20):
        changed = np.maximum(settled + 1e-2 * rng.standard_normal(settled.shape), 1e-6)
        other = crf.start(unary)
        other.marginals = (changed / changed.sum(0)).astype(np.float32)
        assert other.kl_divergence >= least - 1e-4


def test_unaries_of_softmax_and_labels_are_those_of_the_old_package() -> None:
    utils = pytest.importorskip("pydensecrf.utils", reason=ABSENT)
    rng = np.random.default_rng(0)
    chances = np.exp(rng.standard_normal((4, 5, 6)) * 8)
    chances /= chances.sum(0)
    for scale, clip in ((0.7, 1e-5), (1.0, 1e-3)):
        wanted = utils.unary_from_softmax(chances, scale=scale, clip=clip)
        np.testing.assert_allclose(
            unary_from_probabilities(chances, scale=scale, clip=clip).reshape(4, -1), wanted, rtol=1e-4, atol=1e-6
        )
    labels = rng.integers(0, 5, (5, 6))
    wanted = utils.unary_from_labels(labels, 4, gt_prob=0.7)
    np.testing.assert_allclose(
        unary_from_labels(labels - 1, classes=4, confidence=0.7).reshape(4, -1), wanted, rtol=1e-5
    )


def test_numbers_of_another_count_and_range_are_refused() -> None:
    unary, image = problem(4, 5)
    for wrong, words in (
        ({"smoothness_sxy": (1.0, 2.0, 3.0)}, "along x and y"),
        ({"appearance_srgb": (1.0, 2.0)}, "3 channels"),
        ({"appearance_srgb": (1.0, 0.0, 2.0)}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            dense_crf(unary, image, iterations=1, **(WEIGHTS | WIDTHS | wrong))
    with pytest.raises(ValueError, match="scale lies above 0"):
        unary_from_probabilities(np.full((2, 3), 0.5), scale=0.0)
    half = torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=torch.bfloat16)
    np.testing.assert_allclose(np.exp(-unary_from_probabilities(half)), half.float().numpy(), rtol=1e-3)
    np.testing.assert_allclose(unary_from_scores(half), unary_from_scores(half.float().numpy()))
