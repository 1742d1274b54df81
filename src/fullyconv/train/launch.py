"""Starting the processes of a command that trains on several devices of one machine."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from torch import distributed as dist

from fullyconv.train.stop import SIGNALS

GRACE_SECONDS = 120.0  # for the others to notice that one has ended, and for the first to save
GRACE_ALONE = 10.0  # where the first itself has ended: the others write nothing, and may wait for it
LOOK_SECONDS = 0.1
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.h


def launched() -> bool:
    """Return whether this process is one of several that were started together, by ``torchrun`` or ``run_together``."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_together(count: int, arguments: Sequence[str], again: Callable[[], str]) -> tuple[int, str]:
    """Run a command of ours in several processes, as ``torchrun --standalone`` does, until all have ended.

    Ctrl-C and the like are passed on to all; where one fails the others are given two minutes to end by
    themselves, ten seconds where it is the first.

    Args:
        count: The number of processes.
        arguments: Of the command line.
        again: Says what to do where the first process, which would say it, has been killed.

    Returns:
        The exit status of the first that failed, 0 if none did; and what is to be said of processes that could not
        say it themselves.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fullyconv", *arguments],
            env=shared | os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C comes from here alone
            preexec_fn=_end_with_parent,
        )
        for rank in range(count)
    ]
    with _passing_on(processes):
        failed = _wait(processes)
    if failed is None:
        return 0, ""
    status = processes[failed].returncode
    if status < 0 and failed == 0:  # of another's death the first process speaks
        return 1, f"process 1 of {count}, which writes, was killed by {signal.Signals(-status).name}: {again()}"
    return (1 if status < 0 else status), ""


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended; gives the first that failed."""
    failed, since = None, 0.0
    while any(each.poll() is None for each in processes):
        if failed is None:
            failed = next((rank for rank, each in enumerate(processes) if each.returncode), None)
            since = time.monotonic()
        elif time.monotonic() - since > (GRACE_SECONDS if failed else GRACE_ALONE):
            for each in processes:
                each.kill()
        time.sleep(LOOK_SECONDS)
    return next((rank for rank, each in enumerate(processes) if each.returncode), None) if failed is None else failed


@contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, _: FrameType | None) -> None:
        for each in processes:
            each.send_signal(number)

    kinds = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {kind: signal.signal(kind, pass_on) for kind in kinds if signal.getsignal(kind) != signal.SIG_IGN}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
