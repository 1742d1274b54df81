"""How a model scales: points, lines through them, the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fullyconv import ClassSet, Preprocess, Segmenter, build, save
from fullyconv.bench import scaling
from fullyconv.bench.scaling import Point, fit_line, lines, measure_scaling, plot_scaling
from fullyconv.cli import app


@given(st.floats(0, 10), st.floats(0.01, 10), st.integers(3, 8), st.floats(-0.1, 0.1))
def test_a_line_is_found_and_what_lies_off_it_is_said(start: float, slope: float, count: int, off: float) -> None:
    amounts = np.geomspace(1, 50, count)
    line = fit_line(amounts.tolist(), (start + slope * amounts).tolist())
    assert (line.start, line.slope) == (pytest.approx(start, abs=1e-6), pytest.approx(slope, abs=1e-6))
    assert line.worst < 1e-6
    values = slope * amounts
    values[-1] *= 1 + off
    # The best line is no further off than the one that was disturbed, in the sum of squares.
    fitted = fit_line(amounts.tolist(), values.tolist())
    residuals = (fitted.start + fitted.slope * amounts) / values - 1
    assert (residuals**2).sum() <= (off / (1 + off)) ** 2 + 1e-9
    assert fitted.worst == pytest.approx(np.abs(residuals).max(), abs=1e-6)


def model() -> Segmenter:
    network = build("fcn4s-lenet", 2, channels=3)
    return Segmenter(network, classes=ClassSet(("a", "b")), preprocess=Preprocess(), device="cpu")


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little."""
    for name, values in {"AREAS": (0.001, 0.002, 0.004), "SIDES": (30, 40), "BATCHES": (1, 2, 3)}.items():
        monkeypatch.setattr(scaling, name, values)
    monkeypatch.setattr(scaling, "CLASSES", (2, 5))


def test_every_axis_is_measured_within_the_time_and_the_threads_are_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few(monkeypatch)
    threads, told = torch.get_num_threads(), list[Point]()
    points = measure_scaling(model(), seconds=30, told=told.append)
    assert points == told
    amounts = {axis: [point.amount for point in points if point.axis == axis] for axis in scaling.UNITS}
    assert amounts["area"] == [0.001, 0.002, 0.004]
    assert amounts["batch"] == [1, 2, 3]
    assert amounts["classes"] == [2, 5]
    assert amounts["threads"][0] == 1
    assert torch.get_num_threads() == threads
    assert all(point.seconds > 0 for point in points)


def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def calls(axis: str, *_: object) -> object:
        for amount in (1.0, 2.0, 1e9):
            made.append(amount)
            yield amount, lambda: sum(range(20000))

    monkeypatch.setattr(scaling, "_calls", calls)
    points = measure_scaling(model(), seconds=3)
    assert {point.amount for point in points} == {1.0, 2.0}
    assert 1e9 in made


def test_lines_need_three_points_and_threads_are_fitted_by_speed() -> None:
    points = [Point("area", amount, 0.1 + amount, 1e6 * amount) for amount in (1.0, 2.0, 3.0)]
    points += [Point("threads", amount, 1 / amount, 1.0) for amount in (1.0, 2.0, 4.0)]
    points += [Point("batch", 1.0, 1.0, 1.0), Point("batch", 2.0, 2.0, 2.0)]
    found = lines(points)
    assert sorted(found) == ["area", "threads"]
    times, held = found["area"]
    assert (times.start, times.slope) == (pytest.approx(0.1), pytest.approx(1.0))
    assert held is not None
    assert held.slope == pytest.approx(1e6)
    assert found["threads"][0].slope == pytest.approx(1.0)
    assert found["threads"][1] is None
    assert len(plot_scaling(points, "a title").axes) == 7  # four, and memory beside all but threads


def test_the_command_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    segmenter = model()
    save(segmenter.network, tmp_path / "model", classes=segmenter.classes, preprocess=segmenter.preprocess)
    picture = tmp_path / "scaling.png"
    options = ["--scaling", str(picture), "--seconds", "10", "--device", "cpu"]
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "model"), *options])
    assert result.exit_code == 0, result.output
    assert "0.004 megapixels" in result.output
    assert "area (megapixels)" in result.output
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 300
