"""Ending a run between two steps when it is asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a batch system, a terminal that is gone
GRACE_SECONDS = 1.0


class StopRequest:
    """Lets Ctrl-C (SIGTERM, SIGHUP) end a loop between two steps instead of within one.

    Use as a context manager and look at ``asked``; a second signal interrupts at once. Outside the
    main thread signals cannot be caught, and nothing is changed.

    Args:
        relayed: Whether a launcher passes signals on that the terminal has sent here, too: what follows within a
            second is then the same request.
    """

    def __init__(self, *, relayed: bool = False) -> None:
        self.asked, self._relayed, self._since = False, relayed, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if kind == getattr(signal, "SIGHUP", None) and signal.getsignal(kind) == signal.SIG_IGN:
                    continue  # nohup
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def soon(self) -> bool:
        """Return whether a stop has been asked for, or is within a moment."""
        until = time.monotonic() + GRACE_SECONDS
        while not self.asked and time.monotonic() < until:
            time.sleep(GRACE_SECONDS / 20)
        return self.asked

    def _note(self, *_: object) -> None:
        if self.asked and not (self._relayed and time.monotonic() - self._since < GRACE_SECONDS):
            raise KeyboardInterrupt
        if not self.asked:
            self._since = time.monotonic()
        self.asked = True


def leave_signals_to_parent(_: int) -> None:
    """Let a worker process end when its parent ends it, not when the terminal signals the whole group."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
