"""OpenVINO as the engine: the network compiled for this machine's CPU, for images of every size."""

from __future__ import annotations

import platform
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.files import BadFile
from fullyconv.machine import Arithmetic, fast_bf16
from fullyconv.networks.fcn import FCN
from fullyconv.openvino import import_openvino
from fullyconv.predict.bands import map_sizes
from fullyconv.predict.engines import Bands, PyTorchEngine
from fullyconv.predict.openvino_graph import (
    fixed_graph,
    interpolate,
    make_graph,
    reads_bytes,
    round_first_weights,
)
from fullyconv.predict.quantised import quantised_graph
from fullyconv.types import Preprocess

KEPT = 1000
"""Compiled operations of past sizes that are kept, the latest: those of about 25 sizes of a network of 40 layers, 1 to
2 MB per size. (OpenVINO's own bound is 5000.)"""
EXACT, SHORT = 1e-4, 0.2  # of a map's largest score: how far rounding may carry, in float32 and in bfloat16
WORTH = 1e13
"""Weights times pixels after which converting (0.3 to 1.2 s) has been repaid: about five pictures of a compact net."""
WORTH_SOON = 2e11
"""The same where many images are to follow: the first one that is no miniature."""


REPEATED, FIXED = 3, 4
"""How often a size comes before the graph is compiled for it alone (0.1 s), and the most sizes that are."""
LIGHT = 1 << 24  # weights of networks for which that is done: the others gain 1 % and would hold their weights again


class Refused(ValueError):
    """A network that this engine does not compute as PyTorch does."""


class OpenVINOEngine:
    """A network compiled by OpenVINO: about twice as fast as PyTorch's operations one by one.

    Its shapes are free, so that another size costs no compilation (measured: within 2 % of fixed shapes at float32,
    8 % at bfloat16 on a small network). Small networks are compiled for a few sizes that come again and again, too.
    Before it is used it computes two images of odd sizes, which must give PyTorch's scores within rounding. Many
    threads may use it.

    Args:
        network: A network in evaluation mode, float32, on the CPU; it is read once.
        preprocess: Its normalisation; ``None`` for pixels that are normalised already.
        precision: ``float32``, ``bfloat16``, or ``int8``.
        folder: The model's folder, which holds what int8 needs.
        threads: How many; default: as many as PyTorch uses.

    Raises:
        BadFile: For int8 where the model has not been calibrated, or its file does not fit its weights.
        Refused: For a network that cannot be converted, or whose scores differ from PyTorch's.
        ImportError: Where OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(
        self,
        network: FCN,
        preprocess: Preprocess | None,
        precision: Arithmetic = "float32",
        *,
        folder: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.network, self.preprocess = network, preprocess
        self.precision: str = "float32" if precision == "auto" else precision
        self._threads = threads or torch.get_num_threads()
        self._bytes = reads_bytes(network.in_channels, preprocess)
        self._wide = self.precision == "int8" and not fast_bf16(torch.device("cpu"))  # what int8 leaves over
        # Where an operation's window is larger than its input OpenVINO computes nothing; PyTorch takes smaller images.
        self._least = [
            max(least, 2 * plan.stride) for least, plan in zip(network.smallest_input, network.plans, strict=True)
        ]
        # Plans are large keys, so that they are not looked up for each image.
        self._sizes = lru_cache(maxsize=1024)(lambda *size: list(map(map_sizes, network.plans, size)))
        self._fixed: dict[tuple[int, ...], _Form] = {}
        self._seen: dict[tuple[int, ...], int] = {}
        self._graph: Any = None  # while there may be more of those
        self._lock = threading.Lock()
        kinds = {tensor.dtype for tensor in network.parameters()}
        if kinds - {torch.float32}:
            raise Refused(f"OpenVINO computes float32 weights, not {', '.join(sorted(map(str, kinds)))}")
        try:
            self._prepare(folder)
        except BadFile:
            raise
        except ValueError as error:
            raise Refused(str(error)) from error
        except RuntimeError as error:  # OpenVINO's own, many lines long
            raise Refused(f"OpenVINO cannot compile this network ({str(error).strip().splitlines()[-1]})") from error

    def _prepare(self, folder: Path | None) -> None:
        """Convert and compile; int8's own scores are as far off as its calibration makes them."""
        graph = make_graph(self.network, self.preprocess)
        self._free = self._compile(graph, "float32")
        self._check(EXACT)
        if self.precision != "float32":
            if self.precision == "int8":
                graph = quantised_graph(folder, self.network, make_graph(self.network, self.preprocess))
            else:
                round_first_weights(graph)
            interpolate(graph)
            self._free = self._compile(graph, self.precision)
        if self.precision == "bfloat16":
            self._check(SHORT)
        if sum(tensor.numel() for tensor in self.network.parameters()) <= LIGHT:
            self._graph = graph

    def _compile(self, graph: Any, precision: str) -> _Form:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" or self._wide else "bf16",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT,
        }
        return _Form(import_openvino().Core().compile_model(graph, "CPU", settings))

    def score_maps(self, pixels: np.ndarray) -> list[Tensor]:
        """Score the maps of images, each at its own resolution.

        Args:
            pixels: N x H x W x K: uint8 pictures, or numbers for networks of other channels.

        Returns:
            One N x C x h x w float32 tensor per map (``FCN.every_scored``), channels last in memory.

        Raises:
            ValueError: For images of other channels or smaller than the network's ``smallest_input``.
        """
        number, height, width, channels = pixels.shape
        self.network.check(torch.empty(number, channels, height, width, device="meta"))
        if self._bytes and pixels.dtype != np.uint8:
            raise ValueError(f"pictures are uint8, not {pixels.dtype}")
        if height < self._least[0] or width < self._least[1]:
            return self._by_pytorch(pixels)
        given = np.ascontiguousarray(pixels, np.uint8 if self._bytes else np.float32)
        return self._form(given).score_maps(given, self._empty(given.shape))

    def bands(self) -> Bands | None:
        """Return PyTorch's form for pictures in bands, which no compiled graph takes; there is none in 8 bits."""
        if self.precision == "int8":
            return None
        precision: Arithmetic = "bfloat16" if self.precision == "bfloat16" else "float32"
        return PyTorchEngine(self.network, self.preprocess, precision).bands()

    def _empty(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Return what the maps of images are written into, N x h x w x C.

        OpenVINO may swallow an error and leave a map as it was: then every row holds NaN, which is noticed.
        """
        number, height, width, _ = shape
        rows, columns = self._sizes(height, width)
        maps = [
            np.empty((number, high, wide, classes), np.float32)
            for classes in (self.network.classes, *self.network.tasks.values())
            for high, wide in zip(rows, columns, strict=True)
        ]
        for each in maps:
            each[:, :, 0] = np.nan
        return maps

    def _form(self, pixels: np.ndarray) -> _Form:
        """Choose what computes: the first ``FIXED`` sizes that come ``REPEATED`` times get a form of their own."""
        shape = pixels.shape
        form = self._fixed.get(shape)
        if form is not None or self._graph is None:
            return self._free if form is None else form
        with self._lock:
            if self._graph is None or shape in self._fixed:
                return self._fixed.get(shape, self._free)
            if len(self._seen) >= KEPT:
                self._seen.clear()
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] < REPEATED:
                return self._free
            self._fixed[shape] = self._made(pixels)
            if len(self._fixed) == FIXED:
                self._graph = None
            return self._fixed[shape]

    def _made(self, pixels: np.ndarray) -> _Form:
        """Compile for a size; what computes otherwise than the form for all sizes is not used."""
        try:
            form = self._compile(fixed_graph(self._graph, self.preprocess, pixels.shape), self.precision)
            found, wanted = (each.score_maps(pixels, self._empty(pixels.shape)) for each in (form, self._free))
        except RuntimeError:  # OpenVINO's own; what it can compile for all sizes is enough
            return self._free
        tolerance = EXACT if self.precision == "float32" else SHORT
        near = (
            float((one - other).abs().max()) <= tolerance * float(other.abs().max())
            for one, other in zip(found, wanted, strict=True)
        )
        return form if all(near) else self._free

    def _check(self, tolerance: float) -> None:
        """Compare with PyTorch at two sizes, the smallest that OpenVINO is given among them; raises ``Refused``."""
        numbers = np.random.default_rng(0)
        for more in (0, 1):
            sides = [least + more * (index + 1) * 7 for index, least in enumerate(self._least)]
            pixels = numbers.integers(0, 256, (1, *sides, self.network.in_channels), np.uint8)
            if not self._bytes:
                pixels = pixels.astype(np.float32)
            for found, wanted in zip(self.score_maps(pixels), self._by_pytorch(pixels), strict=True):
                most, apart = float(wanted.abs().max()), float((found - wanted).abs().max())
                if not apart <= tolerance * most:  # nor where either is NaN
                    what = f"its scores of an image of {sides[0]} x {sides[1]} differ from PyTorch's by {apart:.2g}"
                    raise Refused(f"{what} of {most:.2g}")

    def _by_pytorch(self, pixels: np.ndarray) -> list[Tensor]:
        images = [each.transpose(2, 0, 1) if self.preprocess is None else self.preprocess(each) for each in pixels]
        with torch.inference_mode():
            return self.network.every_scored(self.network.padded(torch.from_numpy(np.stack(images))))


class _Form:
    """A compiled graph, with the requests to it that no thread uses."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._tensor = import_openvino().Tensor
        self._idle: list[Any] = []  # taking and putting back are atomic

    def score_maps(self, pixels: np.ndarray, maps: list[np.ndarray]) -> list[Tensor]:
        """Write the maps of N x H x W x K pixels; returns them as N x C x h x w."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        for index, found in enumerate(maps):
            request.set_output_tensor(index, self._tensor(found, shared_memory=True))
        request.infer({0: pixels}, share_inputs=True)
        self._idle.append(request)
        return [torch.from_numpy(found).permute(0, 3, 1, 2) for found in maps]


def available() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def pays(network: FCN, device: torch.device) -> bool:
    """Return whether OpenVINO may be chosen unasked: on Intel's and AMD's CPUs, where it is the faster one."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    kinds = {tensor.dtype for tensor in network.parameters()}
    return device.type == "cpu" and x86 and kinds == {torch.float32} and available()


class Growing:
    """PyTorch at first, and OpenVINO as soon as there has been work enough for its preparation to pay.

    Converting takes as long as some pictures in PyTorch. So a single small picture does not wait for it, and nobody
    waits more than twice as long as with the better choice of the two. What counts is weights times pixels, not time:
    the same pictures in the same order are always computed by the same engines.

    Args:
        network: The network.
        first: Makes PyTorch's engine, when it is first needed.
        prepare: Makes the other one.
        worth: The work, weights times pixels, with which the other one is prepared.
    """

    def __init__(
        self,
        network: nn.Module,
        first: Callable[[], Any],
        prepare: Callable[[], OpenVINOEngine],
        worth: float = WORTH,
    ) -> None:
        self._first, self._prepare, self._worth = first, prepare, worth
        self._weights = sum(tensor.numel() for tensor in network.parameters())
        self._work, self._settled = 0.0, False
        self._engine: Any = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the engine that computes now."""
        return str(self._now().name)

    @property
    def precision(self) -> str:
        """Its arithmetic."""
        return str(self._now().precision)

    def score_maps(self, pixels: np.ndarray) -> list[Tensor]:
        """Score the maps of N x H x W x K pixels; see ``Engine``."""
        if not self._settled:
            with self._lock:
                self._work += self._weights * float(np.prod(pixels.shape[:3]))
                if self._work >= self._worth and not self._settled:
                    self._engine, self._settled = prepared_or(self._made, self._prepare), True
        maps: list[Tensor] = self._now().score_maps(pixels)
        return maps

    def bands(self) -> Any:
        """Return the network for pictures that come in bands; the engine that computes now decides."""
        return self._now().bands()

    def _now(self) -> Any:
        if self._engine is None:
            with self._lock:
                self._engine = self._made()
        return self._engine

    def _made(self) -> Any:
        """Return the engine that there is, or PyTorch's."""
        return self._first() if self._engine is None else self._engine


def prepared_or(other: Callable[[], Any], prepare: Callable[[], OpenVINOEngine]) -> Any:
    """Return the OpenVINO engine, or with a warning what ``other`` makes where it refuses the network."""
    try:
        return prepare()
    except Refused as refused:
        warnings.warn(f"engine 'openvino' is not used, PyTorch computes instead: {refused}", stacklevel=2)
        return other()
