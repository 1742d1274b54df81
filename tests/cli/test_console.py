"""What commands print: names of classes and files as they are."""

from __future__ import annotations

import numpy as np
import pytest

from fullyconv.cli import console
from fullyconv.evaluation import Evaluation
from fullyconv.files import BadFile
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
    console.print_problems([BadFile("[bold].png", "truncated", "copy it again")])
    with console.Bars() as bars:
        bars("predicting [/x]", 1, 2, "a[/b].png")
    printed = capsys.readouterr()
    assert printed.err == "skipped: a[/b].png: not readable\n"
    assert printed.out == "problem: [bold].png: truncated: copy it again\n1 problem\n"


def test_nothing_that_a_terminal_obeys_and_no_broken_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\x1b[2J\x07.png", b"stra\xdfe.png".decode("utf-8", "surrogateescape"), "\x9b31m"
    for name in odd:
        console.complain("skipped", name)
        console.out.print(name)
        with console.Bars() as bars:
            bars(name, 1, 2, name)
    table = console.Table("file")
    table.add_row(odd[0])
    console.out.print(table)
    printed = "".join(capsys.readouterr())
    printed.encode()
    assert "\x1b" not in printed
    assert "\x9b" not in printed
    assert "stra\\xdfe.png" in printed


def test_problems_of_a_kind_are_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    many = [BadFile(f"p{n}.jpg", "a mask saved as JPEG", "save masks as PNG") for n in range(174)]
    console.print_problems([*many, BadFile("q.png", "the mask is 3 x 4", "save both at one size")])
    assert capsys.readouterr().out.splitlines() == [
        "problem: p0.jpg: a mask saved as JPEG: save masks as PNG (174 like this)",
        "  also p1.jpg",
        "  also p2.jpg",
        "  and 171 more",
        "problem: q.png: the mask is 3 x 4: save both at one size",
        "175 problems",
    ]
