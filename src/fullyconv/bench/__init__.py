"""Measuring speed: variants interleaved in one process, medians and spread, a machine that is not quiet noticed."""

from fullyconv.bench.timing import Machine, Timing, Watch, race

__all__ = ["Machine", "Timing", "Watch", "race"]
