"""What choosing the best class adds to numba's machine vectors (``fullyconv.crf.vectors``): compare, choose, mask.

Vectors here are a power of two of lanes, 16 at most: one of LLVM's ``<n x float>`` each.
"""

from __future__ import annotations

from typing import Any, cast

from llvmlite import ir
from numba import types

from fullyconv.crf.vectors import Vector, _spread, operation

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FUSED = ("contract",)


def _vector(builder: Any, value: Any) -> Any:
    """Return the one machine vector that a ``Vector`` holds."""
    return builder.extract_value(value, 0)


def _held(context: Any, builder: Any, kind: Any, vector: Any) -> Any:
    """Wrap a machine vector as a ``Vector``."""
    return builder.insert_value(ir.Constant(context.get_value_type(kind), ir.Undefined), vector, 0)


@operation
def filled(typing: Any, value: Any, lanes: Any) -> Any:
    """Return ``len(lanes)`` times a float32."""
    kind = Vector(len(lanes))

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return _held(context, builder, kind, _spread(builder, given[0], kind.lanes))

    return kind(types.float32, lanes), code


@operation
def load_some(typing: Any, data: Any, start: Any, count: Any, missing: Any, lanes: Any) -> Any:
    """Read ``count`` values (at most ``len(lanes)``) from a pointer on, ``start`` further; the rest is ``missing``."""
    kind = Vector(len(lanes))

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        wide = kind.lanes
        vector = ir.VectorType(_FLOAT, wide)
        place = builder.bitcast(builder.gep(given[0], [given[1]]), vector.as_pointer())
        numbers = ir.Constant(ir.VectorType(_INT, wide), list(range(wide)))
        there = builder.icmp_signed("<", numbers, _spread_whole(builder, builder.trunc(given[2], _INT), wide))
        mask = ir.VectorType(ir.IntType(1), wide)
        kinds = ir.FunctionType(vector, [vector.as_pointer(), _INT, mask, vector])
        name = f"llvm.masked.load.v{wide}f32.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kinds, name)
        rest = _spread(builder, given[3], wide)
        return _held(context, builder, kind, builder.call(function, [place, ir.Constant(_INT, 4), there, rest]))

    return kind(data, types.intp, types.intp, types.float32, lanes), code


def _spread_whole(builder: Any, scalar: Any, lanes: int) -> Any:
    """Copy a 32-bit integer into every lane."""
    nothing = ir.Constant(ir.VectorType(_INT, lanes), ir.Undefined)
    one = builder.insert_element(nothing, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


@operation
def multiply_add_lanes(typing: Any, factors: Any, vector: Any, summand: Any) -> Any:
    """Return ``factors * vector + summand``, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        factors, own, other = (_vector(builder, value) for value in given)
        product = builder.fmul(factors, own, flags=_FUSED)
        return _held(context, builder, vector, builder.fadd(product, other, flags=_FUSED))

    return vector(factors, vector, summand), code


@operation
def higher(typing: Any, value: Any, best: Any) -> Any:
    """Return the larger of two, lane by lane; ``best`` where they are equal."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        own, most = (_vector(builder, each) for each in given)
        return _held(context, builder, value, builder.select(builder.fcmp_ordered(">", own, most), own, most))

    return value(value, best), code


@operation
def renamed(typing: Any, value: Any, best: Any, label: Any, labels: Any) -> Any:
    """Return ``label`` in the lanes where ``value`` is above ``best``, and ``labels`` in the others."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        own, most, others = (_vector(builder, given[place]) for place in (0, 1, 3))
        above = builder.fcmp_ordered(">", own, most)
        new = _spread(builder, given[2], value.lanes)
        return _held(context, builder, value, builder.select(above, new, others))

    return value(value, best, types.float32, labels), code


@operation
def above(typing: Any, vector: Any, scalar: Any) -> Any:
    """Return the lanes that are above a scalar, as the bits of an integer."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        bound = _spread(builder, given[1], vector.lanes)
        return _bits(builder, builder.fcmp_ordered(">", _vector(builder, given[0]), bound), vector.lanes)

    return types.int64(vector, types.float32), code


@operation
def reaching(typing: Any, vector: Any, scalar: Any) -> Any:
    """Return the lanes that are at least a scalar, as the bits of an integer."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        bound = _spread(builder, given[1], vector.lanes)
        return _bits(builder, builder.fcmp_ordered(">=", _vector(builder, given[0]), bound), vector.lanes)

    return types.int64(vector, types.float32), code


def _bits(builder: Any, mask: Any, lanes: int) -> Any:
    return builder.zext(builder.bitcast(mask, ir.IntType(lanes)), _LONG)


@operation
def lowest(typing: Any, bits: Any) -> Any:
    """Return the number of the lowest bit that is set; 64 for none."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), code


@operation
def all_zero(typing: Any, vector: Any) -> Any:
    """Return whether every lane is zero; a lane that is no number is not."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        zero = ir.Constant(ir.VectorType(_FLOAT, vector.lanes), [0.0] * vector.lanes)
        bits = _bits(builder, builder.fcmp_ordered("==", _vector(builder, given[0]), zero), vector.lanes)
        return builder.icmp_unsigned("==", bits, ir.Constant(_LONG, (1 << vector.lanes) - 1))

    return types.boolean(vector), code


@operation
def data_of(typing: Any, array: Any) -> Any:
    """Return where a contiguous array of any type begins; the caller keeps the array alive."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, given[0]).data

    return cast("Any", types).CPointer(array.dtype)(array), code


@operation
def store_labels(typing: Any, data: Any, start: Any, stride: Any, labels: Any, columns: Any) -> Any:
    """Write labels as whole numbers: each ``len(columns)`` of them ``stride`` further than those before."""
    wide = len(columns)

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        number = context.get_value_type(data.dtype)
        vector = _vector(builder, given[3])
        place = given[1]
        for row in range(labels.lanes // wide):
            lanes = ir.Constant(ir.VectorType(_INT, wide), [row * wide + column for column in range(wide)])
            own = builder.shuffle_vector(vector, vector, lanes)
            whole = builder.trunc(builder.fptosi(own, ir.VectorType(_INT, wide)), ir.VectorType(number, wide))
            target = builder.bitcast(builder.gep(given[0], [place]), whole.type.as_pointer())
            builder.store(whole, target, align=number.width // 8)
            place = builder.add(place, given[2])
        return context.get_dummy_value()

    return types.void(data, types.intp, types.intp, labels, columns), code
