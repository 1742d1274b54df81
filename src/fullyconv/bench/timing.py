"""Times of several ways to do one thing, taken so that they can be compared.

A machine's speed drifts from second to second: neighbours, clock rates, where memory lies. Variants are therefore run
in turns, once per round each, and compared within one process. Ratios of their medians hold where seconds do not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from random import Random
from statistics import median

ROUNDS = 7
BUSY = (
    0.12  # of a core: what others may use before it is said; one busy core makes OpenMP's threads wait 20 times longer
)
YARDSTICK_CALLS = 8  # 20 ms or so: noise that lasts is in all of them
UNSTEADY = 1.25  # the yardstick's upper quartile against its lower one, before it is said


@dataclass(frozen=True)
class Timing:
    """The seconds that one variant took.

    Attributes:
        seconds: Of one call each, in the order of the rounds.

    >>> found = Timing((0.2, 0.1, 0.4))
    >>> found.median, found.low, found.high, found.spread
    (0.2, 0.1, 0.4, 1.5)
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def low(self) -> float:
        """The least."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """The most."""
        return max(self.seconds)

    @property
    def spread(self) -> float:
        """How far the least and the most lie apart, as a share of the median."""
        return round((self.high - self.low) / self.median, 6) if self.median else 0.0


@dataclass(frozen=True)
class Machine:
    """The clocks of a machine; tests put others in their place.

    Attributes:
        clock: Seconds that pass.
        own: Seconds of CPU that this process and its children have used.
        busy: Seconds of CPU that everything on the machine has used, or ``None`` where it does not say.

    >>> machine = Machine()
    >>> machine.clock() <= machine.clock()
    True
    """

    clock: Callable[[], float] = time.perf_counter
    own: Callable[[], float] = lambda: sum(os.times()[:4])
    busy: Callable[[], float | None] = lambda: _busy_seconds()


def _busy_seconds(path: str = "/proc/stat") -> float | None:
    """Return the CPU seconds of all processes since the machine started (Linux; a guest's stolen time among them)."""
    try:
        with open(path) as file:
            user, nice, system, _idle, _wait, *more = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Notices a machine that does other things meanwhile: over one race or several.

    In each round a yardstick, always the same work, is timed: what it takes more at some times than at others, the
    variants did too. What other processes used of the CPU is what the system counts less our own.

    Attributes:
        yardstick: The work; by default a product of two matrices on all threads.
        machine: Its clocks.
        steps: The seconds of the yardstick, in order.
        others: Seconds of CPU that other processes used.
        watched: Seconds in which that was looked at.

    >>> watch = Watch(steps=[1.0, 1.0, 1.0, 2.0, 2.0], others=5.0, watched=10.0)
    >>> watch.unsteady, watch.busy
    (2.0, 0.5)
    """

    yardstick: Callable[[], object] = field(default_factory=lambda: _matrix_product())
    machine: Machine = field(default_factory=Machine)
    steps: list[float] = field(default_factory=list)
    others: float = 0.0
    watched: float = 0.0

    def step(self) -> None:
        """Time the yardstick: the best of a few calls, for what ran before leaves cold caches and threads that spin."""
        took = []
        for _ in range(YARDSTICK_CALLS):
            started = self.machine.clock()
            self.yardstick()
            took.append(self.machine.clock() - started)
        self.steps.append(min(took))

    @property
    def unsteady(self) -> float:
        """The yardstick's upper quartile against its lower one, 1 or more."""
        ordered = sorted(self.steps)
        lower = ordered[len(ordered) // 4] if ordered else 0.0
        return ordered[len(ordered) * 3 // 4] / lower if lower else 1.0

    @property
    def busy(self) -> float:
        """The cores that other processes used meanwhile, on average."""
        return self.others / self.watched if self.watched else 0.0

    def verdict(self) -> str | None:
        """Say what makes the figures doubtful.

        Returns:
            One line, or ``None`` for a quiet machine.
        """
        words = []
        if self.busy > BUSY:
            words.append(f"other processes used {self.busy:.2f} cores meanwhile")
        if self.unsteady > UNSTEADY:
            words.append(f"the same work took {self.unsteady:.2f} times as long at some times as at others")
        return f"not quiet: {' and '.join(words)}; measure again when nothing else runs" if words else None


def _matrix_product() -> Callable[[], object]:
    import torch

    one = torch.ones(768, 768)
    return lambda: one @ one


def race(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    *,
    watch: Watch | None = None,
    at_least: float = 0.02,
    at_most: float = 60.0,
) -> dict[str, Timing]:
    """Time several ways to do one thing, in turns.

    Each is called once beforehand, untimed, for what is prepared at the first call. Each round has another order, drawn
    at random but always the same, so that none always runs in the heat, or the cold cache, that a certain one leaves.

    Args:
        variants: What to call, by name. Work that goes on after the call (a GPU's) the variant has to wait for.
        rounds: How often each is timed.
        watch: What looks at the machine meanwhile; one of its own by default, whose verdict nobody reads.
        at_least: Seconds of one sample: quick variants are called several times for it.
        at_most: Seconds of the whole: after it no further round begins, three rounds excepted.

    Returns:
        The seconds of one call, by name.

    >>> sorted(race({"sum": lambda: sum(range(9)), "max": lambda: max(range(9))}, rounds=3, at_least=0.0))
    ['max', 'sum']
    """
    watch = watch or Watch()
    machine = watch.machine
    clock = machine.clock
    calls = {name: _calls(run, clock, at_least) for name, run in variants.items()}
    names, drawn = list(variants), Random(0)
    samples: dict[str, list[float]] = {name: [] for name in names}
    started, busy, own = clock(), machine.busy(), machine.own()
    for turn in range(rounds):
        if turn >= 3 and clock() - started > at_most:
            break
        watch.step()
        drawn.shuffle(names)
        for name in names:
            samples[name].append(seconds_of(variants[name], clock, calls[name]))
    busy_since = machine.busy()
    if busy is not None and busy_since is not None:
        watch.others += max(0.0, busy_since - busy - (machine.own() - own))
        watch.watched += clock() - started
    return {name: Timing(tuple(samples[name])) for name in variants}


def _calls(run: Callable[[], object], clock: Callable[[], float], at_least: float) -> int:
    """Prepare a variant by calling it, and return how many calls make a sample."""
    run()
    if not at_least:
        return 1
    return max(1, min(10_000, ceil(at_least / max(seconds_of(run, clock, 1), 1e-9))))


def seconds_of(run: Callable[[], object], clock: Callable[[], float], calls: int) -> float:
    """Return the seconds of one call, the mean of so many in a row."""
    started = clock()
    for _ in range(calls):
        run()
    return (clock() - started) / calls
