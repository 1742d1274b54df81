"""How time and memory grow with the picture, the batch, the classes and the threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure

from fullyconv.machine import ArithmeticName, EngineName
from fullyconv.memory import PeakMemory
from fullyconv.networks import rebuild
from fullyconv.networks.architecture import architecture_of
from fullyconv.predict.image import Segmenter
from fullyconv.predict.predictor import Predictor
from fullyconv.types import ClassSet

AREAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # megapixels
BATCHES, CLASSES = (1, 2, 4, 8, 16), (2, 11, 21, 60, 150)
SIDES = (360, 480)  # of the picture whose batch, classes and threads vary
REPEATS = 3
UNITS = {"area": "megapixels", "batch": "pictures", "classes": "classes", "threads": "threads"}


@dataclass(frozen=True)
class Point:
    """What one amount of something took.

    Attributes:
        axis: What varies: ``area``, ``batch``, ``classes`` or ``threads``.
        amount: How much of it, in ``UNITS``.
        seconds: The median of three calls, or one where three would take too long.
        bytes: The most memory that was held beyond what the process held before the axis, what an engine keeps from
            call to call among it (NaN where the system does not say).
    """

    axis: str
    amount: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Line:
    """A straight line through points, fitted by least squares of the relative distances.

    Attributes:
        start: Where it begins, at amount 0.
        slope: What each unit adds.
        worst: The largest distance of a point from it, as a share of the point's value.
    """

    start: float
    slope: float
    worst: float


def fit_line(amounts: Sequence[float], values: Sequence[float]) -> Line:
    """Fit a straight line.

    Args:
        amounts: Two different ones or more.
        values: As many, positive.

    Returns:
        The line: distances count as shares of the value, so that small pictures have a say beside large ones.

    >>> fit_line([1, 2, 4], [3, 5, 9])
    Line(start=1.0, slope=2.0, worst=0.0)
    """
    x, y = np.asarray(amounts, np.float64), np.asarray(values, np.float64)
    start, slope = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(y)), rcond=None)[0].round(12).tolist()
    worst = float(np.abs((start + slope * x) / y - 1).max().round(9))
    return Line(start, slope, worst)


def measure_scaling(
    segmenter: Segmenter,
    *,
    seconds: float,
    precision: ArithmeticName = "auto",
    engine: EngineName = "auto",
    told: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Time a model, and its memory, along four axes.

    Args:
        segmenter: The model. Along ``classes`` its network is built anew with others, untrained; one that was not built
            by name has no such points.
        seconds: What all may take, about: two thirds for ``area``, the rest in equal parts. Amounts that would take
            longer, judged by the one before, are left out; the first two of each axis are always measured.
        precision: As ``Predictor`` takes it.
        engine: As ``Predictor`` takes it.
        told: Called with every point.

    Returns:
        The points, axis by axis.
    """
    shares = {"area": 2 / 3, "batch": 1 / 9, "classes": 1 / 9, "threads": 1 / 9}
    points: list[Point] = []
    for axis, share in shares.items():
        calls = _calls(axis, segmenter, precision, engine)
        points += _along(axis, calls, segmenter.device, share * seconds, told)
    return points


def _along(
    axis: str,
    calls: Iterator[tuple[float, Callable[[], object]]],
    device: torch.device,
    seconds: float,
    told: Callable[[Point], None],
) -> list[Point]:
    """Measure an axis; when this returns nothing holds its engine any more, so that the next one begins with none."""
    points, until = list[Point](), time.perf_counter() + seconds
    before = _held_before(device)
    for number, (amount, call) in enumerate(calls):
        expected = points[-1].seconds * amount / points[-1].amount if points else 0.0
        if number >= 2 and time.perf_counter() + 2 * expected > until:
            break  # twice: each call comes after one that prepares
        found = _measured(axis, amount, call, device, until)
        points.append(replace(found, bytes=found.bytes - before))
        told(points[-1])
    return points


def _held_before(device: torch.device) -> float:
    with PeakMemory(device) as memory:
        pass
    return memory.before


def _measured(axis: str, amount: float, call: Callable[[], object], device: torch.device, until: float) -> Point:
    with PeakMemory(device) as memory:
        started = time.perf_counter()
        call()  # what is prepared at the first call is no part of the time, but what it holds is of the memory
        first = time.perf_counter() - started
    room = int((until - time.perf_counter()) // max(first, 1e-6))
    taken = []
    for _ in range(max(1, min(REPEATS, room))):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return Point(axis, amount, median(taken), memory.before + memory.taken)


def _calls(
    axis: str, segmenter: Segmenter, precision: ArithmeticName, engine: EngineName
) -> Iterator[tuple[float, Callable[[], object]]]:
    """Yield the amounts of an axis, growing, with what is to be timed."""
    predict = Predictor(segmenter, precision, engine)
    if axis == "area":
        for area in AREAS:
            height = round((area * 1e6 * SIDES[0] / SIDES[1]) ** 0.5)
            yield area, partial(predict, _noise(segmenter, (height, round(area * 1e6 / height))))
    elif axis == "batch":
        for batch in BATCHES:
            yield batch, partial(predict, np.stack([_noise(segmenter, SIDES)] * batch))
    elif axis == "classes":
        for classes, other in _with_classes(segmenter):
            yield classes, partial(Predictor(other, precision, engine), _noise(segmenter, SIDES))
    else:
        for threads in _thread_counts():  # an engine takes those that there are when it is prepared
            yield threads, partial(Predictor(segmenter, precision, engine), _noise(segmenter, SIDES))


def _with_classes(segmenter: Segmenter) -> Iterator[tuple[int, Segmenter]]:
    try:
        built = architecture_of(segmenter.network)
    except ValueError:
        return
    for classes in CLASSES:
        network = rebuild(replace(built, classes=classes))
        names = ClassSet(tuple(map(str, range(classes))))
        yield classes, Segmenter(network, classes=names, preprocess=segmenter.preprocess, device=segmenter.device)


def _thread_counts() -> Iterator[int]:
    """Set 1, 2, 4, … threads up to those that PyTorch uses, and leave it with these."""
    usual = torch.get_num_threads()
    try:
        for threads in sorted({*(1 << power for power in range(usual.bit_length())), usual}):
            torch.set_num_threads(threads)
            yield threads
    finally:
        torch.set_num_threads(usual)


def _noise(segmenter: Segmenter, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, segmenter.network.in_channels), dtype=np.uint8)


def lines(points: Sequence[Point]) -> dict[str, tuple[Line, Line | None]]:
    """Fit what grows: for each axis with three amounts or more, the line of the seconds and of the bytes.

    Along ``threads`` it is the speed that grows: pictures per second, and no memory.
    """
    found: dict[str, tuple[Line, Line | None]] = {}
    for axis in UNITS:
        own = [point for point in points if point.axis == axis]
        if len(own) < 3:
            continue
        amounts = [point.amount for point in own]
        times = fit_line(amounts, [_value(point) for point in own])
        known = axis != "threads" and all(point.bytes > 0 for point in own)
        found[axis] = times, fit_line(amounts, [point.bytes for point in own]) if known else None
    return found


def _value(point: Point) -> float:
    return 1 / point.seconds if point.axis == "threads" else point.seconds


def plot_scaling(points: Sequence[Point], title: str) -> Figure:
    """Draw time (dots) and memory (crosses) along each axis, with the straight lines through them."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    fitted = lines(points)
    for axes, (axis, unit) in zip(figure.subplots(2, 2).flat, UNITS.items(), strict=True):
        own = [point for point in points if point.axis == axis]
        axes.set(xlabel=unit, ylabel="pictures per second" if axis == "threads" else "seconds")
        amounts = np.array([point.amount for point in own])
        dots = axes.plot(amounts, [_value(point) for point in own], "o", color="#1565c0", label=axes.get_ylabel())
        held = axes.twinx() if axis != "threads" else None
        if held is not None:
            dots += held.plot(amounts, [point.bytes / 2**20 for point in own], "x", color="#d62839", label="memory")
            held.set(ylabel="peak memory, MiB", ylim=(0, None))
        axes.legend(handles=dots, loc="upper left", fontsize=8)
        for place, line, scale, color in zip(
            (axes, held), fitted.get(axis, ()), (1, 2**20), ("#1565c0", "#d62839"), strict=False
        ):
            if line is not None and place is not None:
                ends = np.array([0, amounts.max()])
                place.plot(ends, (line.start + line.slope * ends) / scale, ":", color=color)
        if axis in fitted:
            axes.set_title(f"time at most {fitted[axis][0].worst:.0%} off the line", fontsize=9)
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
