"""``fullyconv data …``: look at data sets, and make one to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import Bars, err, out, print_report
from fullyconv.cli.options import DataArgument

if TYPE_CHECKING:
    from fullyconv.check import Report

app = typer.Typer(help="Look at data sets, and make one to try.", no_args_is_help=True)


@app.command("check")
def check(data: DataArgument) -> None:
    """Read a data set once and list what is in it and what is wrong with it; exit status 1 if anything is.

    Example: `fullyconv data check photos/`
    """
    from fullyconv.check import check_folder
    from fullyconv.data.folder import open_folder

    with Bars() as bars:
        report = check_folder(open_folder(data), progress=bars)
    print_report(report)
    if report.inferred:
        write_inferred_classes(report, data)
    if report.problems:
        raise typer.Exit(1)


@app.command("demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = 320,
    val: Annotated[int, typer.Option(min=1, help="Validation pictures.")] = 40,
    seed: int = 0,
) -> None:
    """Write a generated data set to try everything on.

    Example: `fullyconv data demo shapes/ --train 320 --val 40`
    """
    from fullyconv.data.synthetic import write_dataset

    write_dataset(folder, train=train, val=val, seed=seed)
    out.print(f"{train} training and {val} validation pictures in {folder}")


def write_inferred_classes(report: Report, data: Path) -> None:
    """Write inferred classes into the data set for the user to edit, or say why not."""
    from fullyconv.data.classes import FILE_NAME, write_classes

    try:
        write_classes(report.classes, data / FILE_NAME)
    except OSError:
        err.print(
            f"{len(report.classes)} classes inferred from the masks; {data} cannot be written to, so no {FILE_NAME}"
        )
        return
    err.print(f"{len(report.classes)} classes inferred from the masks: edit their names in {data / FILE_NAME}")
