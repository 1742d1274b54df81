"""``fullyconv data …``: look at data sets, make one to try; those that are published are in ``cli.published``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fullyconv.cli.console import (
    Bars,
    err,
    out,
    print_bounds,
    print_head,
    print_inferred,
    print_problems,
    print_report,
    print_scene,
)
from fullyconv.cli.options import MaskSuffixOption, OverwriteOption
from fullyconv.cli.published import fetch, hha, seg11valid
from fullyconv.files import counted

if TYPE_CHECKING:
    from fullyconv.data.check import Report
    from fullyconv.data.pairs import Folder
    from fullyconv.hsi.files import SceneFiles
    from fullyconv.hsi.labels import Zero

HELP = "Look at data sets, fetch published ones, make one to try.\n\nExample: `fullyconv data check photos/`"
app = typer.Typer(help=HELP, no_args_is_help=True)
RANDOM_CLASSES = 6  # of a scene without a label map


@app.command("check")
def check(
    data: Annotated[Path, typer.Argument(help="Data-set folder, or a hyperspectral scene's file.", show_default=False)],
    labels: Annotated[Path | None, typer.Option(help="Of a scene: the file of its label map.")] = None,
    cube_key: Annotated[str | None, typer.Option(help="Of a scene: name of the cube in its file.")] = None,
    label_key: Annotated[str | None, typer.Option(help="Of a scene: name of the label map.")] = None,
    zero: Annotated[str | None, typer.Option(help="Of a scene: what 0 is in the map, unlabelled or class.")] = None,
    mask_suffix: MaskSuffixOption = None,
    pages: Annotated[
        str | None, typer.Option(help="Of pictures of several pages the one to take, from 0, or channels: all.")
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Masks number things, each its own: take all of them for one class.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--report", help="Write report.html, with pictures that are alike, into this folder.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write-classes", help="Write inferred classes into DATA/classes.yaml, for you to name them."),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Read a data set once and list what is in it and what is wrong with it; exit status 1 if anything is.

    Nothing is written into the data set unless `--write-classes` says so. Of pictures with several masks ('heads' in
    classes.yaml) the masks of each head are checked.

    Examples: `fullyconv data check photos/ --report checked`, and for a scene (MATLAB, ENVI, GeoTIFF, NumPy)
    `fullyconv data check PaviaU.mat --labels PaviaU_gt.mat`.
    """
    from fullyconv.data.folder import open_folder

    if zero not in (None, "unlabelled", "class"):
        raise ValueError(f"--zero is unlabelled or class, not {zero!r}")
    if data.is_file():
        from fullyconv.hsi.files import SceneFiles

        if write or page:
            raise ValueError(f"{data} is a scene's file: --write-classes and --report are for folders of pictures")
        zeros: Zero = "class" if zero == "class" else "unlabelled"
        _check_scene(SceneFiles(data, labels, cube_key, label_key, zero=zeros))
        return
    if labels or cube_key or label_key or zero:
        raise ValueError(f"{data} is no scene's file: --labels, --cube-key, --label-key and --zero are for scenes")
    report = _check_pictures(
        open_folder(data, mask_suffix), _pages(pages), page, instances=instances, overwrite=overwrite
    )
    if write:
        _write_classes(report)
    print_inferred(report, first=not write)
    if report.problems:
        raise typer.Exit(1)


def _check_pictures(
    folder: Folder, pages: int | Literal["channels"] | None, page: Path | None, *, instances: bool, overwrite: bool
) -> Report:
    """Check a folder of pictures; writes the page of what was found into the folder ``page``."""
    from fullyconv.data.bounds import sample_bounds
    from fullyconv.data.check import check_folder, usable_pairs
    from fullyconv.data.kinship import find_kin
    from fullyconv.outputs import single_output
    from fullyconv.report import FILE_NAME, write_data_report

    written = None if page is None else single_output(page / FILE_NAME, overwrite=overwrite, by="data check")
    with Bars() as bars:
        report = check_folder(folder, pages=pages, instances=instances, progress=bars)
        kin = find_kin(report.folder.splits, progress=bars)
        masks = {"": report} | report.heads
        bounds = {name: sample_bounds(usable_pairs(own), own.classes, progress=bars) for name, own in masks.items()}
    print_report(report)
    for split, found in kin.items():
        out.print("\n".join(found.lines(split)))
    for name, own in masks.items():
        print_head(name)
        print_bounds(bounds[name], own.classes)
    if written is not None:
        with written.writing(FILE_NAME):
            out.print(f"report {write_data_report(written.folder, report, kin, bounds, title=str(folder.root))}")
    if report.folder.note:
        err.print(report.folder.note)
    return report


def _pages(word: str | None) -> int | Literal["channels"] | None:
    """Read which pages of pictures count."""
    if word is None or word == "channels":
        return "channels" if word else None
    if not word.isdecimal():
        raise ValueError(f"--pages is a number from 0, or channels, not {word!r}")
    return int(word)


def _check_scene(files: SceneFiles) -> None:
    from fullyconv.files import BadFile

    try:
        report = files.check()
    except BadFile as problem:
        print_problems([problem])
        raise typer.Exit(1) from None
    print_scene(report)
    if report.problems:
        raise typer.Exit(1)


def _write_classes(report: Report) -> None:
    """Write inferred classes into the data set for the user to edit; what it states stays as it is."""
    from fullyconv.data.classes import FILE_NAME, write_classes

    if not report.inferred:
        err.print(f"{report.folder.root} states its classes: nothing is written")
        return
    place = report.folder.root / FILE_NAME
    write_classes(report.classes, place)
    err.print(f"{len(report.classes)} classes inferred from the masks: edit their names in {place}")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of pictures with annotations, or with masks of any form.")],
    out_: Annotated[Path, typer.Option("--out", help="New folder for images/, masks/ and classes.yaml.")],
    boxes: Annotated[bool, typer.Option("--boxes", help="Draw what has a box alone as a rectangle.")] = False,
    rest: Annotated[
        Literal["background", "ignore"],
        typer.Option(help="What pixels outside all shapes are: a class, or not scored."),
    ] = "background",
    skip_problems: Annotated[
        bool, typer.Option("--skip-problems", help="Leave out pictures that cannot be drawn.")
    ] = False,
) -> None:
    """Write a data set of any form as the plain one: images, masks, and the names of the classes.

    Examples: `fullyconv data convert coco/ --out plain/`, `fullyconv data convert labelme/ --out plain/`, then
    `fullyconv data check plain/`. Reads COCO (also Roboflow's folders), LabelMe, YOLO's outlines, CVAT (XML, or masks
    with labelmap.txt), Label Studio and Supervisely; masks in PNG, TIFF, GIF, NumPy or MATLAB files. What is drawn
    later lies on top; splits are kept. Exit status 1 if a picture cannot be drawn; nothing is written then.
    """
    from fullyconv.annotations.convert import Options, Refused
    from fullyconv.annotations.convert import convert as write

    try:
        with Bars() as bars:
            done = write(source, out_, Options(boxes, rest, skip_problems), progress=bars)
    except Refused as refused:
        print_problems(refused.problems)
        err.print("Nothing is written: correct it, or leave these pictures out with --skip-problems.")
        raise typer.Exit(1) from None
    if done.problems:
        print_problems(done.problems)
    for note in done.notes:
        err.print(note)
    splits = ", ".join(f"{count} {split}" for split, count in done.splits.items())
    out.print(
        f"{done.kind}: {counted(done.regions, 'shape')}, pictures {splits}, {len(done.classes)} classes in {out_}"
    )


@app.command("scene")
def scene(
    labels: Annotated[
        str, typer.Argument(help="A label map (MATLAB, ENVI, GeoTIFF, .npy or PNG; 0 is not labelled), or random.")
    ],
    out_: Annotated[Path, typer.Option("--out", help="Scene to write: .mat, .npz, .hdr (ENVI), .tif or .npy.")],
    bands: Annotated[int, typer.Option(min=3, help="Bands, from 400 to 2400 nm.")] = 103,
    label_key: Annotated[str | None, typer.Option(help="Name of the map in a file of several.")] = None,
    seed: int = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a hyperspectral scene for a label map: spectra per class, mixed at borders, unevenly lit, with noise.

    Examples: `fullyconv data scene PaviaU_gt.mat --out pavia.mat`, then `fullyconv data check pavia.mat`;
    without a map at hand, `fullyconv data scene random --out scene.npz` draws one.
    """
    from fullyconv.hsi.files import SceneFiles
    from fullyconv.hsi.formats.by_suffix import save_scene, scene_files
    from fullyconv.hsi.labels import class_set
    from fullyconv.hsi.synthetic import make_scene, random_map
    from fullyconv.outputs import single_output

    written = scene_files(out_)
    inputs = () if labels == "random" else (Path(labels),)
    outputs = single_output(*written, inputs=inputs, overwrite=overwrite, by="data scene")
    if labels == "random":
        named = random_map(140, 180, classes=RANDOM_CLASSES, seed=seed), class_set(RANDOM_CLASSES)
    else:
        named = SceneFiles(labels, label_key=label_key).open_labels()
    made = make_scene(*named, bands=bands, seed=seed)
    with outputs.writing(*(file.name for file in written)):
        beside = save_scene(made, out_)
    height, width, _ = made.cube.shape
    out.print(f"{height} x {width} pixels (rows x columns), {bands} bands in {out_}, labels in {beside}")


@app.command("demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = 320,
    val: Annotated[int, typer.Option(min=1, help="Validation pictures.")] = 40,
    seed: int = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a generated data set to try everything on.

    Example: `fullyconv data demo shapes/ --train 320 --val 40`
    """
    from fullyconv.data.synthetic import dataset_files, write_dataset
    from fullyconv.outputs import Outputs

    names = dataset_files(train=train, val=val)
    outputs = Outputs(folder, overwrite=overwrite, by="data demo")
    outputs.check(names)
    with outputs.writing(*names):
        write_dataset(folder, train=train, val=val, seed=seed)
    out.print(f"{train} training and {val} validation pictures in {folder}")


for published in (fetch, seg11valid, hha):
    app.command()(published)
