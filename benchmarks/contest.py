"""Contests: ours and theirs on the same input in turns, agreement first, printed as a table and kept in results.md."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from fullyconv.bench import Timing, Watch, race
from fullyconv.bench.limits import Limits

RESULTS = Path(__file__).with_name("results.md")
SAMPLE = 0.1  # seconds: the threads of the library before may spin for some milliseconds
VERSIONS = ("torch", "openvino", "onnxruntime", "torchvision", "segmentation-models-pytorch", "torchmetrics", "numba")


@dataclass(frozen=True)
class Entry:
    """One who takes part.

    ``run`` gives labels, or whatever is compared; ``operations`` is what it computes for them (0: not said),
    ``precision`` in which arithmetic; ``like`` names the entry that it has to agree with, ``least`` the share of equal
    values below which the contest is off (0: another network, nothing to compare); numbers are equal up to ``within``,
    relative.
    """

    run: Callable[[], object]
    precision: str = ""
    operations: float = 0.0
    like: str = ""
    least: float = 0.0
    within: float = 1e-3


@dataclass
class Contest:
    """Entries that do the same, what could not take part, with why, and lines to stand below the table."""

    title: str
    entries: dict[str, Entry]
    absent: dict[str, str] = field(default_factory=dict)
    rounds: int = 7
    notes: list[str] = field(default_factory=list)


def agreements(contest: Contest) -> dict[str, float | None]:
    """Let each run once and compare; whoever fails, or does not agree as it should, is struck out: absent."""
    given: dict[str, object] = {}
    for name, entry in list(contest.entries.items()):
        try:
            given[name] = entry.run()
        except (ValueError, RuntimeError, TypeError) as error:  # of an old peer, most often
            contest.absent[name] = " ".join(str(error).split())[:160] or type(error).__name__
            del contest.entries[name]
    found: dict[str, float | None] = {}
    for name, entry in list(contest.entries.items()):
        if not entry.like or entry.like not in given:
            found[name] = None
            continue
        found[name] = share = _equal(given[name], given[entry.like], entry.within)
        if share < entry.least:
            contest.absent[name] = f"agrees with {entry.like} in {share:.4f} of the values only"
            del contest.entries[name]
    return found


def _equal(one: object, other: object, within: float) -> float:
    """Return the share of equal labels, or of numbers that are close."""
    first, second = (np.asarray(each).reshape(-1) for each in (one, other))
    if first.shape != second.shape:
        return 0.0
    close = np.isclose(first, second, rtol=within, atol=within / 10) if first.dtype.kind == "f" else first == second
    return float(close.mean())


def run(contest: Contest, limits: Limits) -> str:
    """Measure a contest; returns its table in Markdown."""
    watch = Watch()
    shares = agreements(contest)
    runs = {name: entry.run for name, entry in contest.entries.items()}
    times = race(runs, contest.rounds, watch=watch, at_least=SAMPLE) if runs else {}
    lines = [f"### {contest.title}", ""]
    lines += ["| who | ms (least to most) | x | GFLOP/s | of the machine | of the best here | agrees |"]
    lines += ["|---|---|---|---|---|---|---|"]
    first = next((each.median for each in times.values()), 0.0)
    best = _best(contest, times)
    for name, each in times.items():
        entry = contest.entries[name]
        rate = entry.operations / each.median
        most = limits.operations.get(entry.precision, 0.0)
        cells = [
            name,
            f"{_ms(each.median)} ({_ms(each.low)} to {_ms(each.high)})",
            f"{first / each.median:.2f}",
            f"{rate / 1e9:.0f}" if rate else "",
            f"{rate / most:.0%}" if rate and most else "",
            f"{rate / best[entry.precision]:.0%}" if rate else "",
            "" if shares[name] is None else f"{shares[name]:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | not measured: {why} | | | | | |" for name, why in contest.absent.items()]
    verdict = watch.verdict()
    quiet = f"others used {watch.busy:.2f} cores, the yardstick varied by {watch.unsteady:.2f}"
    lines += ["", *contest.notes, f"**{verdict}**" if verdict else f"Quiet: {quiet}.", ""]
    return "\n".join(lines)


def _best(contest: Contest, times: dict[str, Timing]) -> dict[str, float]:
    """Return the best rate in each arithmetic."""
    best: dict[str, float] = {}
    for name, each in times.items():
        entry = contest.entries[name]
        best[entry.precision] = max(best.get(entry.precision, 0.0), entry.operations / each.median)
    return best


def _ms(seconds: float) -> str:
    thousandths = seconds * 1000
    return f"{thousandths:.0f}" if thousandths >= 100 else f"{thousandths:.3g}"


def heading(limits: Limits, watch: Watch) -> str:
    """Say when, of which commit, on what and with which versions: the first lines of a run in results.md."""
    commit = _said("git", "rev-parse", "--short=10", "HEAD") + (
        " with changes" * bool(_said("git", "diff", "HEAD", "--stat"))
    )
    doubts = f" (**{said}**)" if (said := watch.verdict()) else ""
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in limits.operations.items())
    versions = ", ".join(f"{name} {version}" for name in VERSIONS if (version := _version(name)))
    return (
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}\n\n"
        f"{_processor()}, {torch.get_num_threads()} threads, {_gpu()}; "
        f"Python {platform.python_version()}, {versions}.\n"
        f"Limits: {rates}, memory {limits.bytes / 1e9:.0f} GB/s{doubts}.\n"
    )


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Name the processor, and what it has for short arithmetic."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = [
        flag
        for flag in ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni")
        if flag in facts.get("flags", "").split()
    ]
    return f"{facts.get('model name', platform.machine())} ({', '.join(has) or 'no short arithmetic'})"


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU (its rows: not measured)"


def keep(sections: Sequence[str]) -> None:
    """Append a run to results.md."""
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(sections))


def say(text: str) -> None:
    """Print at once, so that a run that is cut off has said what it measured."""
    print(text)
    sys.stdout.flush()
