"""Hostile files: read, or refused in a sentence; within 20 s and 1 GiB; whatever is in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fuzz.readers import Reader, readers

HERE = Path(__file__).parent
QUICK, LONG = 2_500, 1_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return readers(tmp_path_factory.mktemp("seeds"))


def test_the_seeds_are_valid_files(made: dict[str, Reader], tmp_path: Path) -> None:
    for reader in made.values():
        for name, content in reader.seeds[:2]:
            (tmp_path / name).write_bytes(content)
            reader.read(tmp_path / name)


def test_the_same_number_gives_the_same_input(made: dict[str, Reader]) -> None:
    for reader in made.values():
        inputs = [reader.input(index) for index in range(20)]
        assert inputs == [reader.input(index) for index in range(20)]
        assert len(set(inputs)) > 10


def fuzz(count: int, tmp_path: Path, *, first: int = 0, reader: str | None = None) -> list[dict[str, object]]:
    """Fuzz in a process of its own, whose memory is limited, and which may die."""
    status = tmp_path / "status"
    words = [sys.executable, "-m", "fuzz.run", "--count", str(count), "--first", str(first), "--status", str(status)]
    path = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
    run = subprocess.run(
        [*words, *(["--reader", reader] if reader else [])],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), f"died at {status.read_text()}: {run.stderr[-2000:]}"
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_hostile_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    *results, summary = fuzz(QUICK, tmp_path)
    assert [result["findings"] for result in results if result["findings"]] == []
    assert int(str(summary["inputs"])) >= QUICK
    assert sum("refused" in result for result in results) > 20


@pytest.mark.slow
def test_a_million_hostile_files(tmp_path: Path) -> None:
    *results, summary = fuzz(LONG, tmp_path, first=10_000)
    assert [result["findings"] for result in results if result["findings"]] == []
    assert int(str(summary["inputs"])) >= LONG
