"""What people hand to a conversion: compiled, hooked, half, normalised, wrongly sized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from fullyconv import convolutionize, from_classifier
from fullyconv.surgery.subject import Subject, example_size
from fullyconv.trace import NotFollowed

SIDE = 24


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def pictures(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).to(dtype)


def agrees(net: nn.Module, dtype: torch.dtype = torch.float32, rtol: float = 1e-4) -> None:
    """Both conversions take the network, and the dense classifier is it."""
    image = pictures(dtype)
    dense, fcn = convolutionize(net, (3, SIDE, SIDE)), from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    with torch.no_grad():
        wanted = net(image)
        torch.testing.assert_close(dense(image).mean((2, 3)), wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))
        assert fcn(image).shape == (2, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("example", "size"),
    [
        ((3, 24, 32), (3, 24, 32)),
        ([3, 24, 32], (3, 24, 32)),
        ((24, 32), (3, 24, 32)),
        (tuple(np.array([3, 24, 32])), (3, 24, 32)),
        (torch.zeros(3, 24, 32), (3, 24, 32)),
        (torch.zeros(7, 3, 24, 32), (3, 24, 32)),
        (np.zeros((1, 3, 24, 32)), (3, 24, 32)),
        (None, (3, 224, 224)),
    ],
)
def test_an_example_is_a_size_or_a_picture(example: Any, size: tuple[int, int, int]) -> None:
    assert example_size(example, classifier()) == size


@pytest.mark.parametrize(
    "example",
    [24, "224", (24,), (1, 3, 24, 24), (3, 0, 24), (3, 24.5, 24), (3, True, 24), (-3, 24, 24), torch.zeros(24, 24), {}],
)
def test_anything_else_is_refused_in_one_sentence(example: Any) -> None:
    for convert in (convolutionize, lambda net, size: from_classifier(net, 3, 4, example=size)):
        with pytest.raises(ValueError, match=r"example= is \(channels, height, width\), \(height, width\) or a tensor"):
            convert(classifier(), example)


@pytest.mark.parametrize("example", [(3, 32, 32), (1, 24, 24), (3, 1, 1)])
def test_a_size_the_classifier_does_not_take_names_the_layer_and_the_argument(example: tuple[int, int, int]) -> None:
    net = nn.Sequential(*classifier()[:4], nn.Flatten(), nn.Linear(8 * 36, 5))
    size = " x ".join(map(str, example))
    for convert in (convolutionize, lambda net, size: from_classifier(net, 3, 4, example=size)):
        with pytest.raises(NotFollowed, match=rf"a picture of {size} does not go .* at '[05]': .*: give example="):
            convert(net, example)


NORMALISED: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": nn.utils.weight_norm,  # type: ignore[dict-item]
    "spectral_norm": nn.utils.spectral_norm,  # type: ignore[dict-item]
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: prune.ln_structured(prune.l1_unstructured(layer, "weight", 2), "weight", 1, 2, 0),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("layer", [0, 2, 6])
@pytest.mark.parametrize("kind", NORMALISED)
def test_weights_that_are_computed_from_others_go_in(kind: str, layer: int) -> None:
    net = classifier()
    NORMALISED[kind](net[layer])
    net.eval()
    agrees(net)
    settled = [str(remark) for remark in convolutionize(net, (3, SIDE, SIDE)).remarks]
    assert settled == (["6: weights that were computed from others have become plain ones"] if layer == 6 else [])
    with torch.no_grad():
        assert net(pictures()).isfinite().all()  # and the classifier is what it was


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-2), (torch.bfloat16, 4e-2), (torch.float64, 1e-10)])
def test_precision_stays_the_classifiers(dtype: torch.dtype, rtol: float) -> None:
    net = classifier().to(dtype)
    agrees(net, dtype, rtol)
    fcn = from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    assert {parameter.dtype for parameter in fcn.parameters()} == {dtype}


def test_weights_on_the_meta_device_are_converted_without_a_run() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    assert Subject.of(net, (3, 24, 24)).pictures is None
    assert next(convolutionize(net, (3, 24, 24)).parameters()).device.type == "meta"
    assert {each.device.type for each in from_classifier(net, 3, 1, example=(3, 24, 24)).parameters()} == {"meta"}


def test_what_is_compiled_is_unwrapped() -> None:
    whole, inside, in_place = torch.compile(classifier(), backend="eager"), classifier(), classifier()
    inside[2] = torch.compile(inside[2], backend="eager")
    in_place[2].compile(backend="eager")
    for net in (whole, inside, in_place):
        agrees(net)  # type: ignore[arg-type]
        names = convolutionize(net, (3, SIDE, SIDE)).network.state_dict()  # type: ignore[arg-type]
        assert list(names) == list(classifier().state_dict())


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_seen_into_is_refused_by_name() -> None:
    part = classifier()
    part[2] = torch.jit.script(part[2])
    quantised = torch.ao.quantization.quantize_dynamic(classifier(), {nn.Linear})
    for net, words in (
        (torch.jit.script(classifier()), r"the classifier \(RecursiveScriptModule\) is TorchScript"),
        (torch.jit.trace(classifier(), pictures()), r"the classifier \(TopLevelTracedModule\) is TorchScript"),
        (part, r"2 \(RecursiveScriptModule\) is TorchScript"),
        (quantised, r"6 \(Linear\) is quantised"),
    ):
        for convert in (convolutionize, lambda net, size: from_classifier(net, 3, 4, example=size)):
            with pytest.raises(NotFollowed, match=words):
                convert(net, (3, SIDE, SIDE))


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")


def test_what_cannot_be_copied_is_refused() -> None:
    net = classifier()
    net[6] = Uncopied(8, 5)
    with pytest.raises(NotFollowed, match="cannot be copied: cannot pickle"):
        convolutionize(net, (3, SIDE, SIDE))


CHANGING: dict[str, Callable[[nn.Sequential], Any]] = {
    "after a convolution": lambda net: net[2].register_forward_hook(lambda layer, given, made: made * 2 + 1),
    "after the scores": lambda net: net[6].register_forward_hook(lambda layer, given, made: made * 2 + 1),
    "after all": lambda net: net.register_forward_hook(lambda layer, given, made: made * 2 + 1),
    "before a convolution": lambda net: net[2].register_forward_pre_hook(lambda layer, given: (given[0] * 3,)),
    "before the scores": lambda net: net[6].register_forward_pre_hook(lambda layer, given: given[0] * 3),
    "with keywords": lambda net: net[6].register_forward_pre_hook(
        lambda layer, given, named: ((given[0] * 3,), named), with_kwargs=True
    ),
    "in place": lambda net: net[2].register_forward_hook(lambda layer, given, made: (made.mul_(2), None)[1]),
    "not affine": lambda net: net[6].register_forward_hook(lambda layer, given, made: functional.normalize(made)),
    "two": lambda net: [net[6].register_forward_hook(lambda layer, given, made, b=bias: made + b) for bias in (1, 2)],
}


@pytest.mark.parametrize("kind", CHANGING)
def test_hooks_that_change_something_are_part_of_the_network(kind: str) -> None:
    net = classifier()
    CHANGING[kind](net)
    plain = classifier()(pictures())
    with torch.no_grad():
        assert not torch.allclose(net(pictures()), plain)
    agrees(net)


def test_what_a_hook_does_to_positions_is_seen() -> None:
    net = classifier()
    net[2].register_forward_hook(lambda layer, given, made: made.flip(-1))
    for convert in (convolutionize, lambda net, size: from_classifier(net, 3, 4, example=size)):
        with pytest.raises(NotFollowed, match=r"2 \(flip\): turns round rows or columns"):
            convert(net, (3, SIDE, SIDE))


@pytest.mark.parametrize("layer", [0, 2, 4, 6])
def test_a_hook_that_watches_is_called_once_and_watches_on(layer: int) -> None:
    net, seen = classifier(), []
    net[layer].register_forward_hook(lambda layer, given, made: seen.append((made.shape, made.mean().item())))
    dense = convolutionize(net, (3, SIDE, SIDE))
    assert len(seen) == 1
    assert [type(length) for length in seen[0][0]] == [int] * len(seen[0][0])
    with torch.no_grad():
        dense(pictures())
    kept = layer != 4  # pooling is left out
    assert len(seen) == 1 + kept
    said = [str(remark) for remark in dense.remarks]
    assert said == ([] if kept else ["4: a hook that watched it is left out: it is no layer of the converted network"])


def test_networks_on_watched_trunks_are_built_without_calling_the_hook_again() -> None:
    net, seen = classifier(), []
    net[2].register_forward_hook(lambda layer, given, made: seen.append(made.mean().item()))
    fcn = from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    assert len(seen) == 1
    fcn(pictures())
    assert len(seen) == 2


def test_the_random_generator_and_the_classifier_stay_as_they_were() -> None:
    net = classifier().train()
    net[1].eval()
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    convolutionize(net, (3, SIDE, SIDE))
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
