"""Work on many files, followed with a progress bar: what was wrong with some is said, the others are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.cli.console import Bars, complain, out
from fullyconv.data.problems import group

if TYPE_CHECKING:
    from fullyconv.files import BadFile
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.work import Outcome, Pace, Task

AT_ONCE = 20  # problems that are printed one by one


def predict_tasks(
    segmenter: Segmenter,
    tasks: list[Task],
    folder: Path,
    *,
    probabilities: bool,
    overwrite: bool = False,
    pace: Pace | None = None,
) -> int:
    """Predict with a progress bar; gives the number of bad files."""
    from fullyconv.predict.folder import predict_files

    outcomes = predict_files(segmenter, tasks, folder, probabilities=probabilities, overwrite=overwrite, pace=pace)
    return follow("predicting", outcomes, len(tasks))


def follow(what: str, outcomes: Iterator[Outcome], total: int) -> int:
    """Show progress and problems; gives the number of bad files.

    The first problems are printed as they come up, the rest in groups at the end: 20,000 lines nobody reads.
    """
    bad: list[BadFile] = []
    try:
        with Bars() as bars:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.problem is not None:
                    bad.append(outcome.problem)
                    if len(bad) <= AT_ONCE:
                        complain("skipped", outcome.problem)
                bars(what, done, total, outcome.task.image.name)
    finally:
        for each in group(bad[AT_ONCE:]):
            complain("skipped", "\n".join(each.lines()))
    return len(bad)


def paint_films(
    segmenter: Segmenter, inputs: list[str], folder: Path, *, asked: Mapping[str, object], overwrite: bool
) -> tuple[int, list[str]]:
    """Label the films among inputs with a progress bar; gives the number of bad ones, and the inputs that are none."""
    from fullyconv.predict.video import find_films, is_film, predict_films

    films, rest, bad = find_films(inputs, out=folder), [each for each in inputs if not is_film(each)], 0
    if not films:
        return 0, rest
    if given := [option for option, value in asked.items() if value]:
        raise ValueError(f"{' and '.join(given)}: for pictures, not for films: leave it out, or name the films apart")
    with Bars() as bars:

        def tell(name: str, done: int, total: int) -> None:
            bars("painting", done, max(done, total), name)

        for outcome in predict_films(segmenter, films, folder, overwrite=overwrite, tell=tell):
            if outcome.problem is not None:
                complain("skipped", outcome.problem)
                bad += 1
    out.print(f"{len(films) - bad} of {len(films)} films painted in {folder}")
    return bad, rest
