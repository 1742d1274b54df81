"""Hooks on a classifier's modules: which of them change what passes, and how the others outlive a conversion.

A hook that changes what passes is part of the network and is recorded with it. One that only watches must not
see a recording, whose tensors have no contents; it is laid aside and put back on what becomes of its module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

BEFORE, AFTER = "_forward_pre_hooks", "_forward_hooks"


@dataclass(frozen=True)
class Hook:
    """One hook of a module: the table it stands in (``BEFORE`` or ``AFTER``) and its key there."""

    path: str
    module: nn.Module
    table: str
    key: int
    function: Callable[..., Any]

    @property
    def takes_keywords(self) -> bool:
        """Return whether the hook is called with keyword arguments too."""
        return self.key in getattr(self.module, f"{self.table}_with_kwargs")

    def put(self, function: Callable[..., Any]) -> None:
        """Let ``function`` stand in its place."""
        getattr(self.module, self.table)[self.key] = function

    def take_off(self) -> None:
        """Remove it from its module."""
        getattr(self.module, self.table).pop(self.key, None)

    def copy_to(self, module: nn.Module) -> None:
        """Register it with another module as well."""
        if self.table == BEFORE:
            module.register_forward_pre_hook(self.function, with_kwargs=self.takes_keywords)
        else:
            module.register_forward_hook(self.function, with_kwargs=self.takes_keywords)


def hooks_of(network: nn.Module) -> list[Hook]:
    """List the forward hooks and pre-hooks of a network's modules."""
    return [
        Hook(path, module, table, key, function)
        for path, module in network.named_modules()
        for table in (BEFORE, AFTER)
        for key, function in getattr(module, table).items()
    ]


@contextmanager
def noting_changes(hooks: list[Hook]) -> Iterator[set[int]]:
    """While the network runs, note (by their places) the hooks that change what passes: tensors, or their contents."""
    changing = set[int]()

    def watched(place: int, hook: Hook) -> Callable[..., Any]:
        def call(module: nn.Module, *given: Any) -> Any:
            tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
            before = [tensor._version for tensor in tensors]
            result = hook.function(module, *given)
            if (result is not None and result is not given[-1]) or before != [tensor._version for tensor in tensors]:
                changing.add(place)
            return result

        return call

    for place, hook in enumerate(hooks):
        hook.put(watched(place, hook))
    try:
        yield changing
    finally:
        for hook in hooks:
            hook.put(hook.function)


@contextmanager
def laid_aside(hooks: list[Hook]) -> Iterator[None]:
    """Take hooks off for a while."""
    for hook in hooks:
        hook.take_off()
    try:
        yield
    finally:
        for hook in hooks:
            hook.put(hook.function)
