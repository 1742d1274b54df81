"""Computing for many who wait: one thread, which takes pictures of one size together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from fullyconv.data.raster import COLOURS
from fullyconv.predict.arrays import WHOLE_PIXELS
from fullyconv.predict.image import Segmenter
from fullyconv.predict.prediction import Prediction


@dataclass(frozen=True, eq=False)
class Job:
    """A picture that waits for its prediction: H x W x 3 uint8."""

    segmenter: Segmenter
    pixels: np.ndarray
    probabilities: bool = False
    found: Future[Prediction] = field(default_factory=Future)

    def goes_with(self, other: Job) -> bool:
        """Return whether two pictures can be computed together: labels alone are, of pictures of one size."""
        return (
            self.segmenter is other.segmenter
            and self.pixels.shape == other.pixels.shape
            and not (self.probabilities or other.probabilities)
        )


class Batcher:
    """Computes jobs in the order in which they come; those behind that go with the first are computed with it.

    Labels of pictures computed together are those of each alone.

    Args:
        most: How many pictures are computed together.
        note: Told of each batch's size.
    """

    def __init__(self, most: int = 8, note: Callable[[int], None] = lambda _: None) -> None:
        self._most, self._note = most, note
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="computing", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Prediction]:
        """Add a job; its future may be cancelled as long as it is not computed.

        Raises:
            RuntimeError: After ``close``.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the service is stopping")
            self._waiting.append(job)
            self._changed.notify()
        return job.found

    def close(self) -> None:
        """Finish what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            batch = [job for job in batch if job.found.set_running_or_notify_cancel()]
            if batch:
                self._note(len(batch))
                self._compute(batch)

    def _next(self) -> list[Job]:
        """Take the first job and those that go with it; none when there will be no more."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            most = max(1, min(self._most, WHOLE_PIXELS // max(1, first.pixels.size // COLOURS)))
            batch, others = [first], deque[Job]()
            for job in self._waiting:
                (batch if len(batch) < most and job.goes_with(first) else others).append(job)
            self._waiting = others
            return batch

    def _compute(self, batch: list[Job]) -> None:
        first = batch[0]
        try:
            if len(batch) == 1:
                found = [first.segmenter.predict(first.pixels, probabilities=first.probabilities)]
            else:
                labels = first.segmenter.labels(np.stack([job.pixels for job in batch]))
                found = [
                    Prediction(job.pixels, each, first.segmenter.classes)
                    for job, each in zip(batch, labels, strict=True)
                ]
        except Exception as error:  # whatever it is, those who wait are told, and the thread goes on
            for job in batch:
                job.found.set_exception(error)
            return
        for job, each in zip(batch, found, strict=True):
            job.found.set_result(each)
