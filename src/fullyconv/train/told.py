"""Whoever wants to be told how a run goes: functions, watchers, loggers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fullyconv.train.job import Quiet, Watcher


class Logger(Protocol):
    """A logger of Lightning (W&B, MLflow, CSV, …)."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write down numbers."""


Callback = Callable[[Mapping[str, Any]], object] | Watcher | Logger
"""A function of an epoch's figures, an object with some of ``Watcher``'s methods, or a logger."""


def tell(callbacks: Sequence[Callback]) -> Watcher:
    """Make one watcher that tells all.

    Raises:
        ValueError: For what can be told nothing.

    >>> heard = []
    >>> tell([heard.append]).epoch({"epoch": 1, "loss": 0.5})
    >>> heard
    [{'epoch': 1, 'loss': 0.5}]
    """
    for each in callbacks:
        known = (*PARTS, "log_metrics")
        if not callable(each) and not any(hasattr(each, name) for name in known):
            raise ValueError(f"a callback is a function, or has one of {', '.join(known)}: {each!r} is neither")
    return _All(callbacks) if callbacks else Quiet()


PARTS = ("step", "epoch", "remark")


class _All:
    """Tells every callback what it can hear."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks = callbacks

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """Pass an update on to whoever listens to updates."""
        for each in self._having("step"):
            each.step(epoch=epoch, done=done, total=total, loss=loss)

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Pass the figures of an epoch on; loggers get those that are numbers."""
        for each in self._having("epoch"):
            each.epoch(figures)
        numbers = {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
        for each in self._having("log_metrics"):
            each.log_metrics(numbers, step=figures["epoch"])
        for each in self._callbacks:
            if callable(each) and not any(hasattr(each, name) for name in (*PARTS, "log_metrics")):
                each(figures)

    def remark(self, text: str) -> None:
        """Pass on what a person should know."""
        for each in self._having("remark"):
            each.remark(text)

    def _having(self, name: str) -> list[Any]:
        return [each for each in self._callbacks if callable(getattr(each, name, None))]
