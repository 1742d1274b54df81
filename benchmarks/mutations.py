"""What `make mutants` changes: one operator, number, condition or statement of a module, as cosmic-ray does."""

from __future__ import annotations

import ast
import gc
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType

import parso.python.tree
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ARITHMETIC = {
    "Add": ("Sub",), "Sub": ("Add",), "Mul": ("Div", "Add"), "Div": ("Mul", "FloorDiv"), "FloorDiv": ("Div", "Mul"),
    "Mod": ("FloorDiv",), "Pow": ("Mul",), "BitOr": ("BitAnd",), "BitAnd": ("BitOr",), "BitXor": ("BitOr",),
    "LShift": ("RShift",), "RShift": ("LShift",),
}  # fmt: skip
"""What an operator is replaced by: cosmic-ray's other replacements (% for +, ...) die of the first test."""


class DropStatement(Operator):
    """Leave out a call, an assignment in place or a raise; cosmic-ray has nothing of the kind."""

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Find statements whose absence leaves a module that can be compiled."""
        if node.type != "simple_stmt":
            return
        (statement, *_) = node.children
        in_place = statement.type == "expr_stmt" and statement.children[1].type in ("annassign", "operator")
        in_place = in_place and str(getattr(statement.children[1], "value", "=")) != "="
        called = statement.type == "atom_expr" or in_place
        if called or statement.type == "raise_stmt" or getattr(statement, "value", "") == "raise":
            yield node.start_pos, node.end_pos

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        """Put ``pass`` in the statement's place."""
        first = node.get_first_leaf()
        node.children[0] = parso.python.tree.Keyword("pass", first.start_pos, first.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """Return none: cosmic-ray tests its own operators by them."""
        return ()


@dataclass(frozen=True)
class Mutant:
    """A changed module: where, what the line reads now, the whole source."""

    line: int
    before: str
    after: str
    code: CodeType


def operators() -> Iterator[Operator]:
    """Choose cosmic-ray's operators that make sense here, and ours."""
    for name in operator_names():
        kind = name.removeprefix("core/")
        if kind.startswith("ReplaceBinaryOperator_"):
            _, old, new = kind.split("_")
            chosen = new in ARITHMETIC.get(old, ())
        elif kind.startswith("ReplaceComparisonOperator_"):
            _, old, new = kind.split("_")
            chosen = (old in ("Is", "IsNot")) == (new in ("Is", "IsNot"))
        else:
            chosen = kind not in ("VariableReplacer", "VariableInserter", "NoOp", "ReplaceUnaryOperator_USub_Not")
        if chosen:
            yield get_operator(name)()
    yield DropStatement()


def mutants(path: Path, *, most: int | None = None) -> tuple[list[Mutant], int]:
    """Make mutants of a module that differ from it in what it does; annotations and docstrings do nothing.

    Gives all of them, or ``most`` drawn at random (seed 0), and in how many places something can be changed.
    """
    source = path.read_text()
    nodes, tree = list(ast_nodes(get_ast(source))), pickle.dumps(get_ast(source))
    places = [
        (operator, place)
        for operator in operators()
        for place in range(sum(sum(1 for _ in operator.mutation_positions(node)) for node in nodes))
    ]
    random.Random(0).shuffle(places)
    seen, found = {_meaning(source)}, []
    for operator, place in places:
        mutant = _mutant(path, source, MutationVisitor(place, operator).walk(pickle.loads(tree)).get_code(), seen)
        if mutant is not None:
            found.append(mutant)
        if len(found) == most:
            break
    return sorted(found, key=lambda mutant: (mutant.line, mutant.after)), len(places)


def _mutant(path: Path, source: str, changed: str, seen: set[str]) -> Mutant | None:
    try:
        meaning, code = _meaning(changed), compile(changed, str(path), "exec")
    except (SyntaxError, ValueError):
        return None
    if meaning in seen:
        return None
    seen.add(meaning)
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return None if _style(before, after) else Mutant(line, before.strip(), after.strip(), code)


def _style(before: str, after: str) -> bool:
    """Return whether a change is one of what callers may do (assign fields, pass by position), not of a value."""
    return before.startswith("@dataclass(") or (", *, " in before and ", /, " in after)


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


Key = tuple[str, str, int]
"""A function: its file, its qualified name and its first line."""


def key_of(code: CodeType) -> Key:
    """Return what tells a function from all others."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def functions_of(code: CodeType) -> Iterator[tuple[Key, CodeType]]:
    """List the outermost functions of a module's code; what lies in a function belongs to it."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_flags & CO_OPTIMIZED:
            yield key_of(constant), constant
        elif isinstance(constant, CodeType):
            yield from functions_of(constant)


def shape_of(code: CodeType, *, deep: bool) -> tuple[object, ...]:
    """Return what a code does; that of the functions in it only if ``deep``."""

    def shallow(constant: object) -> object:
        if not isinstance(constant, CodeType):
            return type(constant).__name__, repr(constant)
        return shape_of(constant, deep=deep) if deep or not constant.co_flags & CO_OPTIMIZED else "function"

    return code.co_code, code.co_names, code.co_varnames, tuple(map(shallow, code.co_consts))


def changed_function(original: CodeType, mutant: CodeType) -> Key | None:
    """Return the one function whose code a mutant changes; ``None`` where it changes what importing the module does."""
    if shape_of(original, deep=False) != shape_of(mutant, deep=False):
        return None
    pairs = zip(functions_of(original), functions_of(mutant), strict=True)
    return next(key for (key, one), (_, other) in pairs if shape_of(one, deep=True) != shape_of(other, deep=True))


def makes_the_change(key: Key, original: CodeType, mutant: CodeType) -> bool:
    """Return whether a function stays as it is and only those that it makes change."""
    one, other = (next(code for name, code in functions_of(module) if name == key) for module in (original, mutant))
    return shape_of(one, deep=False) == shape_of(other, deep=False)


def swap(key: Key, mutant: CodeType) -> bool:
    """Put a mutant's code into a function, and into the functions it has made; returns whether that was possible."""
    replacing = dict(_nested(next(code for name, code in functions_of(mutant) if name == key)))
    for function in gc.get_objects():
        new = replacing.get(key_of(function.__code__)) if isinstance(function, FunctionType) else None
        if new is not None:
            if function.__code__.co_freevars != new.co_freevars:
                return False
            function.__code__ = new
    return True


def _nested(code: CodeType) -> Iterator[tuple[Key, CodeType]]:
    yield key_of(code), code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
