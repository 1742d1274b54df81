"""What a conversion promises, tried on random pictures before it is handed out.

The rules by which heads are recast are few, heads are many: an operation that the rules take for another would make
another network, which nothing would say. So both networks answer the same two pictures, and where they differ the
conversion is refused by the name of the operation where they part. It costs two or four passes of two pictures.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from fractions import Fraction
from math import ceil, lcm, prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fullyconv.geometry import size
from fullyconv.surgery.head import SCORES
from fullyconv.surgery.subject import Example, Subject, in_words, place_of, quietly, random_state
from fullyconv.trace import NotFollowed, Walk
from fullyconv.trace.nodes import PATH, spelling
from fullyconv.trace.positions import POOLED

HALVES = (torch.float16, torch.bfloat16)
SHARE = 1e-3  # of what the pictures change in the answers: sums in another order stay far below it
ROUNDINGS = 200  # of the largest score, for networks whose answers hardly depend on the picture


class HeadDiffers(NotFollowed):
    """The dense form that was written for a head does not give the classifier's scores."""


def run(network: nn.Module, pictures: Tensor) -> Any:
    """Run a network on pictures, in single precision where its own is half of that and would hide differences."""
    if pictures.dtype in HALVES:
        network, pictures = copy.deepcopy(network).float(), pictures.float()
    with quietly(pictures):
        return network.eval()(pictures)


def agree(wanted: Tensor, found: Tensor) -> bool:
    """Return whether answers to several pictures, N x …, are the same but for rounding.

    What counts as rounding is measured against what the pictures change in the answers: a large bias hides nothing.
    """
    if wanted.shape != found.shape:
        return False
    if not wanted.numel():
        return True
    exact = torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 0.0
    wanted, found = wanted.double(), found.double()
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    wanted, found = wanted.where(finite, 0), found.where(finite, 0)
    spread, largest = (wanted - wanted.roll(1, 0)).abs().max(), wanted.abs().max()
    return bool((wanted - found).abs().max() <= SHARE * spread + ROUNDINGS * exact * largest)


def scores_of(answer: Any) -> Any:
    """Return the scores among what a classifier gives: those by name of a mapping, the first of several."""
    if isinstance(answer, Mapping):
        answer = next((answer[name] for name in SCORES if name in answer), None)
    if isinstance(answer, tuple | list):
        answer = answer[0] if answer else None
    return answer


def averaged(scores: Tensor) -> Tensor:
    """Average N x K x h x w over its positions and put other scores into one row per picture."""
    if scores.ndim == 4:  # whole numbers have no mean of their own kind, and half precision not their range
        return (scores if scores.is_floating_point() else scores.double()).mean((2, 3))
    return scores.flatten(1) if scores.ndim > 1 else scores[:, None]


def check_scores(subject: Subject, dense: nn.Module, pictures: Tensor, explain: Callable[[], str]) -> None:
    """Refuse a dense classifier the mean of whose map is not what the classifier answers to ``pictures``.

    ``explain`` names the operation at fault, when it is asked.
    """
    wanted = averaged(scores_of(run(subject.network, pictures)))
    if not wanted.numel():
        raise NotFollowed("the classifier's output holds no scores: its shape has a 0")
    try:
        with redirect_stderr(io.StringIO()):  # fx prints where an error arose, which the refusal says in one sentence
            found = averaged(run(dense, pictures))
    except Exception as error:
        where = place_of(error, dense).removeprefix("network.")
        raise HeadDiffers(f"{where or explain()}: its dense form does not run: {in_words(error)}") from error
    if agree(wanted, found):
        return
    again = averaged(scores_of(_stirred(subject.network, pictures)))
    if not agree(wanted, again):
        raise NotFollowed(
            f"{explain()}: the classifier answers the same picture differently each time, even in evaluation mode"
        )
    raise HeadDiffers(f"{explain()}: its dense form gives other scores than the classifier, so there is none")


def _stirred(network: nn.Module, pictures: Tensor) -> Any:
    """Run a network while random numbers are others than in ``run``."""
    with quietly(pictures):
        torch.manual_seed(1)
        return network(pictures)


class Noting(fx.Interpreter):
    """Runs a recorded network in evaluation mode and hands on what each operation gives."""

    def __init__(self, recorded: fx.GraphModule, note: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(recorded.eval())
        self.extra_traceback = False  # which would be added to the message of an error
        self.note = note

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; an error names it."""
        try:
            result = super().run_node(n)
        except NotFollowed:
            raise
        except Exception as error:
            raise NotFollowed(f"{named(n)}: {in_words(error)}") from error
        self.note(n, result)
        return result


def named(node: fx.Node) -> str:
    """Name an operation and the module it belongs to, as refusals do."""
    kind = spelling(node)
    return f"{node.meta.get(PATH) or node.name}" + (f" ({kind})" if kind else "")


def first_difference(
    subject: Subject, recorded: fx.GraphModule, dense: Mapping[fx.Node, fx.Node], pictures: Tensor
) -> str:
    """Name the first operation whose dense form differs, or that the recording does not hold.

    ``recorded`` has a head in both forms; ``dense`` says which operation of the one is which of the other.
    """
    seen: dict[fx.Node, Any] = {}
    kept = {*dense, *dense.values()}
    modules = _module_answers(subject.network, pictures)
    lost = ""

    def note(node: fx.Node, value: Any) -> None:
        nonlocal lost
        if node in kept:
            seen[node] = value
        if node.op == "call_module" and not lost and isinstance(value, Tensor):
            wanted = modules.get(str(node.target), [])
            own = node not in dense.values() or dense.get(node) is node  # and no dense form
            if wanted and own and not any(agree(each, value) for each in wanted):
                lost = f"{named(node)}: what comes before it depends on more than was recorded"

    with quietly(pictures):
        Noting(recorded, note).run(pictures)
    differ = (named(node) for node, other in dense.items() if not _alike(seen.get(node), seen.get(other)))
    return lost or next(differ, "the classifier's head")


def _module_answers(network: nn.Module, pictures: Tensor) -> dict[str, list[Tensor]]:
    """Run a network and return what each module gave, each time it was called."""
    answers: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, result: (
            answers.setdefault(name, []).append(result.clone()) if isinstance(result, Tensor) else None
        )

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with quietly(pictures):
            network(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return answers


def _alike(vector: Any, values: Any) -> bool:
    """Return whether a map holds a vector's entries: at its positions, on average, or in another order."""
    if not (isinstance(vector, Tensor) and isinstance(values, Tensor)):
        return True
    flat = vector.flatten(1) if vector.ndim > 1 else vector[:, None]
    ways = (averaged(values), values.flatten(1))
    fitting = [way for way in ways if way.shape == flat.shape]
    return not fitting or any(agree(flat.sort(1)[0], way.sort(1)[0]) for way in fitting)


def check_sizes(recorded: fx.GraphModule, found: Walk, pictures: Tensor) -> None:
    """Refuse a recorded network some map of which has another size for ``pictures`` than its windows give.

    Sizes written down in the network, as numbers or as a parameter that is added to a map, are found by this:
    ``pictures`` have another size than the one that was recorded.
    """

    def note(node: fx.Node, value: Any) -> None:
        positions = found.positions.get(node, POOLED)
        if not (isinstance(value, Tensor) and positions.axes):
            return
        units = [size(trail.path, length) for trail, length in zip(positions.trails, pictures.shape[-2:], strict=True)]
        has = [value.shape[axis] for axis in positions.axes]
        if has != (units if positions.is_map else [prod(units)]):
            given, right = (" x ".join(map(str, each)) for each in (has, units))
            sides = " x ".join(map(str, pictures.shape[-2:]))
            raise NotFollowed(
                f"{named(node)}: gives {given} units for a picture of {sides} pixels, where its windows give {right}: "
                "something is fixed to the size of the example"
            )

    with quietly(pictures):
        Noting(recorded, note).run(pictures)


def _same(answer: Any, other: Any) -> bool:
    tensors = [[each for each in tree_leaves(given) if isinstance(each, Tensor)] for given in (answer, other)]
    return all(map(agree, *tensors))


def check_steady(subject: Subject, recorded: fx.GraphModule, wanted: Sequence[fx.Node]) -> None:
    """Refuse, by name, what makes a second answer to the same picture another one.

    Two networks that draw the same random numbers agree, so that comparing them does not find randomness; here the
    state of the generators does. What ``wanted`` is not computed from may draw what it likes. Writing into the picture
    is let pass where it makes no difference (an activation in place).
    """
    if subject.pictures is None or not (subject.draws or subject.writes):
        return
    given = subject.pictures.clone()
    steady = not subject.writes or _same(subject.answer(given), subject.answer(given))
    given = subject.pictures.clone()
    kept = _sources(wanted)
    before = Tensor(), Tensor()

    def note(node: fx.Node, value: Any) -> None:
        nonlocal before
        (state, picture), before = before, (random_state(given), given.clone())
        if node.op == "placeholder" or node not in kept:
            return
        if not torch.equal(state, before[0]):
            raise NotFollowed(
                f"{named(node)}: draws random numbers, so that the classifier answers the same picture differently "
                "each time, even in evaluation mode"
            )
        if not (steady or torch.equal(picture, given)):
            raise NotFollowed(
                f"{named(node)}: writes into the classifier's input, so that the same picture is another the next "
                "time: compute a new tensor instead"
            )

    with quietly(given):
        Noting(recorded, note).run(given)


def _sources(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found


def check_recording(subject: Subject, recorded: fx.GraphModule, wanted: fx.Node | None) -> Tensor | None:
    """Refuse a classifier that answers otherwise than what was recorded of it; gives the value of ``wanted`` there."""
    values: dict[fx.Node, Any] = {}
    if subject.pictures is None:
        return None
    answer = run(subject.network, subject.pictures)
    repeated = run(recorded, subject.pictures)
    if not _same(answer, repeated):
        at_fault = first_difference(subject, recorded, {}, subject.pictures)
        raise NotFollowed(f"{at_fault}: the network answers otherwise than what was recorded of it")
    if wanted is not None:
        with quietly(subject.pictures):
            Noting(recorded, lambda node, value: values.update({node: value}) if node is wanted else None).run(
                subject.pictures
            )
    return values.get(wanted) if wanted is not None else None


def check_hidden(trunk: nn.Module, wanted: Tensor, window: tuple[int, int], pictures: Tensor) -> None:
    """Refuse a trunk whose coarsest map does not hold, at its middle, what the classifier's last layer reads.

    There the ``window`` of the first fully connected layer, padded by half, covers the map of the example.
    """
    try:
        with quietly(pictures):
            found = trunk.eval()(pictures)[-1][:, :, window[0] // 2, window[1] // 2]
    except Exception as error:  # a layer that was made for the flattened map
        raise HeadDiffers(f"{place_of(error, trunk)}: its dense form does not run: {in_words(error)}") from error
    if not agree(wanted.flatten(1), found):
        raise HeadDiffers("the classifier's hidden fully connected layers have no form at every position")


def another_size(example: Example, strides: Sequence[Fraction], multiples: Sequence[int]) -> tuple[int, int]:
    """Return a height and width beside the example's, some units larger, that need no padding."""
    steps = [lcm(ceil(stride), multiple) for stride, multiple in zip(strides, multiples, strict=True)]
    height, width = (-(-length // step) * step for length, step in zip(example[1:], steps, strict=True))
    return height + steps[0], width + 2 * steps[1]
