"""The tables of ``make bench``: who does not agree is not timed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fullyconv.bench.limits import Limits

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import contest

    yield contest
    sys.modules.pop("contest")


def test_entries_that_do_not_agree_are_struck_out(contest: ModuleType) -> None:
    labels = np.arange(1000) % 7
    nearly = labels.copy()
    nearly[:50] = 0
    wrong = contest.Contest(
        "three ways",
        {
            "plain": contest.Entry(lambda: labels, precision="fp32", operations=1e9),
            "same": contest.Entry(lambda: labels.copy(), like="plain", least=0.999),
            "near": contest.Entry(lambda: nearly, like="plain", least=0.9),
            "far": contest.Entry(lambda: nearly[::-1], like="plain", least=0.9),
            "broken": contest.Entry(lambda: labels.reshape(7, 7), like="plain", least=0.9),
            "short": contest.Entry(lambda: labels[:-1], like="plain", least=0.9),
        },
        {"gone": "not installed"},
        rounds=3,
    )
    table = contest.run(wrong, Limits({"fp32": 1e15}, 1e10))
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "1.0000" in rows["same"]
    assert "0.95" in rows["near"]
    assert "not measured: agrees with plain in 0." in rows["far"]
    assert "not measured: agrees with plain in 0.0000" in rows["short"]
    assert "not measured: cannot reshape" in rows["broken"]
    assert "not measured: not installed" in rows["gone"]
    assert "%" in rows["plain"]
    assert "uiet: " in table


def test_numbers_agree_to_a_thousandth(contest: ModuleType) -> None:
    one = np.linspace(1, 2, 100)
    entries = {
        "one": contest.Entry(lambda: one),
        "close": contest.Entry(lambda: one * 1.0005, like="one", least=1.0),
        "apart": contest.Entry(lambda: one * 1.005, like="one", least=1.0),
    }
    found = contest.Contest("numbers", entries)
    assert contest.agreements(found) == {"one": None, "close": 1.0, "apart": 0.0}
    assert list(found.entries) == ["one", "close"]
