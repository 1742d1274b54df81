"""How fast a model labels pictures on this machine, and which share that is of what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fullyconv.bench.limits import Limits
from fullyconv.bench.timing import ROUNDS, Timing, Watch, race, seconds_of
from fullyconv.machine import Precision
from fullyconv.networks.fcn import FCN
from fullyconv.networks.inspection import inspect
from fullyconv.predict.image import Segmenter

BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Speed:
    """What one picture takes in one arithmetic.

    Attributes:
        precision: The arithmetic.
        timing: Seconds from an H x W x 3 array to its labels.
        operations: What the network computes for it; a multiplication and an addition are two.
        bytes: What has to come from memory at least: the weights once, the picture and its labels.
        first: Seconds of the first call, which prepares the network.
    """

    precision: str
    timing: Timing
    operations: float
    bytes: float
    first: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.timing.median

    def words(self, limits: Limits) -> str:
        r"""Say it in a line.

        >>> speed = Speed("fp32", Timing((0.02, 0.01, 0.03)), operations=4e9, bytes=1e8, first=0.5)
        >>> print(speed.words(Limits({"fp32": 4e11}, 2e10)).replace(": 50 %", ":\n50 %"))
        fp32: 50 pictures/s, 20.0 ms (10.0 to 30.0), 200 GFLOP/s:
        50 % of the machine in fp32, 25 % of its memory rate; the first 500 ms
        """
        each = self.timing
        share = f": {self.rate / most:.0%} of the machine in {self.precision}" if (most := self._most(limits)) else ""
        memory = f", {self.bytes / each.median / limits.bytes:.0%} of its memory rate"
        memory += f"; the first {_ms(self.first)} ms"
        return (
            f"{self.precision}: {1 / each.median:.3g} pictures/s, {_ms(each.median)} ms ({_ms(each.low)} to "
            f"{_ms(each.high)}), {self.rate / 1e9:.0f} GFLOP/s{share}{memory}"
        ).replace("%", " %")

    def _most(self, limits: Limits) -> float | None:
        return limits.operations.get(self.precision)


def _ms(seconds: float) -> str:
    """Write milliseconds, three figures or more.

    >>> _ms(0.4213), _ms(0.0421), _ms(0.00004)
    ('421', '42.1', '0.04')
    """
    thousandths = seconds * 1000
    return (
        f"{thousandths:.0f}"
        if thousandths >= 100
        else f"{thousandths:.1f}"
        if thousandths >= 1
        else f"{thousandths:.2g}"
    )


def measure_speed(
    segmenter: Segmenter,
    size: tuple[int, int],
    precisions: Sequence[Precision],
    *,
    watch: Watch | None = None,
    rounds: int = ROUNDS,
) -> list[Speed]:
    """Time a model on a picture of noise (of as many channels as it sees), in several arithmetics in turns.

    Args:
        segmenter: The model.
        size: Height and width of the picture, pixels.
        precisions: Which arithmetics.
        watch: What looks at the machine meanwhile.
        rounds: How often each is timed.

    Returns:
        A ``Speed`` for each arithmetic.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (*size, segmenter.network.in_channels), dtype=np.uint8)
    models = {precision: _in(segmenter, precision) for precision in precisions}
    variants = {precision: partial(model.predict, pixels) for precision, model in models.items()}
    first = {precision: seconds_of(variant, time.perf_counter, calls=1) for precision, variant in variants.items()}
    found = race({str(name): variant for name, variant in variants.items()}, rounds, watch=watch)
    operations = count_operations(segmenter.network, size)
    weights = sum(each.numel() for each in segmenter.network.parameters())
    return [
        Speed(
            precision,
            found[precision],
            operations,
            float(weights * BYTES[precision] + pixels.nbytes + size[0] * size[1]),
            first[precision],
        )
        for precision in precisions
    ]


def _in(segmenter: Segmenter, precision: Precision) -> Segmenter:
    return Segmenter(
        segmenter.network,
        classes=segmenter.classes,
        preprocess=segmenter.preprocess,
        device=segmenter.device,
        precision=precision,
    )


def count_operations(network: FCN, size: tuple[int, int]) -> float:
    """Count what a network computes for one picture: two for each multiplication with its addition.

    Nothing is computed for it: shapes pass through the network, so that the picture may be of any size.

    Args:
        network: The network.
        size: Height and width of the picture, pixels.

    >>> from fullyconv.networks import build
    >>> count_operations(build("fcn4s-lenet", 2), (32, 32)) > 1e6
    True
    """
    return 2.0 * inspect(network, size=size).multiply_adds
