"""What is known of a recorded operation: its name, its shape, where it came from, and lengths that are computed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

SHAPE, KIND, PATH, VALUE, FROZEN = "shape", "kind", "path", "value", "frozen"
"""Keys of ``node.meta``: the shape of a tensor and the type of its numbers (or those of each of several), the module
that made it, a length, and whether padding that was computed from the size is now that of the example."""


class Length(int):
    """An axis length that knows how it was computed; to everything else it is the number at the example's size."""

    _node: Callable[[], fx.Node]

    def __new__(cls, value: int, node: Callable[[], fx.Node]) -> Length:
        """Make the number ``value``; ``node`` gives its place in the graph when that is needed."""
        length = super().__new__(cls, value)
        length._node = node
        return length

    @property
    def node(self) -> fx.Node:
        """Its place in the graph."""
        made = self._node()
        made.meta[VALUE] = int(self)
        self._node = lambda: made
        return made


def _arithmetic(name: str, *, reflected: bool) -> Callable[[Length, Any], Any]:
    function, method = getattr(operator, name), getattr(int, f"__r{name}__" if reflected else f"__{name}__")

    def compute(self: Length, other: Any) -> Any:
        value = method(self, other)
        if type(value) is not int or type(other) not in (int, Length):
            return value

        def node() -> fx.Node:
            pair = (self.node, other.node if isinstance(other, Length) else int(other))
            return self.node.graph.call_function(function, pair[::-1] if reflected else pair)

        return Length(value, node)

    return compute


def _negated(self: Length) -> Length:
    return Length(-int(self), lambda: self.node.graph.call_function(operator.neg, (self.node,)))


Length.__neg__ = _negated  # type: ignore[assignment]
for _name in ("add", "sub", "mul", "floordiv", "mod", "pow", "lshift", "rshift"):
    setattr(Length, f"__{_name}__", _arithmetic(_name, reflected=False))
    setattr(Length, f"__r{_name}__", _arithmetic(_name, reflected=True))


def spelling(node: fx.Node) -> str:
    """Return the bare name by which a node calls its operation; "" for a module.

    In place or not, function, method or operator: ``add_``, ``__iadd__`` and ``__add__`` are "add", "iadd" and "add".
    An attribute that is a tensor (``x.mT``) has that attribute's name, and PyTorch's rooms are not part of a name
    (``torch.special.softmax``).
    """
    if node.op not in ("call_function", "call_method"):
        return ""
    target: Any = node.target
    if target is getattr:
        return str(node.args[1])
    name: str = target if isinstance(target, str) else target.__name__
    return name.strip("_").removeprefix("special_").removeprefix("linalg_")
