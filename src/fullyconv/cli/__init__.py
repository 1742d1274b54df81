"""The command line. PyTorch is imported by the commands that need it, not by ``--help``."""

from __future__ import annotations

import sys
import warnings
from itertools import pairwise
from typing import Annotated

import typer

from fullyconv import __version__
from fullyconv.cli import caffe, crf, data, hsi
from fullyconv.cli.bench import bench
from fullyconv.cli.compress import compress
from fullyconv.cli.console import complain, count_warnings, show_warning
from fullyconv.cli.evaluate import evaluate
from fullyconv.cli.export import export
from fullyconv.cli.inspect import inspect
from fullyconv.cli.models import models
from fullyconv.cli.predict import predict
from fullyconv.cli.quantize import quantize
from fullyconv.cli.reproduce import reproduce
from fullyconv.cli.serve import serve
from fullyconv.cli.train import demo, train

app = typer.Typer(
    help="Fully convolutional networks: an image of any size in, a class for every pixel out.\n\n"
    "Example: `fullyconv demo` shows everything in a few minutes.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, evaluate, predict, export, serve, demo, inspect, compress, quantize, reproduce, bench, models):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(caffe.app, name="caffe")
app.add_typer(crf.app, name="crf")
app.add_typer(hsi.app, name="hsi")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fullyconv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments, as unset shell variables leave them: an empty path would be the working folder."""
    for before, given in pairwise(["", *arguments]):
        option, equals, value = given.partition("=")
        if not given or (option.startswith("--") and equals and not value):
            name = option or (before if before.startswith("-") else "an argument")
            raise ValueError(f"{name} is empty: give it a value (is a variable of the shell unset?)")


def main() -> None:
    """Run the command line; what the user can correct ends in one line and exit status 2, not a traceback."""
    warnings.showwarning = show_warning  # type: ignore[assignment]
    try:
        _refuse_empty(sys.argv[1:])
        app()
    except (ValueError, OSError, ImportError) as error:
        complain("error", error)
        sys.exit(2)
    finally:
        count_warnings()
