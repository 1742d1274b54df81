from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.crf import (
    DenseCRF,
    Gaussian,
    GridGaussian,
    appearance,
    dense_crf,
    meanfield,
    positions,
    unary_from_labels,
    unary_from_probabilities,
    unary_from_scores,
)
from fullyconv.crf.terms import Normalization

from .oracle import kernel, mean_field, normalised, potts, softmax

PARAMETERS = {
    "iterations": 5,
    "smoothness_weight": 3.0,
    "smoothness_sxy": 3.0,
    "appearance_weight": 10.0,
    "appearance_sxy": 20.0,
    "appearance_srgb": 13.0,
}


def problem(height: int, width: int, *, labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of smooth patches with noise, and noisy unaries that follow it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    truth = (rows * 3 // height + columns * 2 // width) % labels
    colours = rng.integers(40, 216, (labels, 3))
    image = np.clip(colours[truth] + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    scores = rng.normal(0, 1, (labels, height, width)) + 1.5 * (truth == np.arange(labels)[:, None, None])
    return unary_from_scores(scores.astype(np.float32)), image


@pytest.mark.parametrize("name", ["smooth-only", "street-12", "street-21"])
def test_marginals_are_those_of_the_old_package(name: str) -> None:
    file = Path(__file__).resolve().parents[3] / "shared" / "golden" / "densecrf" / f"{name}.npz"
    if not file.is_file():
        pytest.skip("the old package's results are not beside the repository (../shared/golden/densecrf)")
    given = np.load(file)
    parameters = {key: given[key].item() for key in PARAMETERS}
    found = dense_crf(given["unary"].astype(np.float32), given["image"], **parameters)
    assert (found.argmax(0) == given["labels"]).mean() >= 0.9999
    assert np.abs(found - given["marginals"]).mean() <= 1e-4


@pytest.mark.parametrize(("weight", "transforms"), [(0.0, 0), (0.5, 0), (3.0, 0), (-1.0, 4)])
def test_only_labels_that_are_not_potts_have_their_messages_transformed(
    weight: float, transforms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Potts weights go into the splat and the slice, which costs nothing.
    called = []

    def counted(messages: np.ndarray, term: Gaussian) -> np.ndarray:
        called.append(term)
        return transform(messages, term)

    transform = meanfield._compatibility_transform
    monkeypatch.setattr(meanfield, "_compatibility_transform", counted)
    unary, image = problem(12, 14)
    DenseCRF((12, 14), [Gaussian(appearance(image, 20, 20), weight)]).marginals(unary, iterations=4)
    assert len(called) == transforms


@pytest.mark.parametrize("iterations", [1, 5, 10])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 31)])
def test_lattice_marginals_are_near_those_of_all_pairs(height: int, width: int, iterations: int) -> None:
    unary, image = problem(height, width)
    features = positions((height, width), (3, 3)), appearance(image, 20, 20)
    found = DenseCRF((height, width), [Gaussian(features[0], 1.0), Gaussian(features[1], 2.0)]).marginals(
        unary, iterations=iterations
    )
    matrices = [normalised(kernel(f), "symmetric", keep_diagonal=True, mask=None) for f in features]
    expected = mean_field(unary, matrices, [potts(5, 1.0), potts(5, 2.0)], iterations=iterations)
    assert np.abs(found - expected).mean() < 0.02
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.97


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
@pytest.mark.parametrize("keep_diagonal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_grid_kernel_is_exact(normalization: Normalization, keep_diagonal: bool, masked: bool) -> None:
    unary, _ = problem(24, 31)
    mask = np.random.default_rng(1).random((24, 31)) < 0.7 if masked else None
    weight = 0.05 if normalization == "none" else 3.0
    crf = DenseCRF(
        (24, 31), [GridGaussian((3, 2), weight)], normalization=normalization, keep_diagonal=keep_diagonal, mask=mask
    )
    matrix = normalised(kernel(positions((24, 31), (3, 2))), normalization, keep_diagonal=keep_diagonal, mask=mask)
    for iterations in (1, 5, 10):
        expected = mean_field(unary, [matrix], [potts(5, weight)], iterations=iterations)
        assert np.abs(crf.marginals(unary, iterations=iterations) - expected).max() < 1e-5


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
def test_every_lattice_option_does_what_the_lattice_matrix_says(normalization: Normalization) -> None:
    shape = (7, 9)
    unary, image = problem(*shape, labels=4)
    features = appearance(image, 4, 30)
    mask = np.random.default_rng(2).random(shape) < 0.8
    rng = np.random.default_rng(3)
    penalties = rng.random((4, 4))
    matrix = lattice_matrix(features)
    weight = 0.1 if normalization == "none" else 2.0
    for keep_diagonal in (True, False):
        crf = DenseCRF(
            shape,
            [Gaussian(features, weight, penalties), Gaussian(features, weight)],
            normalization=normalization,
            keep_diagonal=keep_diagonal,
            mask=mask,
        )
        ours = normalised(matrix, normalization, keep_diagonal=keep_diagonal, mask=mask)
        expected = mean_field(unary, [ours, ours], [weight * penalties, potts(4, weight)], iterations=4)
        np.testing.assert_allclose(crf.marginals(unary, iterations=4), expected, atol=2e-5)


@pytest.mark.parametrize("weights", [(2.0, 0.0), (-0.5, 2.0), (0.0, -0.5)])
@pytest.mark.parametrize("keep_diagonal", [True, False])
@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_kernels_of_any_weight_add_up(
    weights: tuple[float, float], keep_diagonal: bool, normalization: Normalization
) -> None:
    """Kernels that repel (a negative weight) have no real square root to fold into splat and slice."""
    shape = (6, 7)
    unary, image = problem(*shape, labels=3)
    spaces = appearance(image, 4, 30), positions(shape, (2.0, 3.0))
    crf = DenseCRF(
        shape,
        [
            *(Gaussian(space, weight) for space, weight in zip(spaces, weights, strict=True)),
            GridGaussian((2.0, 3.0), weights[0], np.eye(3)),
        ],
        normalization=normalization,
        keep_diagonal=keep_diagonal,
    )
    matrices = [lattice_matrix(space) for space in spaces] + [kernel(positions(shape, (2.0, 3.0)))]
    matrices = [normalised(matrix, normalization, keep_diagonal=keep_diagonal, mask=None) for matrix in matrices]
    penalties = [potts(3, weights[0]), potts(3, weights[1]), weights[0] * np.eye(3)]
    for iterations in (0, 1, 3):
        expected = mean_field(unary, matrices, penalties, iterations=iterations)
        np.testing.assert_allclose(crf.marginals(unary, iterations=iterations), expected, atol=2e-5)


def test_the_room_for_marginals_may_be_given() -> None:
    unary, image = problem(8, 9)
    crf = DenseCRF((8, 9), [Gaussian(appearance(image, 5, 20), 3.0)])
    room = np.full_like(unary, np.nan)
    found = crf.marginals(unary.astype(np.float64), iterations=2, out=room)
    assert found is room
    np.testing.assert_array_equal(room, crf.marginals(unary, iterations=2))


def test_grids_masks_and_unaries_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="a grid has a point at least"):
        DenseCRF((0, 4), [])
    with pytest.raises(ValueError, match=r"a mask of the grid's shape \(3, 4\) is needed, not \(4, 3\)"):
        DenseCRF((3, 4), [], mask=np.ones((4, 3), bool))
    crf = DenseCRF((1, 1), [])
    np.testing.assert_array_equal(crf.marginals(np.zeros((1, 1, 1)), iterations=0), 1)
    for unary, iterations in (
        (np.zeros((2, 1, 2)), 1),
        (np.zeros((2, 1, 0)), 1),
        (np.zeros((0, 1, 1)), 1),
        (np.zeros((2, 1, 1)), -1),
    ):
        with pytest.raises(ValueError, match=r"unaries are C x \(1, 1\) with iterations >= 0"):
            crf.marginals(unary, iterations=iterations)


def lattice_matrix(features: np.ndarray) -> np.ndarray:
    """The lattice filter as a matrix, one point's answer at a time."""
    from fullyconv.crf.filtering import LatticeFilter

    points = features[0].size
    filtering = LatticeFilter(features.reshape(len(features), -1))
    return filtering(np.eye(points, dtype=np.float32)).T.astype(np.float64)


def test_masked_pixels_keep_their_own_beliefs() -> None:
    unary, image = problem(12, 14)
    mask = np.ones((12, 14), bool)
    mask[:, :5] = False
    crf = DenseCRF((12, 14), [Gaussian(appearance(image, 10, 10), 5.0)], mask=mask)
    found = crf.marginals(unary, iterations=3)
    np.testing.assert_allclose(found[:, ~mask], softmax(-unary.astype(np.float64))[:, ~mask], atol=1e-6)
    disturbed = unary.copy()
    disturbed[:, ~mask] = np.random.default_rng(0).random(disturbed[:, ~mask].shape)
    np.testing.assert_array_equal(crf.marginals(disturbed, iterations=3)[:, mask], found[:, mask])


@pytest.mark.parametrize("labels", [1, 21, 65, 150])
def test_any_number_of_labels(labels: int) -> None:
    unary, image = problem(9, 11, labels=labels)
    features = appearance(image, 5, 20)
    found = DenseCRF((9, 11), [Gaussian(features, 3.0)]).marginals(unary, iterations=3)
    ours = normalised(lattice_matrix(features), "symmetric", keep_diagonal=True, mask=None)
    np.testing.assert_allclose(found, mean_field(unary, [ours], [potts(labels, 3.0)], iterations=3), atol=2e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 1), (5, 6, 7), (30,)])
def test_grids_of_any_size_and_dimension(shape: tuple[int, ...]) -> None:
    unary = np.random.default_rng(0).random((3, *shape), np.float32)
    terms = [Gaussian(positions(shape, (2.0,) * len(shape)), 1.0), GridGaussian((2.0,) * len(shape), 1.0)]
    found = DenseCRF(shape, terms).marginals(unary, iterations=2)
    assert found.shape == unary.shape
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_many_bands_are_features_like_any_other() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((10, 12, 30), np.float32) * 3  # more dimensions than an exact key holds
    unary = rng.random((3, 10, 12), np.float32)
    found = DenseCRF((10, 12), [Gaussian(appearance(image, 5, 0.01), 2.0)]).marginals(unary, iterations=2)
    # Nobody is near anybody: each pixel hears itself alone.
    expected = mean_field(unary, [np.eye(120)], [potts(3, 2.0)], iterations=2)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_without_updates_the_marginals_are_the_softmax() -> None:
    unary, image = problem(8, 8)
    found = dense_crf(unary, image, **{**PARAMETERS, "iterations": 0})
    np.testing.assert_allclose(found, softmax(-unary.astype(np.float64)), atol=1e-6)
    found = dense_crf(unary, image, **{**PARAMETERS, "smoothness_weight": 0.0, "appearance_weight": 0.0})
    np.testing.assert_allclose(found, softmax(-unary.astype(np.float64)), atol=1e-6)


def test_a_batch_is_its_images_and_tensors_are_arrays() -> None:
    problems = [problem(20, 17, seed=seed) for seed in range(3)]
    unaries, images = (np.stack(parts) for parts in zip(*problems, strict=True))
    together = dense_crf(unaries, images, **PARAMETERS)
    for one, (unary, image) in zip(together, problems, strict=True):
        np.testing.assert_array_equal(dense_crf(unary, image, **PARAMETERS), one)
    tensors = dense_crf(torch.from_numpy(unaries), torch.from_numpy(images), **PARAMETERS)
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors.numpy(), together)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_threads_give_the_same_bits(threads: int) -> None:
    unary, image = problem(110, 130)
    one = dense_crf(unary, image, **PARAMETERS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [dense_crf(unary, image, **PARAMETERS) for _ in range(4)]
    finally:
        torch.set_num_threads(before)
    for run in runs:
        np.testing.assert_array_equal(run, runs[0])
    np.testing.assert_allclose(runs[0], one, atol=1e-4)


def test_unaries_from_probabilities_and_labels() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(4), (3, 5)).transpose(2, 0, 1)
    np.testing.assert_allclose(unary_from_probabilities(chances), -np.log(chances), rtol=1e-5)
    labels = np.array([[0, 2, -1]])
    unary = unary_from_labels(labels, classes=4, confidence=0.7)
    np.testing.assert_allclose(np.exp(-unary).sum(0), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(-unary[:, 0, 1]), [0.1, 0.1, 0.7, 0.1], rtol=1e-6)
    np.testing.assert_allclose(np.exp(-unary[:, 0, 2]), 0.25, rtol=1e-6)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
def test_energies_that_are_no_numbers_are_refused(junk: float) -> None:
    unary, image = problem(8, 9)
    for spoilt in (np.full_like(unary, junk), np.where(np.arange(9) == 4, junk, unary)):
        with pytest.raises(ValueError, match="unary energies must be finite"):
            dense_crf(spoilt.astype(np.float32), image, **PARAMETERS)
        with pytest.raises(ValueError, match="unary energies must be finite"):
            dense_crf(torch.from_numpy(spoilt), torch.from_numpy(image), **{**PARAMETERS, "iterations": 0})


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_unaries_are_not_made_of_what_is_no_number(junk: float) -> None:
    spoilt = np.full((3, 2, 2), 0.25)
    spoilt[1, 0, 1] = junk
    with pytest.raises(ValueError, match="class scores must be finite"):
        unary_from_scores(spoilt)
    with pytest.raises(ValueError, match="between 0 and 1"):
        unary_from_probabilities(spoilt)
    for deviations in ((junk, 1.0), (1.0, junk)):
        with pytest.raises(ValueError, match="positive standard deviations"):
            positions((4, 5), deviations)
        with pytest.raises(ValueError, match="positive standard deviations"):
            DenseCRF((4, 5), [GridGaussian(deviations)])
    with pytest.raises(ValueError, match="finite"):
        GridGaussian((1.0, 1.0), weight=junk)
    with pytest.raises(ValueError, match="finite"):
        Gaussian(positions((4, 5), (1.0, 1.0)), compatibility=np.array([[0, junk], [1, 0]]))


def test_probabilities_outside_their_range_are_refused() -> None:
    for values in ([-0.1, 1.1], [0.0, 255.0]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            unary_from_probabilities(np.array(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_floating_type_are_taken(dtype: torch.dtype) -> None:
    unary, image = problem(8, 9)
    coarse = torch.from_numpy(unary).to(dtype)
    found = dense_crf(coarse, torch.from_numpy(image), **PARAMETERS)
    assert found.dtype == torch.float32
    assert torch.equal(found, dense_crf(coarse.float(), torch.from_numpy(image), **PARAMETERS))


def test_mistakes_are_named() -> None:
    unary, image = problem(8, 9)
    with pytest.raises(ValueError, match="H x W x K"):
        dense_crf(unary, image.transpose(1, 0, 2), **PARAMETERS)
    with pytest.raises(ValueError, match="smoothness_sxy"):
        dense_crf(unary, image, **{**PARAMETERS, "smoothness_sxy": 0.0})
    with pytest.raises(ValueError, match="appearance_weight must not be negative"):
        dense_crf(unary, image, **{**PARAMETERS, "appearance_weight": -1.0})
    with pytest.raises(ValueError, match="normalization is"):
        DenseCRF((8, 9), [], normalization="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="C x C"):
        DenseCRF((8, 9), [GridGaussian((1, 1), 1.0, np.eye(3))]).marginals(unary, iterations=1)
    with pytest.raises(ValueError, match="finite"):
        DenseCRF((8, 9), [Gaussian(np.full((2, 8, 9), np.nan, np.float32))])
    with pytest.raises(ValueError, match="one vector per point"):
        DenseCRF((8, 9), [Gaussian(np.zeros((2, 9, 8), np.float32))])
