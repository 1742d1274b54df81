"""Whatever PyTorch offers is followed, or refused by its name in one sentence: nothing else comes out of any door."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import get_overridable_functions

from fullyconv.networks.dense import to_atrous
from fullyconv.networks.inspection import inspect
from fullyconv.surgery.convolutionize import convolutionize
from fullyconv.trace import outputs

# What asks about a tensor, moves, saves, serialises, resizes, sparsifies or differentiates it is no step of a network.
ASKING = re.compile(
    r"is_.*|get_.*|set_.*|register_.*|backward|numpy|tolist|data_ptr|untyped_storage|share_memory_?|pin_memory|_.*|"
    r"record_stream|reinforce|retain_grad|module_load|requires_grad_|cuda|cpu|ipu|xpu|mtia|to_.*|apply_|map2?_|resize.*|"
    r"dim_order|as_subclass|sparse_.*|.*_quant.*|quantize.*|.*fbgemm.*|storage.*|.*cudnn.*|.*miopen.*|.*mkldnn.*|.*stft"
)
HOMES = {
    "torch": torch, "functional": functional, "Tensor": Tensor, "linalg": torch.linalg, "special": torch.special,
    "fft": torch.fft,
}  # fmt: skip


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


INDEX = torch.zeros(1, dtype=torch.long)

# What a function may want beside a map N x 4 x H x W.
ATTEMPTS: list[Callable[[Tensor], tuple[Any, ...]]] = [
    lambda x: (), lambda x: (1,), lambda x: (2,), lambda x: (x,), lambda x: (1, 1), lambda x: (0.5,),
    lambda x: ((1, 1),), lambda x: ((2, 2),), lambda x: ((2, 3),), lambda x: (x, x), lambda x: (1, 0, 1),
    lambda x: (0, 1), lambda x: (1, INDEX), lambda x: (x > 0, 0.0), lambda x: (x > 0,), lambda x: ((1, 1, 1, 1),),
    lambda x: ((0, 2, 3, 1),), lambda x: (2.0, 2), lambda x: (2.0, 2, 1), lambda x: (1, x.long() * 0),
    lambda x: (torch.ones(4, 4, 3, 3),), lambda x: (torch.ones(4, 1, 3, 3),), lambda x: (torch.ones(8, x.shape[-1]),),
    lambda x: (torch.ones(4),), lambda x: (torch.zeros(4), torch.ones(4)),
    lambda x: (2, torch.ones(4), torch.ones(4)), lambda x: ((x.shape[-1],),), lambda x: (-1.0, 1.0),
    lambda x: (torch.float32,), lambda x: (1, (2, 2)), lambda x: ((1, 1), (1, 1)), lambda x: ((2, 2), (6, 6)),
    lambda x: (1, (0, 1)), lambda x: (2, 1, 1), lambda x: (x[:, :, 0, 0],), lambda x: (torch.ones(2, 4, 4, 2),),
    lambda x: (0, 0, 0), lambda x: (1, INDEX, x[:, :1]), lambda x: (1, INDEX, 0.5), lambda x: (x, 0.5),
    lambda x: (x, x, x), lambda x: (x, torch.ones(4, 4, 1, 1)), lambda x: (0, 0.5, False), lambda x: (0.5, False),
]  # fmt: skip
# The same for functions of several tensors, of whole numbers, or of matrices.
FORMS: list[Callable[[Callable[..., Any], Tensor, tuple[Any, ...]], Any]] = [
    lambda function, x, given: function(x, *given),
    lambda function, x, given: function([x, x], *given),
    lambda function, x, given: function((x * 9).long(), *given),
    lambda function, x, given: function(x.flatten(2), *given),
    lambda function, x, given: function(x.flatten(2), x.flatten(2).transpose(1, 2)),
    lambda function, x, given: function(x.mean((2, 3)), x.mean((2, 3)).t()),
    lambda function, x, given: function(x.new_ones(1), x.mean((2, 3)), x.mean((2, 3)).t()),
    lambda function, x, given: function("nchw,nchw->nhw", x, x),
]


def functions() -> dict[str, Callable[..., Any]]:
    """List every function that PyTorch lets be recorded, under its home."""
    overridable = {each for found in get_overridable_functions().values() for each in found}
    found = {}
    for home, module in HOMES.items():
        for name in dir(module):
            each = getattr(module, name)
            if callable(each) and not ASKING.fullmatch(name) and _is_one(each, overridable):
                found[f"{home}.{name}"] = each
    return found


def _is_one(function: Any, overridable: set[Any]) -> bool:
    try:
        return function in overridable
    except TypeError:
        return False


FUNCTIONS = functions()


def accepted(function: Callable[..., Any], x: Tensor) -> Callable[[Tensor], Any] | None:
    """Find a way of calling a function with which PyTorch itself makes tensors of a map."""
    for form, attempt in product(FORMS, ATTEMPTS):

        def call(x: Tensor, form: Any = form, attempt: Any = attempt) -> Any:
            return form(function, x, attempt(x))

        try:
            result = call(x.clone())
        except Exception:  # whatever PyTorch says: it does not want these
            continue
        pieces = result if isinstance(result, tuple | list) else (result,)
        if pieces and all(isinstance(piece, Tensor) for piece in pieces):
            return call
    return None


def networks(step: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give networks with a step: on a map, behind a stride, on a pooled vector, on a map that is scored."""
    yield "map", nn.Sequential(nn.Conv2d(3, 4, 1), step)
    yield "strided", nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), step, nn.Conv2d(4, 2, 3))
    yield "vector", nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), step)
    yield "scored", nn.Sequential(nn.Conv2d(3, 4, 1), step, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def look(net: nn.Module) -> None:
    inspect(net, size=(8, 8))


def convert(net: nn.Module) -> None:
    heat = convolutionize(net, (3, 8, 8)).eval()
    assert heat(torch.rand(2, 3, 8, 8)).ndim == 4


def knock(door: Callable[..., Any], net: nn.Module, name: str) -> str:
    """Bring a network to a door; tell what is wrong with how it is refused, if it is."""
    try:
        door(net)
    except ValueError as error:
        message = str(error)
        named = re.match(r"[\w.]+ \(\w+\): ", message) or re.search(r"output|several maps| at '\d' \(\w+\): ", message)
        if "\n" in message or len(message) > 300 or not named:
            return f"{name} at {door.__name__}: {message}"
    except Exception as error:
        return f"{name} at {door.__name__}: {type(error).__name__}: {error}"[:300]
    return ""


def runs(net: nn.Module) -> bool:
    """Return whether PyTorch itself runs a network."""
    try:
        net(torch.rand(2, 3, 8, 8))
    except Exception:
        return False
    return True


def find_faults(name: str, step: nn.Module) -> list[str]:
    """Bring a step to every door."""
    faults = []
    for place, net in networks(step):
        net.eval().example = (3, 8, 8)
        doors: list[Callable[..., Any]] = [convert] if place in ("vector", "scored") else [outputs, look, to_atrous]
        faults += [knock(door, net, f"{name} ({place})") for door in doors if runs(net)]
    return [fault for fault in faults if fault]


LEAST = {"torch": 300, "functional": 80, "Tensor": 380, "linalg": 20, "special": 30, "fft": 15}


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.slow
def test_every_function_is_followed_or_refused_by_name(home: str) -> None:
    torch.manual_seed(0)
    faults, tried = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in FUNCTIONS.items():
            call = accepted(function, torch.rand(2, 4, 8, 8)) if name.startswith(f"{home}.") else None
            if call is not None:
                tried += 1
                faults += find_faults(name, Apply(call))
    assert tried > LEAST[home]
    assert not faults, "\n".join(faults)


LAYERS = {name: each for name, each in vars(nn).items() if isinstance(each, type) and issubclass(each, nn.Module)}


def made(layer: type[nn.Module]) -> nn.Module | None:
    """Make a layer that takes a map N x 4 x 8 x 8."""
    for arguments in [
        (),
        (4,),
        (2,),
        (2, 4),
        (4, 4),
        (4, 4, 3),
        ((8, 8),),
        ((4, 8, 8),),
        (8, 8),
        (1, 0.5),
        (0.1, 1.0),
        (2.0, 2),
        (1, (2, 2)),
    ]:
        try:
            step = layer(*arguments).eval()
            if isinstance(step(torch.rand(2, 4, 8, 8)), Tensor | tuple):
                return step
        except Exception:
            continue
    return None


@pytest.mark.slow
def test_every_layer_is_followed_or_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = {name: step for name, layer in LAYERS.items() if (step := made(layer)) is not None}
        faults = [fault for name, step in steps.items() for fault in find_faults(name, step)]
    assert len(steps) > 80
    assert not faults, "\n".join(faults)
