"""A classifier made ready for a conversion: a copy of it that runs, the size it takes, how it answers a picture."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fullyconv.surgery.hooks import Hook, hooks_of, laid_aside, noting_changes
from fullyconv.surgery.layers import filled
from fullyconv.trace import NotFollowed, Remark, input_channels
from fullyconv.trace.recording import usual_size

Example = tuple[int, int, int]
COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)  # pre-hooks that compute a parameter from others
PICTURES = 2  # a batch of one would hide what mixes pictures
HALVES = (torch.float16, torch.bfloat16)


def example_size(example: object, classifier: nn.Module) -> Example:
    """Read what was given as an example: a size, or a picture that has it.

    Args:
        example: ``(channels, height, width)``; ``(height, width)``, of as many channels as the classifier reads; a
            tensor or array of shape C x H x W or N x C x H x W; ``None`` for what the classifier states, or 224 x 224.
        classifier: Whose first convolution tells the channels where ``example`` does not.

    Returns:
        Channels, height and width.

    Raises:
        ValueError: For anything else.

    Examples:
        >>> example_size((32, 48), nn.Conv2d(4, 8, 3))
        (4, 32, 48)

    """
    if example is None:
        return input_channels(classifier), *usual_size(classifier)
    given: Any = getattr(example, "shape", example)
    try:
        size = [int(length) for length in given]
        whole = size == list(given) and not any(isinstance(length, bool) for length in given)
    except (TypeError, ValueError):
        size, whole = [], False
    if len(size) == 4 and given is not example:
        size = size[1:]
    if len(size) == 2 and given is example:
        size = [input_channels(classifier), *size]
    if not whole or len(size) != 3 or min(size) < 1:
        shown = f"one of shape {tuple(given)}" if given is not example else repr(example)
        raise ValueError(f"example= is (channels, height, width), (height, width) or a tensor of pictures, not {shown}")
    return size[0], size[1], size[2]


@dataclass
class Subject:
    """A copy of a classifier in evaluation mode, which conversions take apart.

    Weight normalisation and its like (``torch.nn.utils.weight_norm``, ``spectral_norm``, ``parametrizations``,
    ``prune``) stay on convolutions; fully connected layers, which become convolutions, have the weights they had
    come to, and ``settled`` names them. ``watching`` are the hooks that change nothing. ``pictures`` (N x C x H x W)
    are random, of the example's size; ``None`` where the weights are on the meta device, and nothing can be run.
    ``draws`` and ``writes`` say whether answering them drew random numbers, and wrote into them.
    """

    network: nn.Module
    example: Example
    training: bool
    settled: tuple[str, ...] = ()
    watching: list[Hook] = field(default_factory=list)
    pictures: Tensor | None = None
    draws: bool = False
    writes: bool = False

    @classmethod
    def of(cls, classifier: nn.Module, example: object = None, *, copied: bool = True) -> Subject:
        """Copy a classifier (or, with ``copied`` false, take it itself) and run it once on two random pictures.

        Raises ``NotFollowed`` for what cannot be copied or taken apart and for a size the classifier does not take.
        """
        training = classifier.training
        network = duplicate(classifier, copied=copied)
        settled = _settle_weights(network)
        subject = cls(network, example_size(example, network), training, settled)
        hooks = hooks_of(network)
        if any(tensor.device.type == "meta" for tensor in network.state_dict().values()):
            subject.watching = hooks
            return subject
        pictures = random_pictures(network, subject.example)
        given = pictures.clone()
        with noting_changes(hooks) as changing:
            subject.answer(given)
        subject.writes = not torch.equal(given, pictures)
        subject.pictures = pictures
        subject.watching = [hook for place, hook in enumerate(hooks) if place not in changing]
        return subject

    def answer(self, pictures: Tensor) -> Any:
        """Run the classifier; an error says where it arose and what to give instead."""
        try:
            with quietly(pictures):
                before = random_state(pictures)
                result = self.network(pictures)
                self.draws = self.draws or not torch.equal(before, random_state(pictures))
                return result
        except Exception as error:
            where = place_of(error, self.network)
            raise NotFollowed(
                f"a picture of {' x '.join(map(str, pictures.shape[1:]))} does not go through the classifier"
                f"{f' at {where!r}' if where else ''}: {in_words(error)}: "
                "give example=(channels, height, width) of pictures it takes"
            ) from error

    def takes(self, pictures: Tensor) -> bool:
        """Return whether the classifier takes pictures of this size."""
        try:
            self.answer(pictures)
        except NotFollowed:
            return False
        return True

    def hooks_aside(self) -> AbstractContextManager[None]:
        """Keep the hooks that only watch off its modules for a while."""
        return laid_aside(self.watching)

    def hand_on(self, converted: fx.GraphModule) -> list[Remark]:
        """Let what watched a module of the classifier watch what has become of it; gives what is to be said."""
        layers = {str(node.target) for node in converted.graph.nodes if node.op == "call_module"}
        remarks = [
            Remark("weights", "weights that were computed from others have become plain ones", path)
            for path in self.settled
        ]
        for hook in self.watching:
            if hook.path not in layers:
                text = "a hook that watched it is left out: it is no layer of the converted network"
                remarks.append(Remark("hook", text, hook.path or "the classifier"))
            elif (layer := converted.get_submodule(hook.path)) is not hook.module:
                hook.copy_to(layer)
        return remarks


@contextmanager
def quietly(like: Tensor) -> Iterator[None]:
    """Record no gradients and leave the random generators as they are; what draws from them draws the same."""
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield


def random_state(like: Tensor) -> Tensor:
    """Return the state of the random generators that computing with a tensor may draw from, as bytes."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(like.device)]) if like.device.type == "cuda" else state


def place_of(error: BaseException, network: nn.Module) -> str:
    """Find the innermost module of a network in which an error arose; "" if in none."""
    names = {id(module): name for name, module in network.named_modules()}
    callers = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    found = [names[id(caller)] for caller in callers if id(caller) in names]
    return found[-1] if found else ""


def in_words(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def random_pictures(network: nn.Module, example: Example) -> Tensor:
    """Draw two pictures in a network's own precision, on its device."""
    like = next((each for each in network.parameters() if each.is_floating_point()), torch.empty(0))
    made = torch.randn(PICTURES, *example, generator=torch.Generator().manual_seed(0))
    return made.to(like.device, like.dtype)


def _check_kind(classifier: nn.Module) -> None:
    """Refuse modules whose operations cannot be seen or taken apart."""
    for path, module in classifier.named_modules():
        where = f"{path} ({type(module).__name__})" if path else f"the classifier ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise NotFollowed(
                f"{where} is TorchScript, whose operations cannot be seen: give the module it was made of"
            )
        if "quantized" in type(module).__module__.split("."):
            raise NotFollowed(f"{where} is quantised, and such layers have no gradients: give the network in floats")


def duplicate(classifier: nn.Module, *, copied: bool = True) -> nn.Module:
    """Copy a network without what compiles it, in evaluation mode; take it itself where ``copied`` is false."""
    classifier = uncompiled(classifier)
    _check_kind(classifier)
    if not copied:
        return classifier.eval()
    held = {id(tensor): tensor.detach().clone() for tensor in _computed(classifier)}
    try:
        network = copy.deepcopy(classifier, cast("dict[int, Any]", held))
    except Exception as error:  # whatever a module holds that refuses to be copied
        raise NotFollowed(f"the classifier cannot be copied: {error}") from error
    for path, module in list(network.named_modules()):
        if getattr(module, "_orig_mod", None) is not None:
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, uncompiled(module))
    for module in network.eval().modules():
        module._compiled_call_impl = None  # what .compile() left
    return network


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped."""
    return cast("nn.Module", getattr(module, "_orig_mod", module))


def _computed(network: nn.Module) -> list[Tensor]:
    """Find the tensors that modules hold as the results of computations, which PyTorch does not copy."""
    return [
        value
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]


def _settle_weights(network: nn.Module) -> tuple[str, ...]:
    """Put plain fully connected layers where weights are computed from others before every use; gives their paths."""
    plain: dict[nn.Module, nn.Module] = {}
    settled = []
    for path, layer in list(network.named_modules(remove_duplicate=False)):
        computing = [hook for hook in hooks_of(layer) if not hook.path and isinstance(hook.function, COMPUTING)]
        if not isinstance(layer, nn.Linear) or not (computing or parametrize.is_parametrized(layer)):
            continue
        if layer not in plain:
            plain[layer] = _plain(layer, computing)
        settled.append(path)
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, plain[layer])
    return tuple(settled)


def _plain(layer: nn.Linear, computing: list[Hook]) -> nn.Linear:
    with torch.no_grad():
        for hook in computing:
            hook.function(layer, ())  # what was loaded since the last use counts
            hook.take_off()
        made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        made = filled(made, layer.weight, layer.bias)
    for hook in hooks_of(layer):
        if not hook.path:
            hook.copy_to(made)
    return made.train(layer.training)
