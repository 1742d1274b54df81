"""The windows that convolutions and pools move over a map, read from a layer's settings or a function's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fullyconv.geometry import Layer, Spread, Window
from fullyconv.trace.positions import Given, shape_of

Pair = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """A window on (rows, columns): ``before`` and ``after`` are its padding, ``mode`` what that consists of.

    ``mode`` is "zeros", or "least" (what no maximum takes), or a mode of ``functional.pad``. ``transposed`` windows
    are spread over the result instead of moved over the map.
    """

    kernel: Pair
    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    mode: str = "zeros"
    transposed: bool = False

    def along(self, axis: int) -> Layer:
        """Return what it does along one axis (0 rows, 1 columns)."""
        if self.transposed:
            return Spread(self.kernel[axis], self.stride[axis], self.before[axis])
        pad = max(self.before[axis], self.after[axis])
        return Window(
            self.kernel[axis],
            self.stride[axis],
            self.before[axis],
            self.dilation[axis],
            ceil_mode=self.ceil_mode,
            pad_end=self.after[axis],
            least=1 + pad * (self.mode == "reflect"),  # there must be something to reflect
        )


def pair(value: int | Sequence[int]) -> Pair:
    """Return a setting for (rows, columns): PyTorch takes one number for both."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


def _kernel(given: Given) -> Pair:
    stated = getattr(given.layer, "kernel_size", None)
    return pair(stated if stated is not None else shape_of(given.argument(1, "weight"))[-2:])


def convolution(given: Given) -> Frame:
    """Read the window of a convolution; its padding may be "same" or "valid"."""
    kernel, dilation = _kernel(given), pair(given.argument(5, "dilation", 1))
    padding: Any = given.argument(4, "padding", 0)
    before = after = (0, 0)
    if padding == "same":
        room = tuple(spread * (taps - 1) for spread, taps in zip(dilation, kernel, strict=True))
        before, after = (room[0] // 2, room[1] // 2), (room[0] - room[0] // 2, room[1] - room[1] // 2)
    elif padding != "valid":
        before = after = pair(padding)
    mode = getattr(given.layer, "padding_mode", "zeros")
    return Frame(kernel, pair(given.argument(3, "stride", 1)), before, after, dilation, mode=mode)


def transposed(given: Given) -> Frame | None:
    """Read the window of a transposed convolution; ``None`` where it has output padding or dilation."""
    if any(pair(given.argument(5, "output_padding", 0))) or pair(given.argument(7, "dilation", 1)) != (1, 1):
        return None
    padding = pair(given.argument(4, "padding", 0))
    return Frame(_kernel(given), pair(given.argument(3, "stride", 1)), padding, padding, transposed=True)


def max_pool(given: Given) -> Frame:
    """Read the window of a max pool."""
    return _pool(given, pair(given.argument(4, "dilation", 1)), given.argument(5, "ceil_mode", False), "least")


def average_pool(given: Given) -> Frame:
    """Read the window of an average pool."""
    return _pool(given, (1, 1), given.argument(4, "ceil_mode", False), "zeros")


def _pool(given: Given, dilation: Pair, ceil_mode: bool, mode: str) -> Frame:
    kernel = pair(given.argument(1, "kernel_size"))
    stride, padding = given.argument(2, "stride"), pair(given.argument(3, "padding", 0))
    # PyTorch takes [] for "as the kernel", too.
    step = kernel if stride is None or stride == [] else pair(stride)
    return Frame(kernel, step, padding, padding, dilation, bool(ceil_mode), mode)
