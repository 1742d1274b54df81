"""TensorBoard's events of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fullyconv.train.folder import BOARD, RunFolder
from fullyconv.train.job import Position, Validation, Watcher


class Board:
    """TensorBoard's events of a run; those of epochs that a resumed run trains again are hidden.

    They are written last and by a thread of TensorBoard's: where they cannot be, the run goes on without them.
    """

    def __init__(self, folder: RunFolder | None, position: Position, watcher: Watcher) -> None:
        self._folder, self._watcher, self._first = folder, watcher, position.epoch + 1
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Board:
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        if self._folder is not None:
            with self._without():
                self._writer = SummaryWriter(str(self._folder.path / BOARD), purge_step=self._first)
        return self

    def __exit__(self, *_: object) -> None:
        with self._without():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._hook

    def note(self, figures: Mapping[str, Any], found: Validation | None) -> None:
        """Write down the figures of an epoch and the picture of its validation."""
        with self._without():
            if self._writer is None:
                return
            for key, value in figures.items():
                if isinstance(value, float) and key != "seconds":
                    self._writer.add_scalar(key, value, figures["epoch"])
            if found is not None and found.picture is not None:
                self._writer.add_image(found.title, found.picture, figures["epoch"], dataformats="HWC")

    @contextmanager
    def _without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self._watcher.remark(f"TensorBoard's events cannot be written ({error.strerror or error}): left out")

    def _thread_failed(self, failure: Any) -> None:
        """Keep the traceback of TensorBoard's thread to ourselves: its error is raised again when it is next used."""
        if not isinstance(failure.exc_value, OSError):
            self._hook(failure)
