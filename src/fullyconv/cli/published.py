"""``fullyconv data …``: fetch the published data sets, and compute what they do not come with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import Bars, complain, out
from fullyconv.cli.options import OverwriteOption
from fullyconv.cli.progress import follow
from fullyconv.files import counted

if TYPE_CHECKING:
    from fullyconv.data.sources import Source


def fetch(
    name: Annotated[str, typer.Argument(help="Data set; an unknown name lists the known ones.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder to unpack it into.")],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives beside what they hold.")] = False,
) -> None:
    """Download a published data set and unpack it; run it again to continue after an interruption.

    Example: `fullyconv data fetch voc2012 --out pascal/`, then `fullyconv data check pascal/`.
    Known: voc2007 to voc2012, sbdd, pascal-context (needs voc2010 in the same folder), siftflow, nyud.
    """
    from fullyconv.data.sources import SOURCES

    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    for source in SOURCES[name]:
        _fetch(source, out_, keep=keep)


def _fetch(source: Source, folder: Path, *, keep: bool) -> None:
    from fullyconv.data.archives import is_archive, unpack
    from fullyconv.data.fetch import download

    with Bars() as bars:
        fetched = download(
            source,
            folder / source.name,
            progress=lambda done, total: bars(source.name, done >> 20, (total or done) >> 20, "MiB"),
        )
    verdict = "as published" if fetched.verified else "no published sum is known: compare it with a trusted copy's"
    out.print(f"{fetched.path} sha256 {fetched.sha256} ({verdict})")
    if not is_archive(fetched.path):
        return
    unpacked = unpack(fetched.path, folder)
    out.print(f"{unpacked.files} files, {unpacked.size >> 20} MiB in {folder}")
    for skipped in unpacked.skipped:
        complain("skipped", f"{skipped}: a link or device")
    if not keep:
        fetched.path.unlink()


def seg11valid(
    voc: Annotated[Path, typer.Option(help="VOCdevkit/VOC2011.")],
    sbdd: Annotated[Path, typer.Option(help="SBDD's benchmark_RELEASE/dataset.")],
) -> None:
    """Write the list of pictures the papers score on: VOC2011's val without what SBDD trains on (736).

    Example: `fullyconv data seg11valid --voc VOCdevkit/VOC2011 --sbdd benchmark_RELEASE/dataset`, then
    `fullyconv evaluate MODEL VOCdevkit/VOC2011 --split seg11valid`. Exit status 1 for another count.
    """
    from fullyconv.data.pairs import read_list
    from fullyconv.data.pascal import count_note, seg11valid_file, write_seg11valid
    from fullyconv.outputs import single_output

    target = seg11valid_file(voc)
    with single_output(target).writing(target.name):
        write_seg11valid(voc, sbdd)
    count = len(read_list(target).stems)
    out.print(f"{counted(count, 'picture')} in {target}")
    if note := count_note(count):
        complain("problem", note)
        raise typer.Exit(1)


def hha(
    depth: Annotated[Path, typer.Argument(help="Folder of 16-bit depth PNGs in millimetres.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the HHA pictures.")],
    camera: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Focal lengths and centre in pixels: FX FY CX CY; default: NYUDv2's, 560 x 425 pictures."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compute HHA pictures (disparity, height above ground, angle with gravity) from depth pictures.

    Example: `fullyconv data hha nyud/data/depth --out nyud/data/hha`. A bad file is reported and skipped;
    exit status 1 then.
    """
    from fullyconv.data.depth import NYUD_CAMERA, Intrinsics
    from fullyconv.data.nyud import depth_hha, write_hha
    from fullyconv.outputs import Outputs
    from fullyconv.predict.work import Task, Work, work_through

    files = sorted(depth.glob("*.png"))
    tasks = [Task(file, Path(file.stem)) for file in files if not Outputs(out_).wrote(file)]
    if not tasks:
        raise ValueError(f"{depth}: no depth picture: name a folder of 16-bit PNGs")
    given = Intrinsics(*camera) if camera else NYUD_CAMERA
    work = Work(
        suffixes=(".png",),
        read=lambda task: task.image,
        predict=lambda image: depth_hha(image, given),
        write=write_hha,
    )
    outcomes = work_through(tasks, Outputs(out_, inputs=files, overwrite=overwrite), work)
    bad = follow("computing", outcomes, len(tasks))
    out.print(f"{len(tasks) - bad} of {len(tasks)} pictures in {out_}")
    if bad:
        raise typer.Exit(1)
