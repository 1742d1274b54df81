"""Nothing that a file is called, or holds, acts on the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from fullyconv import ClassSet, build, save
from fullyconv.cli.console import _Plain, behind, print_bounds, print_evaluation, print_fit
from fullyconv.evaluation import Evaluation
from fullyconv.evaluation.confidence import Fit
from fullyconv.files import printable
from fullyconv.scores.bounds import count_bounds
from fullyconv.scores.calibration import count_calibration

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\x08\u202egnp\udcff\r\x00b"


@pytest.mark.parametrize("form", [str, Text, lambda text: behind("problem", "red", text)])
@pytest.mark.parametrize("table", [False, True])
def test_no_control_character_reaches_the_terminal(form: object, table: bool) -> None:
    stream = io.StringIO()
    console = _Plain()
    console.file, console.width = stream, 300
    shown = form(HOSTILE)  # type: ignore[operator]
    if table:
        grid = Table("name", title=HOSTILE)
        grid.add_row(shown)
        shown = grid
    console.print(shown)
    written = stream.getvalue()
    assert not any(ord(letter) < 32 and letter != "\n" for letter in written), repr(written)
    assert not set(written) & set("\x7f\x9b\u202e\udcff")
    assert "\\x1b]0;title" in written
    assert "\\xff" in written


def test_what_is_harmless_stays_as_it_is() -> None:
    text = "Straße, 道路, [red]roof[/], :car:, $\\frac{1}{2}$, a\tb\nc"
    assert printable(text) == text


def test_a_file_with_a_hostile_name_is_reported_and_the_rest_done(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"a\x1b[2J.png", b"\xff\xfe.png"]
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"no picture")
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    run = subprocess.run(
        [sys.executable, "-m", "fullyconv", "predict", model, folder, "--out", tmp_path / "out"],
        capture_output=True,
        check=False,
        env=os.environ | {"FORCE_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
    )
    assert run.returncode == 1
    assert b"\x1b[2J" not in run.stderr + run.stdout
    assert b"a\\x1b[2J.png" in run.stderr
    assert b"\\xff\\xfe.png" in run.stderr
    assert b"0 of 2 images labelled" in run.stdout


def test_a_score_that_is_none_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    classes = ClassSet(("a", "b"))
    print_evaluation(Evaluation(classes, np.array([[4, 0], [0, 0]]), 0, {"x": 1.0}))
    print_bounds(count_bounds(np.zeros((8, 8), int), classes=2), classes)
    sure = count_calibration(np.array([[[0.9]], [[0.1]]]), np.array([[0]]))
    print_fit(Fit(1.0, sure, sure, 1))
    printed = capsys.readouterr().out
    assert "nan" not in printed
    assert "no pixel is wrong" in printed
    assert printed.count("– –") == 5
