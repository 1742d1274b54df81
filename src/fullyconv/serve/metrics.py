"""What a service counts, in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts of values up to each bound, their sum and their number."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Return the lines of the text format.

        >>> times = Histogram((1, 2))
        >>> times.add(1.5)
        >>> list(times.lines("t"))[1:3]
        ['t_bucket{le="1"} 0', 't_bucket{le="2"} 1']
        """
        with self._lock:
            counts, total = list(self._counts), self._sum
        yield f"# TYPE {name} histogram"
        below = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {total:.6f}"
        yield f"{name}_count {below}"


class Metrics:
    """All that a service counts."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self.seconds, self.batches = Histogram(SECONDS), Histogram(SIZES)
        self.under_way = 0

    def answered(self, path: str, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self._requests[path, status] += 1

    def text(self) -> str:
        """Return everything in the text format."""
        with self._lock:
            requests = sorted(self._requests.items())
        lines = ["# TYPE fullyconv_requests_total counter"]
        lines += [
            f'fullyconv_requests_total{{path="{path}",status="{status}"}} {count}' for (path, status), count in requests
        ]
        lines += ["# TYPE fullyconv_predictions_under_way gauge", f"fullyconv_predictions_under_way {self.under_way}"]
        lines += self.seconds.lines("fullyconv_prediction_seconds")
        lines += self.batches.lines("fullyconv_batch_pictures")
        if resident := resident_bytes():
            lines += ["# TYPE process_resident_memory_bytes gauge", f"process_resident_memory_bytes {resident}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Return how much memory this process holds; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)
