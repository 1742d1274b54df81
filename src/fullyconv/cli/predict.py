"""``fullyconv predict``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from fullyconv.cli.labelling import Asked, label_by_heads, label_scenes, predict_on_cluster
from fullyconv.cli.options import (
    CRFOption,
    DeviceOption,
    ModelArgument,
    OverwriteOption,
    PrecisionOption,
    TrustOption,
    ViewsOption,
    import_from_here,
)

if TYPE_CHECKING:
    from fullyconv.predict.image import Segmenter

LIBRARIES = 500 << 20  # bytes that Python, PyTorch and NumPy take
LEAST_LEFT = 96 << 20
OTHERS = "for {}, which this model's inputs are not"

# What is written.
ProbabilitiesOption = Annotated[
    bool,
    typer.Option(
        "--probabilities", help="Also write C x H x W float16 class probabilities (.npz; of huge pictures .npy)."
    ),
]
PolygonsOption = Annotated[
    bool, typer.Option("--polygons", help="Also write each picture's regions as polygons (.geojson).")
]
PolygonsToOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="coco|yolo|labelme|gpkg",
        help="Also write them for other tools: coco.json, or a .txt, .json or .gpkg each; may be repeated.",
    ),
]
SimplifyOption = Annotated[
    float, typer.Option(min=0, metavar="PIXELS", help="How far outlines may move to have fewer corners.")
]
AreasOption = Annotated[
    bool, typer.Option("--areas", help="Also write pixels and area of each class and region (areas.csv).")
]
LegendOption = Annotated[bool, typer.Option("--legend", help="Put the classes' names below each overlay.")]
SheetOption = Annotated[bool, typer.Option("--sheet", help="Also write a page of all overlays (index.html).")]

# How the model looks.
UncertaintyOption = Annotated[
    bool, typer.Option("--uncertainty", help="Also write how uncertain each pixel is (several looks: slower).")
]
LevelOption = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Of slides, pyramids and Zarr: which size to label, 0 the full one."),
]
ApproximateOption = Annotated[
    bool,
    typer.Option(
        "--approximate",
        help="Show tiles to networks in which every position sees the whole picture, where that needs more memory.",
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="2GiB",
        help="Memory to use; what needs more is read, labelled and written by rows. Default: what is free.",
    ),
]

# Of scenes alone.
CubeKeyOption = Annotated[str | None, typer.Option(help="Of scenes: name of the cube in files that hold several.")]
RGBOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Of scenes: wavelengths in nm to show as red, green and blue; default: 650 550 450."),
]

# Where it computes.
AnyEngineOption = Annotated[
    Literal["auto", "pytorch", "openvino", "ray"],
    typer.Option(help="What computes: openvino and ray are extras; ray is a cluster (docs/machines.md)."),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="With ray: how many workers; default: one per GPU, or per CPU.")
]
ColumnOption = Annotated[str, typer.Option(help="With ray: the column of paths or URLs in tables (.csv, .parquet).")]


def predict(
    model: ModelArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Images, films or scenes: files, folders, globs, addresses (https://…), - (stdin)."),
    ],
    context: typer.Context,
    out_: Annotated[
        str | None, typer.Option("--out", help="Folder for the pictures and maps; default: a new runs/predict-N.")
    ] = None,
    probabilities: ProbabilitiesOption = False,
    polygons: PolygonsOption = False,
    polygons_to: PolygonsToOption = None,
    simplify: SimplifyOption = 0.0,
    areas: AreasOption = False,
    legend: LegendOption = False,
    sheet: SheetOption = False,
    uncertainty: UncertaintyOption = False,
    crf: CRFOption = False,
    tta: ViewsOption = None,
    cube_key: CubeKeyOption = None,
    rgb: RGBOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: AnyEngineOption = "auto",
    workers: WorkersOption = None,
    column: ColumnOption = "image",
    memory: MemoryOption = None,
    level: LevelOption = 0,
    approximate: ApproximateOption = False,
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Label every pixel of images: a palette PNG of the same size and an overlay each.

    Examples: `fullyconv predict runs/photos/model holiday.jpg --out labelled`,
    `curl -s https://example.org/a.jpg | fullyconv predict camvid -`,
    `fullyconv predict runs/photos/model photos/ "scans/*.tif" --out labelled --probabilities`.
    A bad file is reported and skipped; exit status 1 then.
    Of a model with several heads the first one's pictures lie in DIR, those of a further one in DIR/HEAD.
    `--uncertainty` writes NAME_entropy.png and NAME_spread.png, 0 certain to 255: dropout samples where the network has
    dropout, else mirrored and resized views.

    Pictures of any size: `fullyconv predict camvid mosaic.tif --out labelled --memory 2GiB` reads a TIFF or PNG by
    rows, gives the labels of one pass, and goes on where it was if it is killed and started again. So with Zarr stores
    (extra: zarr), and the smaller sizes of slides and pyramids: `fullyconv predict camvid slide.svs --level 2`,
    `fullyconv predict camvid scan.zarr --out labelled` (its labels are scan_classes.zarr, too).

    On a Ray cluster (extra: ray), of paths and URLs; run again, it labels only what is left:
    `fullyconv predict camvid s3://bucket/photos --out s3://bucket/labelled --engine ray`.

    A film, `fullyconv predict camvid drive.mp4 --out labelled`, gives drive_overlay.mp4 (extra: video).

    For maps and for correcting in annotation tools:
    `fullyconv predict camvid photos/ --out labelled --polygons --polygons-to labelme --areas --sheet`. A GeoTIFF gets
    a map that lies where it does (_classes.tif), and polygons and areas in its reference system; `--polygons-to gpkg`
    writes them as GeoPackage for GIS.

    A model of hyperspectral scenes takes MATLAB, ENVI (.hdr), GeoTIFF and NumPy files, and writes the map as PNG,
    with a legend, as ENVI Classification and as GeoTIFF (where the scene lies), and the scene in false colours:
    `fullyconv predict runs/pavia/model PaviaU.mat --out maps`.
    """
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.machine import arithmetic, keep_freed_memory
    from fullyconv.opening import load
    from fullyconv.predict.beside import Beside
    from fullyconv.predict.ray import Choices

    out_ = out_ or str(_new_folder(Path("runs")))
    _refuse_model(Path(out_))
    import_from_here(*(trust or ()))
    beside = Beside(
        polygons or bool(polygons_to), tuple(polygons_to or ()), simplify, areas=areas, legend=legend, level=level
    )
    asked = Asked(Path(out_), beside, probabilities, sheet, overwrite, crf, tta, uncertainty, cube_key, rgb)
    if engine == "ray":
        alone = {**asked.of_pictures, "--tta": None, "--memory": memory, "--approximate": approximate}
        _refuse({**alone, **asked.of_scenes}, "not done on a cluster")
        choices = Choices(probabilities, tta, arithmetic(precision), device, tuple(trust or ()), workers, overwrite)
        predict_on_cluster(model, inputs, out_, choices, column=column)
        return
    _refuse({"--workers": workers, "--column": column != "image"}, "for --engine ray")
    inputs = _local(inputs, context)
    keep_freed_memory()
    segmenter = load(model, device=device, precision=arithmetic(precision), engine=engine, trust=trust or ())
    segmenter.approximate, segmenter.level = approximate, level
    if memory is not None:
        allow_memory(segmenter, memory)
    if precision != "auto" or engine != "auto":
        segmenter.prepared()  # what cannot be had is said once, not of every picture
    if isinstance(segmenter, SceneSegmenter):
        _refuse(asked.of_pictures, OTHERS.format("pictures"))
        bad = label_scenes(segmenter, inputs, asked)
    else:
        _refuse(asked.of_scenes, OTHERS.format("scenes"))
        bad = label_by_heads(segmenter, model, inputs, asked)
    if bad:
        raise typer.Exit(1)


def _refuse_model(place: Path) -> None:
    """Refuse a model's folder as the place for pictures."""
    from fullyconv.checkpoint import CONFIG, WEIGHTS
    from fullyconv.files import BadFile

    if (place / CONFIG).is_file() and (place / WEIGHTS).is_file():
        raise BadFile(place, "is a model's folder, which training replaces as a whole", "choose another --out")


def _new_folder(runs: Path) -> Path:
    """Return the first folder of the runs that is not there yet, ``predict-1``, ``predict-2`` and so on."""
    return next(folder for number in count(1) if not (folder := runs / f"predict-{number}").exists())


def _local(inputs: Sequence[str], context: typer.Context) -> list[str]:
    """Put what comes from addresses and the standard input into files, which go when the command ends."""
    from fullyconv.predict.inputs import ADDRESS, fetch

    if not any(each == "-" or ADDRESS.match(each) for each in inputs):
        return list(inputs)
    folder = TemporaryDirectory()
    context.call_on_close(folder.cleanup)
    found = []
    for number, each in enumerate(inputs):
        if each != "-" and not ADDRESS.match(each):
            found.append(each)
            continue
        name = "stdin" if each == "-" else Path(urlsplit(each).path).name or "picture"
        file = Path(folder.name, str(number), name)
        file.parent.mkdir()
        file.write_bytes(sys.stdin.buffer.read() if each == "-" else fetch(each))
        found.append(str(file))
    return found


def allow_memory(segmenter: Segmenter, words: str) -> None:
    """Share an amount of memory among what a prediction takes: PyTorch and the model, maps, the picture.

    Raises:
        ValueError: For what is no amount, or less than the model itself takes.
    """
    from fullyconv.machine import read_bytes

    amount = read_bytes(words)
    weights = sum(each.numel() * each.element_size() for each in segmenter.network.parameters())
    left = amount - 2 * weights - LIBRARIES
    if left < LEAST_LEFT:
        needed = (2 * weights + LIBRARIES + LEAST_LEFT) / 2**20
        raise ValueError(f"--memory {words}: this model needs {needed:.0f} MiB to begin with")
    segmenter.memory, segmenter.picture_memory = left // 3, left // 3


def _refuse(options: Mapping[str, object], wrong: str) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        raise ValueError(f"{' and '.join(given)}: {wrong}: leave it out")
