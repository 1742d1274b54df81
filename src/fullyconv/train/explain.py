"""What the keys of a recipe mean, from the words beside them."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any, cast

from pydantic import BaseModel


def explain(kind: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Return each key of a recipe with its default, as ``--set`` takes it, and what it means.

    >>> from fullyconv.train.recipe import Recipe
    >>> [(key, default) for key, default, _ in explain(Recipe) if key in ("crop", "minutes", "flip")]
    [('crop', '[320,320]'), ('flip', 'true'), ('minutes', 'null')]
    """
    said: dict[str, str] = {}
    for each in kind.__mro__[::-1]:
        if issubclass(each, BaseModel) and each is not BaseModel:
            said |= _words(each)
    return [
        (key, _as_written(field.get_default(call_default_factory=True)), said.get(key, ""))
        for key, field in kind.model_fields.items()
    ]


def _words(kind: type[BaseModel]) -> dict[str, str]:
    """Read the text below each field of a class."""
    body = cast("ast.ClassDef", ast.parse(inspect.getsource(kind)).body[0]).body
    said = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            said[field.target.id] = " ".join(str(ast.literal_eval(below.value)).replace("``", "").split())
    return said


def _as_written(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_as_written, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
