"""A network's operations as a graph, recorded by running it once on a picture without contents.

Shape arithmetic is recorded too, so that the graph runs at other sizes; what Python decided on the way
(branches, loop counts) stays as it was at the example's size. Nothing is computed: tensors have no contents.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fullyconv.trace.nodes import FROZEN, KIND, PATH, SHAPE, Length
from fullyconv.trace.operations import BY_CLASS, Operation, row_of
from fullyconv.trace.positions import Given, NotFollowed
from fullyconv.trace.windows import SlidingWindow

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one step of the graph: PyTorch's own, batch normalisation, noise of training."""
    if isinstance(module, (*CONTAINERS, fx.GraphModule)):
        return False
    kind = type(module)
    ours = isinstance(module, _BatchNorm | SlidingWindow | nn.MaxUnpool2d) or kind.__name__ in BY_CLASS
    return ours or kind.__module__.startswith("torch.nn.modules")


class Recorder(TorchFunctionMode):
    """Writes down every call of a function on tensors."""

    def __init__(self, network: nn.Module, *, hooks: bool = False) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.hooks = hooks
        self.hooked: dict[str, nn.Module] = {}  # layers whose hooks are written down as operations of their own
        self.names = {id(module): name for name, module in network.named_modules(remove_duplicate=False)}
        self.parameters = dict(network.named_parameters()) | dict(network.named_buffers())
        self.attributes = {id(tensor): name for name, tensor in self.parameters.items()}
        self.constants: dict[str, Tensor] = {}
        self.device = next((tensor.device for tensor in self.parameters.values()), torch.device("cpu"))
        self.outlines: dict[int, tuple[Tensor, Tensor]] = {}  # of tensors with contents
        self.nodes: dict[int, fx.Node] = {}
        self.kept: list[Tensor] = []  # an id stands for a tensor only as long as that lives
        self.inside: list[str] = []
        self.failed = self.called = ""
        self.replayed: str | None = None
        self.paused = False

    def bind(self, value: Any, node: fx.Node) -> None:
        """Remember which node gave a tensor, or each of several."""
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
            self.kept.append(value)
            node.meta[SHAPE], node.meta[KIND] = tuple(map(int, value.shape)), value.dtype
        elif isinstance(value, tuple | list):
            node.meta[SHAPE] = [tuple(map(int, each.shape)) if isinstance(each, Tensor) else None for each in value]
            node.meta[KIND] = [getattr(each, "dtype", None) for each in value]
            for index, each in enumerate(value):
                if isinstance(each, Tensor):
                    self.bind(each, self._emit("call_function", operator.getitem, (node, index), {}))

    def _emit(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs)
        node.meta[PATH] = self.inside[-1] if self.inside else ""
        return node

    def _outline(self, value: Any) -> Any:
        """Replace a tensor by one of its shape without contents: nothing is computed."""
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return value
        if id(value) not in self.outlines:
            self.outlines[id(value)] = value, value.detach().to("meta")
        return self.outlines[id(value)][1]

    def _given(self, value: Any) -> Any:
        """Replace tensors and lengths by their nodes."""
        if isinstance(value, Length):
            return value.node
        if value == torch.device("meta"):  # where the recording takes place
            return self.device
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, slice):
            return slice(self._given(value.start), self._given(value.stop), self._given(value.step))
        return value

    def node_of(self, tensor: Tensor) -> fx.Node:
        """Return the node that gave a tensor; one that a module holds without having registered it is a constant."""
        if id(tensor) not in self.nodes:
            name = self.attributes.get(id(tensor))
            if name is None:
                name = f"_constant{len(self.constants)}"
                self.constants[name] = tensor
            node = self.graph.create_node("get_attr", name)
            self.bind(tensor, node)
        return self.nodes[id(tensor)]

    def record(self, kind: str, target: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Write down one call and bind what it gave."""
        if not isinstance(result, Tensor | tuple | list):
            return
        args, kwargs = (tree_map(self._given, each) for each in (tuple(args), dict(kwargs)))
        self.bind(result, self._emit(kind, target, args, kwargs))

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function on tensors and write it down."""
        kwargs = kwargs or {}
        self.called = name = getattr(func, "__name__", "")
        if name == "__get__":
            result = func(*args)
            return result if self.paused else self._property(func.__self__.__name__, args[0], result)
        if self.paused:
            return func(*tree_map(self._outline, args), **tree_map(self._outline, kwargs))
        result = _joined(name, args, kwargs)
        if result is None:
            result = func(*tree_map(self._outline, args), **tree_map(self._outline, kwargs))
        if name in ("size", "numel", "__len__") and isinstance(args[0], Tensor):
            return self._measured(name, args[0], result, *args[1:], **kwargs)
        if name == "__setitem__":
            where = self.inside[-1] if self.inside else ""
            raise NotFollowed(f"{where}: writing into part of a tensor is not followed: build the tensor with cat")
        if _is_method(func):
            self.record("call_method", name, args, kwargs, result)
        else:
            self.record("call_function", func, args, kwargs, result)
        return result

    def _property(self, name: str, tensor: Tensor, value: Any) -> Any:
        if name == "shape":
            return self._measured("size", tensor, value)
        if isinstance(value, Tensor):
            self.record("call_function", getattr, (tensor, name), {}, value)
        return value

    def _measured(self, name: str, tensor: Tensor, value: Any, dim: int | None = None) -> Any:
        """Return lengths that know where they come from."""
        if id(tensor) not in self.nodes:
            return value
        node = self.nodes[id(tensor)]

        def length(number: int, method: str, *args: int) -> Length:
            return Length(number, lambda: self.graph.call_method(method, (node, *args)))

        if name == "size" and dim is None:
            return torch.Size([length(number, "size", axis) for axis, number in enumerate(value)])
        return length(value, "size", dim) if dim is not None else length(value, name)

    def _layer(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write down a layer; with its hooks, if those are asked for, as they run around it."""
        if not self.hooks or not (module._forward_hooks or module._forward_pre_hooks):
            return self._step(name, module, module.forward, args, kwargs)
        self.hooked[name] = module
        own, forward = vars(module).get("forward"), module.forward
        module.forward = lambda *given, **named: self._step(name, module, forward, given, named)
        try:
            return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            del module.forward
            if own is not None:
                module.forward = own

    def _step(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = self.run(module, forward, args, kwargs)
        self.record("call_module", name, args, kwargs, result)
        return result

    def run(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run a layer, or say what it would give: PyTorch takes a second to load what shapes without contents need."""
        self.paused = True
        try:
            row = row_of(module)
            if row is not None and len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
                if getattr(module, "inplace", False) and row.unitwise:
                    return args[0]
                shape = _shape(row, module, tuple(args[0].shape))
                if shape is not None:
                    return torch.empty(shape, dtype=args[0].dtype, device="meta")
            return forward(*args, **kwargs)
        finally:
            self.paused = False

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """See calls of modules too.

        ``nn.Module.__call__`` itself is exchanged for the time of the recording, under a lock: hooks would leave the
        user's modules changed if anything fails, could not answer in a layer's place (its result is known without
        running it), and do not see which call a function belongs to. ``torch.export`` takes seconds for a network of
        this size instead of a tenth, writes PyTorch's inner operators instead of the layers whose names and
        parameters a conversion must keep, and refuses shapes that Python computes; ``fx.symbolic_trace`` refuses
        every branch on a shape.
        """
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            name = self.names.get(id(module))
            if self.paused or name is None:
                return original(module, *args, **kwargs)
            self.inside.append(name if self.replayed is None else self.replayed)
            try:
                if isinstance(module, fx.GraphModule):
                    return _Replay(module, self).run(*args)
                if not is_leaf(module):
                    return original(module, *args, **kwargs)
                return self._layer(name, module, args, kwargs)
            except Exception:
                self.failed = self.failed or name
                raise
            finally:
                self.inside.pop()

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]


class _Replay(fx.Interpreter):
    """Runs what was recorded before, and keeps what is known of its operations."""

    def __init__(self, module: fx.GraphModule, recorder: Recorder) -> None:
        super().__init__(module)
        self._recorder = recorder

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation under the path of the module that it once came from."""
        before, self._recorder.replayed = self._recorder.replayed, str(n.meta.get(PATH, ""))
        self._recorder.inside.append(self._recorder.replayed)
        try:
            result = super().run_node(n)
        finally:
            self._recorder.inside.pop()
            self._recorder.replayed = before
        if n.meta.get(FROZEN):
            next(reversed(self._recorder.graph.nodes)).meta[FROZEN] = True
        return result


def _shape(row: Operation, layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of a layer's result over N x C x H x W without running it; ``None`` where that is not known."""
    if row.unitwise:
        return shape
    frame = row.frame(Given((), {}, layer)) if row.frame is not None else None
    if len(shape) != 4 or frame is None or getattr(layer, "return_indices", False):
        return None
    channels = getattr(layer, "in_channels", shape[1])
    sizes = tuple(frame.along(axis).size(shape[2 + axis]) for axis in (0, 1))
    if channels != shape[1] or min(sizes) < 1:
        return None  # running the layer gives the error in PyTorch's words
    return shape[0], int(getattr(layer, "out_channels", shape[1])), *sizes


def _joined(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the result of a sum of two maps of one shape, or of their concatenation along channels; else ``None``."""
    if name in ("add", "__add__") and len(args) == 2 and not kwargs:
        first, second = args
        if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
            return torch.empty(first.shape, dtype=first.dtype, device="meta")
    if name == "cat" and (args[1:] == (1,) or kwargs == {"dim": 1}):
        shapes = [tuple(each.shape) for each in args[0]]
        if len({(shape[0], *shape[2:]) for shape in shapes}) == 1:
            channels = sum(shape[1] for shape in shapes)
            return torch.empty((shapes[0][0], channels, *shapes[0][2:]), dtype=args[0][0].dtype, device="meta")
    return None


def _is_method(func: Any) -> bool:
    descriptors = (types.MethodDescriptorType, types.WrapperDescriptorType)
    return isinstance(func, descriptors) or getattr(func, "__qualname__", "").startswith(("Tensor.", "TensorBase."))
