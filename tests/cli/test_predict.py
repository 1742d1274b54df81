"""What ``fullyconv predict`` says of many pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fullyconv import build, save
from fullyconv.cli import app
from fullyconv.cli.predict import AT_ONCE, follow
from fullyconv.files import BadFile
from fullyconv.predict.work import Outcome, Task


def bad(index: int) -> Outcome:
    image = Path(f"in/{index}.jpg")
    kinds = ("truncated (after {} bytes)", "unreadable ('{}')")
    return Outcome(
        Task(image, Path(str(index))), problem=BadFile(image, kinds[index % 2].format(index), "leave it out")
    )


@pytest.mark.parametrize(("count", "most"), [(AT_ONCE, AT_ONCE), (20_000, AT_ONCE + 2 * 4)])
def test_many_bad_pictures_are_told_in_few_lines(count: int, most: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow("predicting", map(bad, range(count)), count) == count
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == most
    assert lines[0] == "skipped: in/0.jpg: truncated (after 0 bytes): leave it out"
    if count > AT_ONCE:
        assert f"({(count - AT_ONCE) // 2} like this)" in lines[AT_ONCE]


def test_the_seconds_of_computing_and_waiting_are_printed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        Image.fromarray(np.full((9, 12, 3), index * 40, np.uint8)).save(tmp_path / f"in/{index}.png")
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    result = CliRunner().invoke(app, ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert re.search(r"3 images in \d+\.\d s: \d+\.\d computing, \d+\.\d waiting", result.output)
