"""Sixteen numbers at a time inside numba: LLVM's vectoriser cannot prove that rows of scratch memory do not overlap.

``Lanes`` is LLVM's ``<16 x float>``, which any machine splits into registers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 16
Code: TypeAlias = Callable[..., Any]
_operation = cast("Callable[[Code], Code]", intrinsic)

_FLOATS, _INTS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
_FUSED = ("contract",)
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_LEAST = -87.0  # less counts as 1.6e-38, about the smallest number that is not denormal
# The series of Cephes' expf and logf.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


class Lanes(types.Type):
    """The numba type of sixteen float32 values."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


class Marks(types.Type):
    """The numba type of sixteen truth values."""

    def __init__(self) -> None:
        super().__init__(name="Marks")


lanes, marks = Lanes(), Marks()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


@register_model(Marks)
class _MarksModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Marks) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), WIDTH))  # type: ignore[no-untyped-call]


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * WIDTH)


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * WIDTH)


def _spread(builder: Any, scalar: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, _ints(0))


def _place(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Point at sixteen values of a contiguous array of one axis."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), ir.VectorType(data.type.pointee, WIDTH).as_pointer())


@_operation
def load(typing: Any, array: Any, start: Any) -> Any:
    """Read sixteen values of a contiguous float32 array of one axis, from ``start`` on."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], given[0], given[1]), align=4)

    return lanes(array, types.intp), code


@_operation
def store(typing: Any, array: Any, start: Any, values: Any) -> Any:
    """Write sixteen values into a contiguous float32 array of one axis, from ``start`` on."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.store(given[2], _place(context, builder, signature.args[0], given[0], given[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@_operation
def all_of(typing: Any, scalar: Any) -> Any:
    """Return sixteen times a float32."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return _spread(builder, given[0])

    return lanes(types.float32), code


@_operation
def equal(typing: Any, array: Any, start: Any, number: Any) -> Any:
    """Compare sixteen values of a contiguous int32 array of one axis, from ``start`` on, with a number."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        found = builder.load(_place(context, builder, signature.args[0], given[0], given[1]), align=4)
        return builder.icmp_signed("==", found, _spread(builder, given[2]))

    return marks(array, types.intp, types.int32), code


@_operation
def zero(typing: Any, values: Any) -> Any:
    """Tell which values are 0."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fcmp_ordered("==", given[0], _floats(0.0))

    return marks(lanes), code


@_operation
def where(typing: Any, marked: Any, values: Any, others: Any) -> Any:
    """Choose ``values`` where marked, else ``others``."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.select(*given)

    return lanes(marks, lanes, lanes), code


@_operation
def multiply_add(typing: Any, factor: Any, values: Any, summand: Any) -> Any:
    """Return ``factor * values + summand``, rounded once where the machine can."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fadd(builder.fmul(given[0], given[1], flags=_FUSED), given[2], flags=_FUSED)

    return lanes(lanes, lanes, lanes), code


@_operation
def multiply(typing: Any, values: Any, others: Any) -> Any:
    """Multiply."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fmul(*given, flags=_FUSED)

    return lanes(lanes, lanes), code


@_operation
def divide(typing: Any, values: Any, others: Any) -> Any:
    """Divide."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fdiv(*given)

    return lanes(lanes, lanes), code


@_operation
def add(typing: Any, values: Any, others: Any) -> Any:
    """Add."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fadd(*given, flags=_FUSED)

    return lanes(lanes, lanes), code


@_operation
def subtract(typing: Any, values: Any, others: Any) -> Any:
    """Subtract ``others`` from ``values``."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.fsub(*given, flags=_FUSED)

    return lanes(lanes, lanes), code


@_operation
def larger(typing: Any, values: Any, others: Any) -> Any:
    """Return the larger of two; ``others`` where ``values`` is NaN."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *given), *given)

    return lanes(lanes, lanes), code


@_operation
def smaller(typing: Any, values: Any, others: Any) -> Any:
    """Return the smaller of two; ``others`` where ``values`` is NaN."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *given), *given)

    return lanes(lanes, lanes), code


@_operation
def total(typing: Any, values: Any) -> Any:
    """Add up all sixteen."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _FLOATS])
        function = cast("Any", cgutils).get_or_insert_function(
            builder.module, kind, f"llvm.vector.reduce.fadd.v{WIDTH}f32"
        )
        return builder.call(function, [ir.Constant(ir.FloatType(), 0.0), given[0]], fastmath=("reassoc",))

    return types.float32(lanes), code


def _times_plus(builder: Any, factor: Any, values: Any, summand: Any) -> Any:
    return builder.fadd(builder.fmul(factor, values, flags=_FUSED), summand, flags=_FUSED)


def _series(builder: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    series = _floats(coefficients[0])
    for coefficient in coefficients[1:]:
        series = _times_plus(builder, series, x, _floats(coefficient))
    return series


@_operation
def exponential(typing: Any, values: Any) -> Any:
    """Return exp(x) of x <= 0, to 2 units in the last place: 2^n * exp(r), |r| <= ln(2)/2. NaN stays NaN.

    From -87 down it is exp(-87): the sum that it goes into is 1 or more.
    """

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x = builder.select(builder.fcmp_unordered(">", given[0], _floats(_LEAST)), given[0], _floats(_LEAST))
        # Towards zero after taking off a half: rounds to nearest, as x is not positive.
        whole = builder.fptosi(_times_plus(builder, x, _floats(_LOG2E), _floats(-0.5)), _INTS)
        turns = builder.sitofp(whole, _FLOATS)
        for part in (_LN2_HIGH, _LN2_LOW):
            x = _times_plus(builder, turns, _floats(-part), x)
        series = _series(builder, x, (*_EXP, 1.0, 1.0))
        power = builder.shl(builder.add(whole, _ints(127)), _ints(23))
        return builder.fmul(series, builder.bitcast(power, _FLOATS))

    return lanes(lanes), code


@_operation
def logarithm(typing: Any, values: Any) -> Any:
    """Return log(x) of 1 <= x < 2^127, to 2 units in the last place. NaN stays NaN."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        bits = builder.bitcast(given[0], _INTS)
        power = builder.sitofp(builder.sub(builder.ashr(bits, _ints(23)), _ints(126)), _FLOATS)
        part = builder.or_(builder.and_(bits, _ints(0x7FFFFF)), _ints(0x3F000000))
        x = builder.bitcast(part, _FLOATS)  # 0.5 <= x < 1
        low = builder.fcmp_ordered("<", x, _floats(math.sqrt(0.5)))
        x = builder.fsub(builder.fadd(x, builder.select(low, x, _floats(0.0))), _floats(1.0))
        power = builder.fsub(power, builder.select(low, _floats(1.0), _floats(0.0)))
        square = builder.fmul(x, x)
        value = builder.fmul(builder.fmul(_series(builder, x, _LOG), x), square)
        value = _times_plus(builder, power, _floats(_LN2_LOW), value)
        value = _times_plus(builder, square, _floats(-0.5), value)
        value = _times_plus(builder, power, _floats(_LN2_HIGH), builder.fadd(value, x))
        no_number = builder.fcmp_unordered("uno", given[0], given[0])
        return builder.select(no_number, given[0], value)

    return lanes(lanes), code
