"""However PyTorch spells an operation, every door gives the same answer: walk, inspection, à trous form, dense head."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.networks.dense import to_atrous
from fullyconv.networks.inspection import inspect
from fullyconv.surgery.convolutionize import convolutionize
from fullyconv.trace import outputs
from fullyconv.trace.operations import OPERATIONS, Operation


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        result = self.function(x)
        return result[0] if isinstance(result, tuple | list) else result


Spelling = Callable[..., Any]


def spellings(row: Operation) -> dict[str, Spelling]:
    """List the functions, methods and operators that PyTorch has for a row of the table."""
    found: dict[str, Spelling] = {}
    for name in row.spellings:
        for home, module in {
            "torch": torch,
            "functional": functional,
            "Tensor": Tensor,
            "linalg": torch.linalg,
        }.items():
            dunder = (f"__{name}__",) if home == "Tensor" and name not in ("bool", "int", "long", "float") else ()
            for written in (name, f"{name}_", *dunder):
                each = getattr(module, written, None)
                if callable(each) and not (home == "torch" and isinstance(each, type)):
                    found[f"{home}.{written}"] = each
        if isinstance(getattr(Tensor, name, None), property) or name in ("T", "mT", "H", "data", "real"):
            found[f"x.{name}"] = operator.attrgetter(name)
    return found


# What an operation may want beside its map or vector.
ARGUMENTS: list[Callable[[Tensor], tuple[Any, ...]]] = [
    lambda x: (), lambda x: (-1,), lambda x: (1,), lambda x: (x,), lambda x: (0.25,), lambda x: (x > 0, 0.5),
    lambda x: (0.2, 0.5), lambda x: (1, 1), lambda x: (1, 0, 2), lambda x: (x, x), lambda x: (x, 0.5),
    lambda x: ((2, 2),), lambda x: (torch.tensor([0.25]),), lambda x: ((1, 1, 1, 1)[: x.ndim],),
    lambda x: ((0, 2, 3, 1)[: x.ndim] if x.ndim == 4 else (0, 1),), lambda x: (x.shape,), lambda x: (1, (2, 2)),
    lambda x: (1, torch.zeros(1, dtype=torch.long)), lambda x: (2.0, 1), lambda x: (2, 1), lambda x: (0.5, False),
    lambda x: (torch.zeros(4), torch.ones(4)), lambda x: (torch.ones(4, 4),), lambda x: (2,), lambda x: (0, 1),
    lambda x: (x.shape[1:],), lambda x: (torch.ones(4, 4, 3, 3),),
]  # fmt: skip


def batches(x: Tensor) -> tuple[Tensor, Tensor]:
    """Make a batch of matrices of two maps or vectors, and one to multiply it by."""
    return (x.flatten(2).mT if x.ndim == 4 else x[:, None]), torch.ones(2, 4, 4)


FORMS: list[Callable[[Spelling, Tensor, tuple[Any, ...]], Any]] = [
    lambda spelling, x, given: spelling(x + 0, *given),  # which may be written over
    lambda spelling, x, given: spelling([x, x], *given),
    lambda spelling, x, given: spelling((x * 9).int(), *given),
    lambda spelling, x, given: spelling((x > 0), *given),
    lambda spelling, x, given: spelling(1 + x, *given),
    lambda spelling, x, given: spelling(x if x.ndim == 2 else x.mean((2, 3)), torch.full((4, 4), 0.25)),
    lambda spelling, x, given: spelling(x if x.ndim == 2 else x.movedim(1, -1), torch.full((4, 4), 0.25)),
    lambda spelling, x, given: spelling(torch.ones(2, 4), x if x.ndim == 2 else x.mean((2, 3)), torch.ones(4, 4)),
    lambda spelling, x, given: spelling(x.flatten(1)[:, None], torch.ones(4, 1, 3)),
    lambda spelling, x, given: spelling(x.flatten(1)[:, None], torch.ones(1, 4, 3)),
    lambda spelling, x, given: spelling(
        x[:, :, None] if x.ndim == 4 else x[:, :, None, None, None], torch.ones(4, 4, 1, 1, 1)
    ),
    lambda spelling, x, given: spelling(torch.ones(64 if x.ndim == 4 else 1, 4), *batches(x)),
    lambda spelling, x, given: spelling(torch.ones(2, 64 if x.ndim == 4 else 1, 4), *batches(x)),
    lambda spelling, x, given: spelling(torch.ones(2), x if x.ndim == 2 else x.mean((2, 3)), torch.ones(4)),
    lambda spelling, x, given: spelling(x[:, None] if x.ndim == 2 else x.flatten(2), torch.ones(2, x[0, 0].numel(), 4)),
]


def calls(row: Operation, x: Tensor) -> tuple[dict[str, Callable[[Tensor], Any]], set[str]]:
    """Call all spellings of a row in one way, if there is one that more than half of them take; and list the others."""
    best: dict[str, Callable[[Tensor], Any]] = {}
    known = spellings(row)
    for form, given in product(FORMS, ARGUMENTS):
        results: dict[str, Any] = {}
        for name, spelling in known.items():
            try:
                torch.default_generator.manual_seed(0)  # torch.manual_seed takes longer than all the rest
                result = form(spelling, x, given(x))
            except Exception:  # PyTorch does not take it so
                continue
            result = result[0] if isinstance(result, tuple | list) and result else result
            if isinstance(result, Tensor):
                results[name] = result
        if not results:
            continue
        first = next(iter(results.values()))
        same = [name for name, each in results.items() if _is_same(each, first)]
        if len(same) > len(best):
            best = {name: _call(form, known[name], given) for name in same}
        if len(best) == len(known):
            break
    return best, set(known) - set(best)


def _is_same(result: Tensor, first: Tensor) -> bool:
    same = result.shape == first.shape and result.dtype == first.dtype
    return same and torch.allclose(result.double(), first.double(), equal_nan=True)


def _call(form: Any, spelling: Spelling, given: Any) -> Callable[[Tensor], Any]:
    return lambda x: form(spelling, x, given(x))


def answers(step: nn.Module) -> Iterator[tuple[str, Any]]:
    """Bring a step on a map, and on a pooled vector, to every door that PyTorch itself takes it through."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), step).eval()
    head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), step).eval()
    flat.example = (3, 16, 16)
    image = torch.rand(2, 3, 16, 16)
    if _runs(flat, image):
        yield "walk", heard(lambda: (found := outputs(flat)) and (found.paths, [each.kind for each in found.remarks]))
        yield "multiply-adds", heard(lambda: inspect(flat, size=(16, 16)).multiply_adds)
        yield "à trous", heard(lambda: to_atrous(flat).eval()(image))
    if _runs(head, image):
        yield "head", heard(lambda: convolutionize(head, (3, 8, 8)).eval()(image))


def _runs(net: nn.Module, image: Tensor) -> bool:
    try:
        return isinstance(net(image), Tensor)
    except Exception:  # PyTorch does not take it so
        return False


def heard(door: Callable[[], Any]) -> Any:
    """Tell what a door gives, or why it refuses, without the name of what it refuses."""
    try:
        torch.manual_seed(0)
        with torch.no_grad():
            return door()
    except ValueError as error:
        return re.sub(r"^[^:]*: ", "", str(error))


def assert_same(answers_by_name: dict[str, dict[str, Any]]) -> None:
    first_name, first = next(iter(answers_by_name.items()))
    for name, found in answers_by_name.items():
        for door, answer in found.items():
            expected = first[door]
            if isinstance(answer, Tensor) and isinstance(expected, Tensor):
                torch.testing.assert_close(
                    answer, expected, equal_nan=True, msg=f"{door}: {name} and {first_name} differ"
                )
            else:
                assert answer == expected, f"{door}: {name} gives {answer}, {first_name} {expected}"


ROWS = {row.spellings[0]: row for row in OPERATIONS}

# What PyTorch takes in no way that is tried above: with other arguments than the spellings beside it.
OTHER_ARGUMENTS = {
    "type": ["Tensor.type"], "cuda": ["Tensor.cuda"], "float_power": ["Tensor.float_power_"],
    "batch_norm": ["torch.batch_norm"], "instance_norm": ["torch.instance_norm"], "dropout1d": ["functional.dropout1d"],
    "view_as": ["Tensor.reshape_as", "Tensor.view_as"], "T": ["Tensor.t", "Tensor.t_", "torch.t", "x.H"],
    "split": ["Tensor.split_with_sizes", "torch.split_with_sizes"], "unbind": ["Tensor.select", "torch.select"],
    "expand": ["Tensor.expand_as"], "matmul": ["Tensor.bmm", "torch.bmm"],
    "scaled_dot_product_attention": ["functional.multi_head_attention_forward"],
}  # fmt: skip


FEW = (
    "add",
    "cat",
    "div",
    "getitem",
    "linear",
    "logsigmoid",
    "masked_fill",
    "matmul",
    "mean",
    "mul",
    "softmax",
    "transpose",
)


@pytest.mark.parametrize("name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in ROWS])
def test_functions_methods_and_operators_are_treated_alike(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        found, others = calls(ROWS[name], torch.rand(2, 4, 8, 8))
        found_by_name = {spelling: dict(answers(Apply(call))) for spelling, call in found.items()}
    if found:
        assert_same(found_by_name)
    assert sorted(others) == OTHER_ARGUMENTS.get(name, [])


ACTIVATIONS = {
    row.spellings[0]: row.layers[0]
    for row in OPERATIONS
    if row.layers
    and row.unitwise
    and row.role == ""
    and row.spellings[0] not in ("threshold", "prelu", "channel_shuffle")
}

# Layers, with functions that are the same.
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    **{name: (layer, getattr(functional, name)) for name, layer in ACTIVATIONS.items()},
    "threshold": (lambda: nn.Threshold(0.1, 0.5), lambda x: functional.threshold(x, 0.1, 0.5)),
    "prelu": (nn.PReLU, lambda x: functional.prelu(x, torch.tensor([0.25]))),
    "glu": (lambda: nn.GLU(1), lambda x: functional.glu(x, 1)),
    "softmax": (lambda: nn.Softmax(1), lambda x: x.softmax(1)),
    "log_softmax": (lambda: nn.LogSoftmax(1), lambda x: torch.log_softmax(x, dim=1)),
    "softmin": (lambda: nn.Softmin(1), lambda x: functional.softmin(x, 1)),
    "softmax over columns": (lambda: nn.Softmax(-1), lambda x: functional.softmax(x, -1)),
    "softmax of channels": (nn.Softmax2d, lambda x: x.softmax(-3)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), lambda x: functional.max_pool2d(x, 3, 2, 1)),
    "average pool": (lambda: nn.AvgPool2d(2), lambda x: functional.avg_pool2d(x, 2)),
    "global pool": (lambda: nn.AdaptiveAvgPool2d(1), lambda x: functional.adaptive_avg_pool2d(x, 1)),
    "global maximum": (lambda: nn.AdaptiveMaxPool2d(1), lambda x: functional.adaptive_max_pool2d(x, 1)),
    "pad": (lambda: nn.ZeroPad2d((1, 2, 0, 1)), lambda x: functional.pad(x, (1, 2, 0, 1))),
    "reflection": (lambda: nn.ReflectionPad2d(2), lambda x: functional.pad(x, (2, 2, 2, 2), mode="reflect")),
    "repetition": (lambda: nn.ReplicationPad2d(1), lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate")),
    "round": (lambda: nn.CircularPad2d(1), lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular")),
    "nearest": (lambda: nn.Upsample(scale_factor=2), lambda x: functional.interpolate(x, scale_factor=2)),
    "corners": (
        lambda: nn.UpsamplingBilinear2d(scale_factor=2),
        lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    ),
    "shuffle": (lambda: nn.PixelShuffle(2), lambda x: functional.pixel_shuffle(x, 2)),
    "unshuffle": (lambda: nn.PixelUnshuffle(2), lambda x: functional.pixel_unshuffle(x, 2)),
    "channels": (lambda: nn.ChannelShuffle(2), lambda x: functional.channel_shuffle(x, 2)),
    "dropout": (nn.Dropout, lambda x: functional.dropout(x, training=False)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda x: functional.group_norm(x, 2)),
    "instance norm": (lambda: nn.InstanceNorm2d(4), functional.instance_norm),
    "batch norm": (lambda: nn.BatchNorm2d(4), lambda x: functional.batch_norm(x, torch.zeros(4), torch.ones(4))),
    "norm of vectors": (lambda: nn.BatchNorm1d(4), lambda x: functional.batch_norm(x, torch.zeros(4), torch.ones(4))),
    "local norm": (lambda: nn.LocalResponseNorm(3), lambda x: functional.local_response_norm(x, 3)),
    "layer norm": (lambda: nn.LayerNorm(4), lambda x: functional.layer_norm(x, (4,))),
    "layer norm of a map of one size": (lambda: nn.LayerNorm((4, 8, 8)), lambda x: functional.layer_norm(x, (4, 8, 8))),
    "root mean square": (lambda: nn.RMSNorm(4), lambda x: functional.rms_norm(x, (4,))),
    "bmm": (
        lambda: Apply(lambda x: torch.bmm(x.flatten(2).mT, torch.full((2, 4, 3), 0.5)).mT.unflatten(2, x.shape[2:])),
        lambda x: (x.flatten(2).mT @ torch.full((2, 4, 3), 0.5)).mT.unflatten(2, x.shape[2:]),
    ),
    "flatten": (lambda: nn.Flatten(2), lambda x: x.flatten(2)),
    "identity": (nn.Identity, lambda x: x.clone()),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_treated_as_their_functions(name: str) -> None:
    layer, function = LAYERS[name]
    assert_same({"function": dict(answers(Apply(function))), "layer": dict(answers(layer()))})


def made(layer: type[nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    step = layer(*shape)
    weight, bias = step.weight.detach(), step.bias.detach()
    function = {
        nn.Linear: functional.linear, nn.Conv2d: functional.conv2d, nn.ConvTranspose2d: functional.conv_transpose2d
    }[layer]  # fmt: skip
    return step, lambda x: function(x, weight, bias)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear, (4, 3)), (nn.Conv2d, (4, 3, 3)), (nn.Conv2d, (4, 3, 1)), (nn.ConvTranspose2d, (4, 3, 3))],
)
def test_layers_with_weights_are_treated_as_their_functions(layer: type[nn.Module], shape: tuple[int, ...]) -> None:
    step, function = made(layer, shape)
    assert_same({"function": dict(answers(Apply(function))), "layer": dict(answers(step))})
    if layer is nn.Linear:  # at every position, and of a whole map
        last = Apply(lambda x: x.movedim(1, -1))
        spelled = {"function": nn.Sequential(last, Apply(function)), "layer": nn.Sequential(last, step)}
        assert_same({name: dict(answers(each)) for name, each in spelled.items()})


def test_fully_connected_layers_over_a_map_become_convolutions_however_spelled() -> None:
    step, function = made(nn.Linear, (4 * 6 * 6, 3))
    trunk, image = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 12, 10)
    for before in (lambda x: x.flatten(1), lambda x: x.permute(0, 2, 3, 1).flatten(1)):
        heats = [
            convolutionize(nn.Sequential(trunk, Apply(before), last).eval(), (3, 8, 8))(image)
            for last in (step, Apply(function))
        ]
        assert heats[0].shape == (1, 3, 5, 3)
        torch.testing.assert_close(*heats)


def test_no_spelling_and_no_layer_stands_in_two_rows() -> None:
    for entries in (
        [name for row in OPERATIONS for name in row.spellings],
        [each for row in OPERATIONS for each in row.layers],
    ):
        assert len(entries) == len(set(entries))
