"""Arguments that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fullyconv.limits import LIMITS

Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["auto", "pytorch", "openvino"]

ModelArgument = Annotated[Path, typer.Argument(help="Model folder (RUN/model).", show_default=False)]
DataArgument = Annotated[Path, typer.Argument(help="Data-set folder.", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value; may be repeated.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="auto|float32|bfloat16|int8",
        help="Arithmetic: bfloat16 is quicker where the machine has it, int8 where the engine does.",
    ),
]
EngineOption = Annotated[Engine, typer.Option(help="What computes; openvino is an extra.")]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        "--tta",
        metavar="flip,scales=0.75,1,1.25",
        help="Average over mirrored and resized views (slower, better).",
    ),
]
CRFOption = Annotated[bool, typer.Option("--crf", help="Let a dense CRF sharpen the labels (extra: crf).")]

MaskSuffixOption = Annotated[
    str | None,
    typer.Option("--mask-suffix", help="What masks' names have after the images', _gt; default: found by counting."),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Also replace files of fullyconv's that were changed since, or made of another input."
    ),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="MODULE:FUNCTION",
        help="Code of your own that the model may call to make its network; may be repeated.",
    ),
]


def check_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of a picture that is made up, or refuse one that no picture may have.

    Raises:
        ValueError: For less than a pixel, or more pixels than a file may have.
    """
    if min(height, width) < 1 or height * width > LIMITS.pixels:
        what = f"a picture has 1 to {LIMITS.pixels} pixels (rows x columns), as in 480 x 640"
        raise ValueError(f"{height} x {width} is no size: {what}")
    return height, width


def import_from_here(*names: object) -> None:
    """Let functions that the user names, ``my_package.nets:build``, be found in the working folder.

    Only for names that are typed, those of ``--trust`` among them: nothing that a file names is looked for there.
    """
    if any(":" in str(name) for name in names) and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
