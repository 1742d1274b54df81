"""Ending a run between two steps when it is asked to stop."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Lets Ctrl-C (and SIGTERM, as batch systems send it) end a loop between two steps instead of within one.

    Use as a context manager and look at ``asked``; a second signal interrupts at once. Outside the
    main thread signals cannot be caught, and nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
