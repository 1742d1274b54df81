"""The shapes of operations that were written into a recorded network later, without recording it once more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fullyconv.machine import evaluating
from fullyconv.trace.nodes import KIND, SHAPE, VALUE
from fullyconv.trace.recorder import Recorder


class _Completion(fx.Interpreter):
    """Runs what has no shape yet on tensors of the shapes that are known."""

    def __init__(self, recorded: fx.GraphModule, recorder: Recorder) -> None:
        super().__init__(recorded)
        self._recorder = recorder
        recorder.paused = True

    def run_node(self, n: fx.Node) -> Any:
        """Return a stand-in for a node's result, or find the shape of what it gives."""
        if n.op == "output":
            return None
        if VALUE in n.meta:
            return n.meta[VALUE]
        if SHAPE not in n.meta:
            result = super().run_node(n)
            n.meta[SHAPE], n.meta[KIND] = tuple(map(int, result.shape)), result.dtype
            return result
        shapes, kinds = n.meta[SHAPE], n.meta[KIND]
        if isinstance(shapes, list):
            pairs = zip(shapes, kinds, strict=True)
            return [None if shape is None else _stand_in(shape, kind) for shape, kind in pairs]
        return _stand_in(shapes, kinds)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Find what a layer gives."""
        layer = self.fetch_attr(target)
        return self._recorder.run(layer, layer.forward, args, kwargs)


def _stand_in(shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=kind, device="meta")


def complete(recorded: fx.GraphModule) -> None:
    """Find the shapes of the operations that were written into a recorded network since: ``meta`` has them then.

    Args:
        recorded: What ``record`` made, with further operations in its graph; is changed in place.

    >>> from torch import nn
    >>> from fullyconv.trace import record
    >>> recorded = record(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 16, 16))
    >>> layer = next(node for node in recorded.graph.nodes if node.op == "call_module")
    >>> with recorded.graph.inserting_after(layer):
    ...     added = recorded.graph.call_function(torch.relu, (layer,))
    >>> complete(recorded)
    >>> added.meta[SHAPE] == layer.meta[SHAPE]
    True
    """
    recorder = Recorder(recorded)
    with evaluating(recorded, kept=True), recorder:
        _Completion(recorded, recorder).run(None)
