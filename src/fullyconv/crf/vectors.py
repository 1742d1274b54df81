"""Rows of labels as machine vectors inside numba: load, store, multiply, exponentiate many labels at once.

LLVM's own vectoriser cannot prove that the rows of a lattice do not overlap, so it leaves such loops
scalar. A ``Vector`` is a few of LLVM's ``<n x float>`` values: 24 lanes are 16 + 8, which any machine
splits into registers of its own. ``lanes`` is a tuple with as many entries as there are lanes: the
length of a tuple is known when a kernel is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

Operation: TypeAlias = Callable[..., Any]
operation = cast("Callable[[Operation], Operation]", intrinsic)

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FUSED = ("contract",)

# exp(x) = 2^n * exp(r), |r| <= ln(2)/2 (Cephes expf): relative error below 2e-7.
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_LEAST = -46.0  # less counts as nothing: 1e-20, so that no product on its way is a slow denormal number
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


class Vector(types.Type):
    """The numba type of ``lanes`` float32 values."""

    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"Vector({lanes})")
        self.lanes = lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.LiteralStructType([ir.VectorType(_FLOAT, n) for n in _parts(kind.lanes)]))  # type: ignore[no-untyped-call]


def _parts(lanes: int) -> list[int]:
    """Cut lanes into powers of two, 16 at most: other widths LLVM would take apart lane by lane."""
    parts = []
    while lanes:
        parts.append(min(16, 1 << lanes.bit_length() - 1))
        lanes -= parts[-1]
    return parts


def _filled(value: float, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_FLOAT, lanes), [value] * lanes)


def _whole(value: int, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT, lanes), [value] * lanes)


def _spread(builder: Any, scalar: Any, lanes: int) -> Any:
    """Copy a scalar into every lane."""
    nothing = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, nothing, _whole(0, lanes))


def _by_parts(builder: Any, lanes: int, make: Callable[[int, int, int], Any]) -> Any:
    """Build a vector from ``make(part, first lane, lanes)``."""
    parts = _parts(lanes)
    whole = ir.Constant(ir.LiteralStructType([ir.VectorType(_FLOAT, n) for n in parts]), ir.Undefined)
    for part, wide in enumerate(parts):
        whole = builder.insert_value(whole, make(part, sum(parts[:part]), wide), part)
    return whole


def _place(builder: Any, data: Any, start: Any, lanes: int) -> Any:
    """Point at ``lanes`` values from ``data + start`` on."""
    return builder.bitcast(builder.gep(data, [start]), ir.VectorType(_FLOAT, lanes).as_pointer())


@operation
def pointer(typing: Any, array: Any) -> Any:
    """Return where a contiguous float32 array begins; the caller keeps the array alive."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, given[0]).data

    return cast("Any", types).CPointer(types.float32)(array), code


@operation
def load(typing: Any, data: Any, start: Any, lanes: Any) -> Any:
    """Read ``len(lanes)`` values from a pointer on, ``start`` further."""
    kind = Vector(len(lanes))

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def part(number: int, first: int, wide: int) -> Any:
            start = builder.add(given[1], ir.Constant(given[1].type, first))
            return builder.load(_place(builder, given[0], start, wide), align=4)

        return _by_parts(builder, kind.lanes, part)

    return kind(data, types.intp, lanes), code


@operation
def store(typing: Any, data: Any, start: Any, vector: Any) -> Any:
    """Write a vector from a pointer on, ``start`` further."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        first = 0
        for number, wide in enumerate(_parts(vector.lanes)):
            start = builder.add(given[1], ir.Constant(given[1].type, first))
            builder.store(builder.extract_value(given[2], number), _place(builder, given[0], start, wide), align=4)
            first += wide
        return context.get_dummy_value()

    return types.void(data, types.intp, vector), code


@operation
def multiply_add(typing: Any, factor: Any, vector: Any, summand: Any) -> Any:
    """Return ``factor * vector + summand`` for a scalar factor."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def part(number: int, first: int, wide: int) -> Any:
            own, other = (builder.extract_value(value, number) for value in given[1:])
            product = builder.fmul(_spread(builder, given[0], wide), own, flags=_FUSED)
            return builder.fadd(product, other, flags=_FUSED)

        return _by_parts(builder, vector.lanes, part)

    return vector(types.float32, vector, vector), code


@operation
def add(typing: Any, first: Any, second: Any) -> Any:
    """Add two vectors."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def part(number: int, first: int, wide: int) -> Any:
            return builder.fadd(*(builder.extract_value(value, number) for value in given))

        return _by_parts(builder, signature.args[0].lanes, part)

    return first(first, second), code


@operation
def scale(typing: Any, factor: Any, vector: Any) -> Any:
    """Multiply a vector by a scalar."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def part(number: int, first: int, wide: int) -> Any:
            return builder.fmul(_spread(builder, given[0], wide), builder.extract_value(given[1], number))

        return _by_parts(builder, vector.lanes, part)

    return vector(types.float32, vector), code


def _reduce(builder: Any, part: Any, name: str, start: Sequence[Any]) -> Any:
    """Call LLVM's reduction of one part to a scalar."""
    kind = ir.FunctionType(_FLOAT, [*(value.type for value in start), part.type])
    function = cast("Any", cgutils).get_or_insert_function(
        builder.module, kind, f"llvm.vector.reduce.{name}.v{part.type.count}f32"
    )
    return builder.call(function, [*start, part], fastmath=("reassoc", "nnan"))


@operation
def largest(typing: Any, vector: Any) -> Any:
    """Return the largest lane."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        most, *others = [
            _reduce(builder, builder.extract_value(given[0], number), "fmax", [])
            for number in range(len(_parts(vector.lanes)))
        ]
        for other in others:
            most = builder.select(builder.fcmp_ordered(">", other, most), other, most)
        return most

    return types.float32(vector), code


@operation
def total(typing: Any, vector: Any) -> Any:
    """Add the lanes."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        whole = ir.Constant(_FLOAT, 0.0)
        for number in range(len(_parts(vector.lanes))):
            whole = _reduce(builder, builder.extract_value(given[0], number), "fadd", [whole])
        return whole

    return types.float32(vector), code


@operation
def exponential(typing: Any, vector: Any, shift: Any) -> Any:
    """Return ``exp(vector - shift)`` for a scalar shift that makes no lane positive; below 1e-20 it is 0."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def part(number: int, first: int, wide: int) -> Any:
            own = builder.extract_value(given[0], number)
            return _exponential(builder, builder.fsub(own, _spread(builder, given[1], wide)), wide)

        return _by_parts(builder, vector.lanes, part)

    return vector(vector, types.float32), code


def _exponential(builder: Any, x: Any, lanes: int) -> Any:
    least = _filled(_LEAST, lanes)
    counts = builder.fcmp_ordered(">", x, least)
    x = builder.select(counts, x, least)
    # Towards zero after taking off a half: rounds to nearest, as x is not positive.
    turns = builder.fadd(builder.fmul(x, _filled(_LOG2E, lanes)), _filled(-0.5, lanes))
    whole = builder.fptosi(turns, ir.VectorType(_INT, lanes))
    turns = builder.sitofp(whole, x.type)
    for part in (_LN2_HIGH, _LN2_LOW):
        x = builder.fsub(x, builder.fmul(turns, _filled(part, lanes), flags=_FUSED), flags=_FUSED)
    series = _filled(_EXP[0], lanes)
    for coefficient in (*_EXP[1:], 1.0, 1.0):
        series = builder.fadd(builder.fmul(series, x, flags=_FUSED), _filled(coefficient, lanes), flags=_FUSED)
    bits = builder.shl(builder.add(whole, _whole(127, lanes)), _whole(23, lanes))
    power = builder.fmul(series, builder.bitcast(bits, x.type))
    return builder.select(counts, power, _filled(0.0, lanes))
