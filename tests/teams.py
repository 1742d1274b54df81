"""Several processes for tests: forked from the one that tests, which has imported all they need."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from torch import distributed as dist
from torch import nn

from fullyconv.train.team import Team, joined


def in_processes(size: int, work: Callable[[Team], object]) -> list[int]:
    """Let several processes do a work together; gives the status of each, -N where signal N killed it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            os.environ.update(shared | {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)})
            os._exit(_status(work))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _status(work: Callable[[Team], object]) -> int:
    try:
        with joined() as team:
            work(team)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def classifier() -> nn.Module:
    """Two convolutions with batch normalisation, one of a low momentum, the other without any."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=0.03), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip


def dropping() -> nn.Module:
    """Build the same with dropout."""
    first, *rest = classifier()
    return nn.Sequential(first, nn.Dropout(0.2), *rest)
