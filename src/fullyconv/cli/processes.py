"""Commands that several processes do together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from fullyconv.cli.console import complain, hush

if TYPE_CHECKING:
    from fullyconv.train.team import Team


def start(devices: int, again: Callable[[], str]) -> None:
    """Start this command in several processes where that is asked for, wait for them, and end.

    Args:
        devices: How many; with 1, and in one of those that were started, nothing happens.
        again: Says what to do where the process that speaks has been killed.
    """
    from fullyconv.train.launch import launched, run_together

    if devices == 1 or launched():
        return
    status, said = run_together(devices, sys.argv[1:], again)
    if said:
        complain("error", said)
    raise typer.Exit(status)


@contextmanager
def joined_silently() -> Iterator[Team]:
    """Join the processes that do a command together; all but the first keep silent."""
    import torch

    from fullyconv.train.team import joined

    with joined() as team:
        if not team.first:
            hush()
        if team.size > 1 and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        yield team
