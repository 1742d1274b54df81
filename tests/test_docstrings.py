"""What is public says what it takes, what comes back, what it refuses, and shows it by an example that runs."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest

import fullyconv

SOURCE = Path(fullyconv.__file__).parent
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)


def rooms() -> Iterator[ModuleType]:
    """The package and every subpackage with an ``__all__``."""
    for file in sorted(SOURCE.rglob("__init__.py")):
        name = ".".join(["fullyconv", *file.parent.relative_to(SOURCE).parts])
        if "__all__" in file.read_text():
            yield import_module(name)


def public() -> dict[str, Any]:
    """Every public function and class, by the name of its home."""
    found = {}
    for room in rooms():
        for name in room.__all__:
            thing = getattr(room, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


PUBLIC = public()


def methods(thing: type) -> dict[str, Any]:
    """The public methods that a class defines, itself or in a class of ours that it extends."""
    ours = [each for each in reversed(thing.__mro__) if each.__module__.startswith("fullyconv")]
    return {
        name: inspect.unwrap(getattr(each, "__func__", each))
        for place in ours
        for name, each in vars(place).items()
        if not name.startswith("_") and (inspect.isfunction(each) or isinstance(each, classmethod | staticmethod))
    }


def entries(text: str, section: str) -> list[str]:
    """The names that a section of a docstring describes."""
    parts = SECTION.split(text)
    body = dict(zip(parts[1::2], parts[2::2], strict=True)).get(section, "")
    return re.findall(r"^    (\*{0,2}\w[\w, ]*?):", body, re.MULTILINE)


def described(thing: Any, section: str = "Args") -> set[str]:
    names = entries(inspect.getdoc(thing) or "", section)
    return {name.strip().lstrip("*") for entry in names for name in entry.split(",")}


def parameters(function: Any) -> set[str]:
    return {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}


def raised(function: Any) -> set[str]:
    """The exceptions that a function's own lines raise by name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    names = [call.func if isinstance(call, ast.Call) else call for call in calls]
    return {name.id for name in names if isinstance(name, ast.Name) and name.id[0].isupper()}


def complaints(name: str, function: Any) -> Iterator[str]:
    """Yield what a function's docstring leaves out."""
    text = inspect.getdoc(function) or ""
    missing = parameters(function) - described(function)
    if missing:
        yield f"{name}: Args says nothing of {', '.join(sorted(missing))}"
    extra = described(function) - parameters(function)
    if extra:
        yield f"{name}: Args describes {', '.join(sorted(extra))}, which it does not take"
    returns = inspect.signature(function).return_annotation
    if returns not in (None, "None", inspect.Signature.empty) and not re.search(r"^(Returns|Yields):$", text, re.M):
        yield f"{name}: no Returns"
    unsaid = raised(function) - described(function, "Raises")
    if unsaid:
        yield f"{name}: Raises says nothing of {', '.join(sorted(unsaid))}"


def beside(thing: type) -> set[str]:
    """The fields that are described by a string below them, here or in a class that this one extends."""
    found = set()
    for each in thing.__mro__[:-1]:
        if not each.__module__.startswith("fullyconv"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            said = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and said:
                found.add(field.target.id)
    return found


def class_complaints(name: str, thing: type) -> Iterator[str]:
    text = inspect.getdoc(thing) or ""
    if issubclass(thing, Exception):
        return
    fields = getattr(thing, "model_fields", None) or getattr(thing, "__dataclass_fields__", None)
    wanted = set(fields) if fields is not None else parameters(thing.__init__)  # type: ignore[misc]
    missing = wanted - described(thing, "Args") - described(thing, "Attributes") - beside(thing)
    if missing:
        yield f"{name}: neither Args nor Attributes describe {', '.join(sorted(missing))}"
    if not text:
        yield f"{name}: no docstring"
    for each, method in methods(thing).items():
        yield from complaints(f"{name}.{each}", method)


@pytest.mark.parametrize("name", PUBLIC)
def test_it_says_what_it_takes_and_gives(name: str) -> None:
    thing = PUBLIC[name]
    found = list(class_complaints(name, thing) if inspect.isclass(thing) else complaints(name, thing))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_an_example(name: str) -> None:
    thing = PUBLIC[name]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    texts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        texts += [inspect.getdoc(method) or "" for method in methods(thing).values()]
    assert any(">>> " in text for text in texts), f"{name} has no example"


def test_it_looks_at_what_is_public() -> None:
    assert {"fullyconv.networks.build", "fullyconv.checkpoint.save", "fullyconv.crf.dense.dense_crf"} <= PUBLIC.keys()
    assert get_origin(list[int]) is list
    assert raised(raised) == set()
    assert "ValueError" in raised(fullyconv.build)
