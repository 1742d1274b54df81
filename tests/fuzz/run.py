"""Read hostile files by the thousand: ``python -m fuzz.run --count 1000000`` (with ``tests`` on PYTHONPATH).

Each input is read, or refused by an error of the package's own, within 20 s and 1 GiB; anything else is a
finding. The same numbers give the same inputs, so ``--reader NAME --first N --count 1`` repeats one.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import fullyconv
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

SECONDS, BYTES = 20, 1 << 30
HOME = str(Path(fullyconv.__file__).parent)


class Hang(BaseException):
    """An input that took longer than ``SECONDS``; no reader catches it as an error of a file."""


def own(error: BaseException) -> bool:
    """Return whether an error is one of the package's own: ``BadFile``, or a ``ValueError`` that it raised itself."""
    if type(error) is BadFile:
        return True
    return type(error) is ValueError and traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HOME)


@contextmanager
def deadline() -> Iterator[None]:
    """Raise ``Hang`` in a block that takes too long."""

    def expire(_: int, __: FrameType | None) -> None:
        raise Hang(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(reader: object, place: Path, first: int, count: int, status: Path | None = None) -> dict[str, object]:
    """Read the inputs ``first`` to ``first + count - 1`` of a reader; returns counts and findings."""
    from fuzz.readers import Reader

    assert isinstance(reader, Reader)
    counts: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    slowest = 0.0
    for index in range(first, first + count):
        name, content = reader.input(index)
        path = place / name
        path.write_bytes(content)
        if status is not None:
            status.write_text(f"{reader.name} {index}")
        began = time.monotonic()
        try:
            with deadline():
                reader.read(path)
            counts["read"] += 1
        except (Exception, Hang) as error:
            counts["refused" if own(error) else "other"] += 1
            if not own(error):
                frames = traceback.extract_tb(error.__traceback__)
                ours = [frame for frame in frames if frame.filename.startswith(HOME)] or frames
                where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
                findings.append(f"{reader.name} {index}: {type(error).__name__} at {where}: {str(error)[:200]!r}")
        slowest = max(slowest, time.monotonic() - began)
        if index % 2000 == 0:
            gc.collect()
    return {"reader": reader.name, **counts, "slowest_s": round(slowest, 2), "findings": findings}


def limit_memory() -> None:
    """Let this process take ``BYTES`` more than it has."""
    LIMITS.weights = 200_000_000  # the default, for the largest of the papers' nets, is a little over 1 GiB
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main() -> int:
    """Read as many inputs as asked for; exit status 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="inputs, of all readers together")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    parser.add_argument("--reader", help="only this one")
    parser.add_argument("--status", type=Path, help="file that names the input being read, should the process die")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from fuzz.readers import readers

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seeds").mkdir()
        (Path(folder) / "input").mkdir()
        made = readers(Path(folder) / "seeds")
        chosen = [made[options.reader]] if options.reader else list(made.values())
        shares = sum(reader.share for reader in chosen)
        limit_memory()
        total, bad = 0, 0
        for reader in chosen:
            count = -(-options.count * reader.share // shares)
            result = fuzz(reader, Path(folder) / "input", options.first, count, options.status)
            total, bad = total + count, bad + len(result["findings"])  # type: ignore[arg-type]
            print(json.dumps(result), flush=True)  # noqa: T201
    print(json.dumps({"inputs": total, "findings": bad}))  # noqa: T201
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
