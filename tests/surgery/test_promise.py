"""What is tried before a conversion is handed out, and what is then refused, by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import convolutionize, from_classifier
from fullyconv.surgery.promise import agree, averaged
from fullyconv.trace import NotFollowed

SIZE = (3, 24, 24)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.first(x))
        return self.fc(self.within(torch.relu(self.second(z)), x).mean((2, 3)))

    def within(self, z: Tensor, x: Tensor) -> Tensor:
        return z


def both(net: nn.Module, words: str) -> None:
    for convert in (convolutionize, lambda net, size: from_classifier(net, 2, 4, example=size)):
        with pytest.raises(NotFollowed, match=words):
            convert(net, SIZE)


def test_a_branch_on_values_is_refused_with_its_module() -> None:
    class Branch(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z if z.mean() > 0 else -z

    class Branching(Net):
        def __init__(self) -> None:
            super().__init__()
            self.branch = Branch()

        def within(self, z: Tensor, x: Tensor) -> Tensor:
            return self.branch(z)

    both(Branching(), r"does not go through the network at 'branch' .*: Tensor.item\(\) cannot be called")


def test_what_the_recording_does_not_hold_is_found_and_named() -> None:
    class Secret(nn.Module):
        """Does in a recording something else than on pictures, as code does that looks at what it is given."""

        def forward(self, z: Tensor) -> Tensor:
            return z if z.is_meta else z.square()

    class Hiding(Net):
        def __init__(self) -> None:
            super().__init__()
            self.secret, self.last = Secret(), nn.Conv2d(8, 8, 1)

        def within(self, z: Tensor, x: Tensor) -> Tensor:
            return self.last(self.secret(z))

    both(Hiding(), "last: what comes before it depends on more than was recorded")


def test_a_classifier_without_scores_is_refused() -> None:
    class Empty(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unfold(1, 0, 1)

    with pytest.raises(NotFollowed, match=r"unfold \(unfold\): has no counterpart"):
        convolutionize(Empty(), SIZE)


def test_a_refusal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Adding(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(torch.ones(2, 5), super().forward(x), torch.ones(5, 5))

    with pytest.raises(NotFollowed, match=r"addmm"):
        convolutionize(Adding(), SIZE)
    assert capfd.readouterr() == ("", "")


def test_randomness_in_evaluation_is_told_from_a_wrong_conversion() -> None:
    class Random(Net):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(super().forward(x), 0.5)  # which drops always: training is True unless said

    with pytest.raises(NotFollowed, match=r"dropout \(dropout\): .* answers the same picture differently each time"):
        convolutionize(Random(), SIZE)


DRAWING = {
    "dropout": lambda z: functional.dropout(z, 0.5, training=True),
    "dropout2d": lambda z: functional.dropout2d(z, 0.5, training=True),
    "alpha_dropout": lambda z: functional.alpha_dropout(z, 0.5, training=True),
    "feature_alpha_dropout": lambda z: functional.feature_alpha_dropout(z, 0.5, training=True),
    "rrelu": lambda z: functional.rrelu(z - 1, training=True),
    "rand_like": lambda z: z + torch.rand_like(z),
    "randn_like": lambda z: z + torch.randn_like(z),
    "randn": lambda z: z + torch.randn(z.shape[1], 1, 1),
    "rand": lambda z: z * torch.rand(z.shape),
    "bernoulli": lambda z: torch.bernoulli(z.sigmoid()),
    "normal": lambda z: z + torch.zeros_like(z).normal_(),
    "gumbel_softmax": lambda z: functional.gumbel_softmax(z, dim=1),
}


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_random_numbers_is_refused_by_name_though_both_networks_draw_the_same(name: str) -> None:
    class Random(Net):
        def within(self, z: Tensor, x: Tensor) -> Tensor:
            return DRAWING[name](z)

    with pytest.raises(NotFollowed, match=rf"\({name}\): draws random numbers, so that the classifier answers"):
        convolutionize(Random(), SIZE)
    words = "how this operation" if name in ("normal", "gumbel_softmax") else "draws random numbers"
    with pytest.raises(NotFollowed, match=rf"\({name}\): {words}"):  # in a trunk, what no row knows is refused first
        from_classifier(Random(), 2, 4, example=SIZE)


def test_randomness_behind_the_tapped_maps_does_not_hinder_a_trunk() -> None:
    class Random(Net):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(super().forward(x), 0.5, training=True)

    image = torch.rand(1, *SIZE)
    fcn = from_classifier(Random(), 2, 4, example=SIZE).eval()
    assert torch.equal(fcn(image), fcn(image))


def test_noise_of_training_alone_is_no_randomness() -> None:
    class DropPath(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z * torch.rand(z.shape[0], 1, 1, 1).round() if self.training else z

    class Calm(Net):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.path, self.leaky = nn.Dropout2d(), DropPath(), nn.RReLU()
            self.eval()

        def within(self, z: Tensor, x: Tensor) -> Tensor:
            torch.rand(1)  # which nothing uses
            return functional.dropout(self.leaky(self.path(self.drop(z))), 0.5, self.training)

    net, image = Calm(), torch.rand(2, *SIZE)
    torch.testing.assert_close(convolutionize(net, SIZE)(image).mean((2, 3)), net(image))
    from_classifier(net, 2, 4, example=SIZE)


def test_writing_into_the_input_is_refused_where_it_matters() -> None:
    class Scaling(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    class Clipping(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(functional.relu(x, inplace=True))

    both(Scaling(), r"mul_ \(mul\): writes into the classifier's input")
    image = torch.rand(2, *SIZE)
    torch.testing.assert_close(convolutionize(Clipping(), SIZE)(image).mean((2, 3)), Clipping()(image))


@pytest.mark.parametrize("side", [6, 8, 12])
def test_sizes_written_into_a_network_are_found(side: int) -> None:
    class Resized(Net):
        def within(self, z: Tensor, x: Tensor) -> Tensor:
            return functional.interpolate(z, size=(side, side))  # which is 6 x 6 at the example's size

    both(Resized(), r"interpolate \(interpolate\): ")


def test_a_picture_that_is_not_finite_is_compared_too() -> None:
    class Logarithm(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.log())

    net = Logarithm()
    dense, image = convolutionize(net, SIZE), torch.rand(2, *SIZE)
    torch.testing.assert_close(dense(image).mean((2, 3)), net(image))


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(numbers, min_size=4, max_size=4), st.floats(1e3, 1e6), st.floats(0.01, 1))
def test_a_large_bias_hides_no_difference(values: list[float], bias: float, share: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64).view(2, 2)
    spread = float((scores[0] - scores[1]).abs().max())
    shifted = scores + bias
    assert agree(shifted, shifted.clone())
    if spread > 1e-3:
        wrong = shifted.clone()
        wrong[0, 0] += share * spread
        assert not agree(shifted, wrong)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=4, max_size=4))
def test_whole_numbers_are_averaged_exactly(values: list[int]) -> None:
    assert averaged(torch.tensor(values).view(1, 1, 2, 2)).item() == sum(values) / 4
    truths = torch.tensor([value > 0 for value in values]).view(1, 1, 2, 2)
    assert averaged(truths).item() == sum(value > 0 for value in values) / 4


def test_large_whole_scores_that_differ_never_agree() -> None:
    scores = torch.tensor([100_000, 300_000]).view(2, 1, 1, 1)  # beyond half precision's range
    assert agree(averaged(scores), averaged(scores.clone()))
    assert not agree(averaged(scores), averaged(scores * 2))


def test_other_shapes_and_other_infinities_never_agree() -> None:
    assert agree(torch.ones(2, 0), torch.zeros(2, 0))
    scores = torch.tensor([[1.0, float("inf")], [2.0, 3.0]])
    assert agree(scores, scores.clone())
    assert not agree(scores, torch.tensor([[1.0, 5.0], [2.0, 3.0]]))
    assert not agree(scores, scores[:, :1])
