"""Sums of products: what they do to positions, and how many multiplications and additions they take."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, cast

from torch import fx

from fullyconv.trace.joins import joined
from fullyconv.trace.positions import POOLED, Call, Positions, shape_of

ATTENTION = "is attention: it compares positions with positions"


def linear(call: Call) -> Positions:
    """Follow a fully connected layer: it acts on the last axis."""
    if len(call.sources) > 1:
        raise call.refuse("has weights that depend on the picture")
    if call.source.flattened:
        return POOLED
    if -1 in call.source.axes:
        raise call.refuse("is fully connected over positions")
    return call.source


def matmul(call: Call) -> Positions:
    """Follow a matrix product: over channels it acts on each position, over positions it is global."""
    operands = call.argument(0, "input"), call.argument(1, "other", call.argument(1, "mat2"))
    first, second = (call.walk.positions.get(node) if isinstance(node, fx.Node) else None for node in operands)
    left, right = first.axes if first else (), second.axes if second else ()
    if not left and not right:
        return POOLED
    if -1 in left and -2 in right:
        if len(left) + len(right) > 2:
            raise call.refuse("sums over rows or columns of a map")
        call.remark("global", "sums over all positions")
        return POOLED
    if -1 in left or -2 in right:
        raise call.refuse("is fully connected over positions")
    if left and right:
        raise call.refuse(ATTENTION)
    if first is not None and second is not None:
        call.remark("global", "sees the whole picture at every position")
    return call.walk.positions[operands[0 if left else 1]]


def attention(call: Call) -> Positions:
    """Refuse attention over positions; over vectors it is one more vector."""
    if any(call.walk.positions[source].axes for source in call.sources):
        raise call.refuse(ATTENTION)
    return POOLED


def refused(reason: str) -> Any:
    """Make the rule of an operation that is not followed over positions."""

    def follow(call: Call) -> Positions:
        if any(call.walk.positions[source].axes for source in call.sources):
            raise call.refuse(reason)
        return POOLED

    return follow


def einsum(call: Call) -> Positions:
    """Follow a sum of products: every position by itself, with the same numbers at each."""
    operands, terms, result = einsum_terms(call)
    letters: set[str] = set()
    for operand, term in zip(operands, terms, strict=True):
        positions = call.walk.positions.get(operand, POOLED)
        placed = {term[axis] for axis in positions.axes}
        if letters and placed and placed != letters:
            raise call.refuse(ATTENTION)
        letters |= placed
    if not letters:
        return POOLED
    if not letters & set(result):
        call.remark("global", "sums over all positions")
        return POOLED
    if not letters <= set(result):
        raise call.refuse("sums over rows or columns")
    for operand, term in zip(operands, terms, strict=True):
        if not call.walk.positions.get(operand, POOLED).axes and letters & set(term):
            raise call.refuse("mixes positions: it has numbers of its own for each row or column")
    source = next(each for each in operands if call.walk.positions.get(each, POOLED).axes)
    term, whole = terms[operands.index(source)], joined(call)
    placed_first = call.walk.positions[source]
    moved = placed_first.moved(lambda axis: result.index(term[axis]) - len(result))
    return replace(moved, trails=whole.trails)


def einsum_terms(call: Call) -> tuple[list[fx.Node], list[str], str]:
    """Return what an einsum multiplies, the letters of the axes of each, and those of the result."""
    equation = call.node.args[0]
    rest = call.node.args[1:]
    operands = cast("list[fx.Node]", list(rest[0] if isinstance(rest[0], tuple | list) else rest))
    if not isinstance(equation, str):
        raise call.refuse("is written without letters, as lists of numbers: write its equation as text")
    before, _, after = equation.replace(" ", "").partition("->")
    terms = before.split(",")
    if "->" not in equation:
        after = "".join(sorted(letter for letter in set(before) - {",", "."} if before.count(letter) == 1))
        after = ("..." if "..." in before else "") + after
    dims = max(
        (len(shape_of(node)) - len(term) + 3 for node, term in zip(operands, terms, strict=True) if "..." in term),
        default=0,
    )
    spare = "".join(map(chr, range(0x3B1, 0x3B1 + dims)))  # Greek letters for the axes that "..." stands for
    spelled = [
        term.replace("...", spare[dims - (len(shape_of(node)) - len(term) + 3) :])
        for node, term in zip(operands, terms, strict=True)
    ]
    return operands, spelled, after.replace("...", spare)


def nothing(call: Call) -> int:
    """Count none."""
    return 0


def weighted(call: Call) -> int:
    """Count the multiply-adds of a convolution or fully connected layer: each output sums over a kernel."""
    return _made(call) * _kernel(call)


def spread(call: Call) -> int:
    """Count those of a transposed convolution: each input is spread over a kernel."""
    return prod(call.before[1:]) * _kernel(call)


def multiplied(call: Call) -> int:
    """Count those of a matrix product: each output sums over the last axis of the first matrix."""
    return _made(call) * shape_of(cast("fx.Node", call.node.args[0]))[-1]


def summed(call: Call) -> int:
    """Count those of an einsum: one for each combination of places, of one picture."""
    operands, terms, result = einsum_terms(call)
    lengths = {
        letter: length
        for node, term in zip(operands, terms, strict=True)
        for letter, length in zip(term, shape_of(node), strict=True)
    }
    pictures = call.shape[0] if result else 1
    return prod(lengths.values()) // pictures


def windowed(call: Call) -> int:
    """Count those of what answers for every window by itself; pooling has none."""
    return 0 if call.layer is None else prod(call.shape[-2:]) * cast("Any", call.layer).multiply_adds(call.before[1])


def _made(call: Call) -> int:
    return prod(call.shape[1:])


def _kernel(call: Call) -> int:
    weight = getattr(call.layer, "weight", None)
    shape = tuple(weight.shape) if weight is not None else shape_of(call.argument(1, "weight"))
    return prod(shape[1:])
