"""What commands print: names of classes and files as they are."""

from __future__ import annotations

import numpy as np
import pytest

from fullyconv.cli import console
from fullyconv.evaluation import Evaluation
from fullyconv.types import ClassSet

NAMES = ("a[/b]", "[red]b", ":car:", "\\[c]", "<b>")


def test_names_of_classes_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = Evaluation(ClassSet(NAMES), np.diag([1, 2, 3, 4, 0]), 0, {"a": 1.0})
    console.print_evaluation(evaluation)
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f" {name} " in printed
    assert "absent from the truth: <b>;" in printed


def test_names_of_files_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain("skipped", "a[/b].png: not readable")
    console.print_problems(["[bold].png: truncated"])
    with console.Bars() as bars:
        bars("predicting [/x]", 1, 2, "a[/b].png")
    printed = capsys.readouterr()
    assert printed.err == "skipped: a[/b].png: not readable\n"
    assert printed.out == "problem: [bold].png: truncated\n1 problem\n"
