"""What computes a network's score maps: one small interface, and PyTorch's form of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter, is_
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.machine import Arithmetic, EngineName
from fullyconv.networks.fcn import FCN
from fullyconv.predict.carry import Flow
from fullyconv.predict.packed import flowing, pack
from fullyconv.types import Preprocess

CPU = torch.device("cpu")
Sides = tuple[int, int, int, int]
_version = attrgetter("_version")
SAMPLES = 16  # of a tensor; 0.02 ms for all of a compact network's
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


class Engine(Protocol):
    """Computes the score maps of one network; many threads may ask at once."""

    @property
    def name(self) -> str:
        """``pytorch`` or ``openvino``."""
        ...

    @property
    def precision(self) -> str:
        """The arithmetic it computes in: ``float32``, ``bfloat16`` or ``int8``."""
        ...

    def score_maps(self, pixels: np.ndarray) -> list[Tensor]:
        """Score the maps of pictures, each at its own resolution.

        Args:
            pixels: N x H x W x K: uint8 pictures, or numbers for networks of other channels. They are normalised here.

        Returns:
            One N x C x h x w float32 tensor per map, coarse to fine; of a network of several tasks one task's maps
            behind the other's, as ``FCN.every_scored`` has them.

        Raises:
            ValueError: For pictures of other channels or smaller than the network's ``smallest_input``.
        """
        ...

    def bands(self) -> Bands | None:
        """Return the network for pictures that come in bands of rows; ``None`` where it takes whole pictures alone.

        Raises:
            NotStreamed: For a network that sees the whole picture, or otherwise cannot be computed in bands.
        """
        ...


class Bands(Protocol):
    """Computes the score maps of pictures that come in bands of rows; many threads may ask at once."""

    @property
    def align(self) -> int:
        """Of how many rows of the padded picture each band but the last is a multiple."""
        ...

    @property
    def first(self) -> int:
        """The fewest rows of the first band of a padded picture. The last one has at least ``align``."""
        ...

    def maps(self, rows: np.ndarray, flow: Flow, sides: Sides) -> list[Tensor]:
        """Score what the rows that have come allow.

        Args:
            rows: N x h x W x K new rows of pictures, as ``Engine.score_maps`` takes pictures.
            flow: Of these pictures.
            sides: The zeros around the rows: left, right, above the first and below the last.

        Returns:
            One N x C x h x w float32 tensor of new rows per map, in the order of ``Engine.score_maps``.
        """
        ...


class Snapshot:
    """What a network consisted of at one time: its modules, its tensors, and what those held.

    Changes in place are told by PyTorch's own count of them. It does not count those made by way of ``tensor.data``: so
    ``SAMPLES`` numbers of every tensor, evenly spread, are compared as well.
    """

    def __init__(self, network: nn.Module) -> None:
        self._root = network
        self._tables: list[dict[str, Any]] = [
            table for part in network.modules() for table in (part._modules, part._parameters, part._buffers)
        ]
        self._entries = _entries(self._tables)
        self._tensors = list({id(each): each for each in self._entries if isinstance(each, Tensor)}.values())
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._states = self._now()
        self._samples = [_samples(tensor) for tensor in self._tensors if tensor.numel()]
        self._sampled = _read(self._samples)

    def holds(self, network: nn.Module) -> bool:
        """Return whether the network still consists of that."""
        entries = _entries(self._tables)
        return (
            network is self._root
            and len(entries) == len(self._entries)
            and all(map(is_, entries, self._entries))
            and self._now() == self._states
            and _read(self._samples) == self._sampled
        )

    def _now(self) -> list[Any]:
        # Without a line of Python for each tensor, for this is done at every prediction.
        return [
            *map(_version, self._counting),
            *map(Tensor.data_ptr, self._tensors),
            *map(Tensor.numel, self._tensors),
            *map(Tensor.stride, self._tensors),
        ]


def _entries(tables: Sequence[dict[str, Any]]) -> list[Any]:
    return [*chain.from_iterable(map(dict.values, tables))]


def _samples(tensor: Tensor) -> Tensor | np.ndarray:
    """Return a view of a tensor's samples as whole numbers, for NaN is equal to nothing."""
    bits = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = bits.view(WHOLE[bits.element_size()])
    span = 1 + sum((side - 1) * stride for side, stride in zip(bits.shape, bits.stride(), strict=True))
    step = -(-span // SAMPLES)
    bits = bits.as_strided((-(-span // step),), (step,), bits.storage_offset())
    return bits.numpy() if bits.device.type == "cpu" else bits


def _read(samples: Sequence[Tensor | np.ndarray]) -> bytes:
    """Read views of one device; NumPy joins small ones five times faster than PyTorch."""
    here = [each for each in samples if isinstance(each, np.ndarray)]
    there = [each.long() for each in samples if isinstance(each, Tensor)]
    found = np.concatenate(here).tobytes() if here else b""
    return found + torch.cat(there).cpu().numpy().tobytes() if there else found


@dataclass(frozen=True)
class Choice:
    """What computes a network's score maps, and how.

    Attributes:
        precision: The arithmetic; ``auto`` is float32.
        engine: ``pytorch``, ``openvino``, or ``auto``: OpenVINO where it is installed, on x86 CPUs, as soon as there
            has been work enough to repay its preparation (``openvino_engine.Growing``), else PyTorch.
        device: Where.
        folder: The model's folder, for int8.
        soon: Whether much work is to come, so that ``auto`` waits for a picture of some size only.
    """

    precision: Arithmetic = "auto"
    engine: EngineName = "auto"
    device: torch.device = CPU
    soon: bool = False
    folder: Path | None = None


def make_engine(network: FCN, preprocess: Preprocess | None, choice: Choice) -> Engine:
    """Prepare a network for prediction.

    Args:
        network: A network in evaluation mode that nobody else changes (``fullyconv.machine.frozen``).
        preprocess: Its normalisation; ``None`` for pixels that are normalised already.
        choice: What computes, and how.

    Returns:
        The engine.

    Raises:
        ValueError: For an engine or a precision that is not there.
    """
    from fullyconv.predict import openvino_engine

    if choice.engine not in get_args(EngineName):
        raise ValueError(f"engine is auto, pytorch or openvino, not {choice.engine!r}")
    if choice.precision == "int8":
        if choice.engine == "pytorch" or choice.device.type != "cpu":
            raise ValueError("precision int8 is OpenVINO's alone, on the CPU: take float32 or bfloat16")
        return openvino_engine.OpenVINOEngine(network, preprocess, "int8", folder=choice.folder)
    pytorch = partial(PyTorchEngine, network, preprocess, choice.precision, choice.device)
    prepare = partial(openvino_engine.OpenVINOEngine, network, preprocess, choice.precision)
    if choice.engine == "openvino":
        if choice.device.type != "cpu":
            raise ValueError(f"engine 'openvino' computes on the CPU, not on {choice.device}: take device='cpu'")
        return cast("Engine", openvino_engine.prepared_or(pytorch, prepare))
    if choice.engine == "auto" and openvino_engine.pays(network, choice.device):
        worth = openvino_engine.WORTH_SOON if choice.soon else openvino_engine.WORTH
        return openvino_engine.Growing(network, pytorch, prepare, worth)
    return pytorch()


class PyTorchEngine:
    """PyTorch's operations, one after the other.

    Args:
        network: A network in evaluation mode that nobody else changes.
        preprocess: Its normalisation; ``None`` for pixels that are normalised already.
        precision: ``float32`` (of a network in float64: that), ``bfloat16``, or ``auto``: float32.
        device: Where its weights are.

    >>> from fullyconv.networks import build
    >>> engine = PyTorchEngine(build("fcn16s-resnet18", 2).eval(), Preprocess())
    >>> [tuple(each.shape) for each in engine.score_maps(np.zeros((1, 64, 32, 3), np.uint8))]
    [(1, 2, 2, 1), (1, 2, 4, 2)]
    """

    name = "pytorch"

    def __init__(
        self,
        network: FCN,
        preprocess: Preprocess | None,
        precision: Arithmetic = "auto",
        device: torch.device | None = None,
    ) -> None:
        self.network, self.preprocess = network, preprocess
        self.precision = "bfloat16" if precision == "bfloat16" else "float32"
        self.device = device or torch.device("cpu")
        self.kind = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        if preprocess is not None:
            scale = 1 / torch.tensor(preprocess.std, device=self.device)
            self._line = scale, -torch.tensor(preprocess.mean, device=self.device) * scale
            swapped = [2, 1, 0, *range(3, len(preprocess.mean))]
            self._order = swapped if preprocess.order == "BGR" else None
        self.packed = pack(network, self.kind) if self.device.type == "cpu" else None
        double = next(network.parameters()).dtype == torch.float64
        self._laid = self.packed is not None or not double  # whether pixels are normalised where they are computed
        self._bands: PyTorchBands | None = None

    def bands(self) -> Bands:
        """Return the network for pictures that come in bands of rows; see ``Engine``."""
        if self._bands is None:
            self._bands = PyTorchBands(self)
        return self._bands

    def score_maps(self, pixels: np.ndarray) -> list[Tensor]:
        """Score the maps of N x H x W x K pixels; see ``Engine``."""
        short = self.kind == torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=short):
            image = self.laid(pixels)
            self.network.check(image)
            maps = (self.packed or self.network.every_scored)(self.network.padded(image))
        return [each if each.dtype == torch.float64 else each.float() for each in maps]

    def laid(self, pixels: np.ndarray) -> Tensor:
        """Normalise N x H x W x K to N x K x H x W, on the device."""
        return self.channels_last(pixels) if self._laid else self.normalised(pixels)

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Normalise as ``Preprocess`` does, before the device has them."""
        if self.preprocess is None:
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        else:
            batch = torch.from_numpy(np.stack([self.preprocess(each) for each in pixels]))
        like = next(self.network.parameters())
        return batch.to(self.device, like.dtype).contiguous(memory_format=torch.channels_last)

    def channels_last(self, pixels: np.ndarray) -> Tensor:
        """Normalise in the order in which pixels and the packed network's maps lie in memory."""
        if self.preprocess is None:
            laid = np.ascontiguousarray(pixels)
            return torch.from_numpy(laid).permute(0, 3, 1, 2).to(self.device, self.kind)
        scale, shift = self._line
        pictures, height, width, channels = pixels.shape
        ordered = np.require(pixels if self._order is None else pixels[..., self._order], requirements=["C", "W"])
        lines = torch.from_numpy(ordered).view(pictures * height, width * channels).to(self.device).to(torch.float32)
        lines = torch.addcmul(shift.repeat(width), lines, scale.repeat(width)).to(self.kind)
        return lines.view(pictures, height, width, channels).permute(0, 3, 1, 2)


class PyTorchBands:
    """PyTorch's operations on bands of rows; see ``Bands``."""

    def __init__(self, engine: PyTorchEngine) -> None:
        self._engine, self._streamed = engine, flowing(engine.network, engine.kind)
        self.align, self.first = self._streamed.align, self._streamed.first

    def maps(self, rows: np.ndarray, flow: Flow, sides: Sides) -> list[Tensor]:
        """Score what the rows that have come allow."""
        engine = self._engine
        short = engine.kind == torch.bfloat16
        with torch.inference_mode(), torch.autocast(engine.device.type, torch.bfloat16, enabled=short):
            image = engine.laid(rows)
            del rows  # which may be as large as all maps, where pixels are spectra
            image = functional.pad(image, sides) if any(sides) else image
            maps = self._streamed.graph(image, flow)
        return [each if each.dtype == torch.float64 else each.float() for each in maps]
