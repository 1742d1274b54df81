"""``fullyconv inspect``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from fullyconv.cli.console import behind, complain, out
from fullyconv.cli.opening import Subject, class_index, open_subject
from fullyconv.cli.options import OverwriteOption, TrustOption, check_size, import_from_here

if TYPE_CHECKING:
    from fullyconv.geometry import AxisMap
    from fullyconv.networks.fcn import FCN
    from fullyconv.networks.inspection import Alignment, Inspection, LayerFacts
    from fullyconv.predict.heatmap import HeatMap
    from fullyconv.surgery.convolutionize import FullyConvolutional
    from fullyconv.trace import Remark

Size = tuple[int, int]
STRONGEST = 5
USUAL_STRIDE = 8
MOST_NAMED = 4
MOST_EXAMPLE = 2048**2  # pixels: the largest that are trained see 1024 x 1024 or less
WIDEST = 400
GIGA = 10**9
MEGA = 10**6


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_NAME", help="Model folder, network or classifier.", show_default=False)
    ],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the picture; default: 224x224, or the classifier's.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also activations, normalisation, sums and the like.")] = False,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Of the finest map to tap in a classifier [8, as in FCN-8s].")
    ] = None,
    taps: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Modules of a classifier to tap instead, by their names.")
    ] = None,
    example: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size a classifier of your own was made for [224x224].")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors file to fill a named network from, by the tensors' names.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it here, exactly.")] = None,
    heatmap: Annotated[Path | None, typer.Option(metavar="IMAGE", help="Picture to see a class in.")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="N|NAME", help="The class to see; default: the strongest.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="In a classifier's heat map show scores, not probabilities.")
    ] = False,
    out_: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="Where to write the heat map.")] = None,
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Print what a network is made of and where every layer looks; of a classifier, how it becomes an FCN.

    A name is a network (`fcn8s-resnet18`, `voc-fcn8s`, `fcn8s-timm:convnext_tiny`) or a classifier (`vgg16`,
    `timm:resnet50`, `torchvision:resnet50`, `my_package.nets:build`).

    Examples: `fullyconv inspect runs/photos/model --size 480x640`,
    `fullyconv inspect timm:resnet50 --stride 16 --json resnet50.json`,
    `fullyconv inspect torchvision:resnet18 --weights resnet18.safetensors --heatmap cat.jpg --class tabby --out h.png`.
    """
    if heatmap is not None and out_ is None:
        raise ValueError("a heat map needs a file to be written to: give --out FILE.png")
    from fullyconv.outputs import single_output

    inputs = [file for file in (heatmap, weights) if file is not None]
    for file in (json_file, out_):
        if file is not None:
            single_output(file, inputs=inputs, overwrite=overwrite)
    import_from_here(model, *(trust or ()))
    subject = open_subject(model, weights=weights, side=_read_example(example), trust=trust or ())
    wanted = None if size is None else read_size(size)
    if subject.example is None:
        document, dense = _show_network(model, subject, wanted, everything=all_), None
    else:
        document, dense = _show_classifier(model, subject, wanted, everything=all_)
        document |= _show_taps(subject, stride=stride, taps=taps)
    if json_file is not None:
        _write(json_file, {"name": model} | document)
    if heatmap is not None and out_ is not None:
        _show_heat(_heat_map(subject, dense, heatmap, scores=scores), subject, wanted=class_, file=out_)


def read_size(text: str) -> Size:
    """Read ``HxW``.

    >>> read_size("97x131")
    (97, 131)
    """
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip())
    if found is None:
        raise ValueError(f"{text[:40]!r} is no size: write height x width in pixels, as in 480x640")
    return check_size(*map(int, found.groups()))


def _read_example(text: str | None) -> Size | None:
    """Read the size that a classifier was made for, at which it is run."""
    found = None if text is None else read_size(text)
    if found is not None and found[0] * found[1] > MOST_EXAMPLE:
        raise ValueError(f"--example {text}: no classifier is made for over {MOST_EXAMPLE} pixels: name its own size")
    return found


def _show_network(name: str, subject: Subject, size: Size | None, *, everything: bool) -> dict[str, Any]:
    from fullyconv.networks.inspection import inspect as look

    network = cast("FCN", subject.network)
    smallest = network.smallest_input
    found = look(network, size=size or (max(224, smallest[0]), max(224, smallest[1])))
    print_layers(name, found, everything=everything)
    if found.alignment is not None:
        print_alignment(found.alignment)
    return found.document()


def _show_classifier(
    name: str, subject: Subject, size: Size | None, *, everything: bool
) -> tuple[dict[str, Any], FullyConvolutional]:
    from fullyconv.networks.inspection import inspect as look
    from fullyconv.networks.inspection import lines_document
    from fullyconv.surgery.convolutionize import convolutionize

    channels, height, width = subject.example or (3, 224, 224)
    dense = convolutionize(subject.network, (channels, height, width))
    found = look(subject.network, size=(height, width), channels=channels)
    if size not in (None, (height, width)):
        name, found = f"{name}, fully convolutional", replace(look(dense, size=size), remarks=found.remarks)
    print_layers(name, found, everything=everything)
    looks = "the classifier's answer for a window" if dense.slides else "a score whose mean is the classifier's"
    out.print(
        f"\nfully convolutional: every unit is {looks}; stride {_both(dense.rows.scale, dense.columns.scale)} px, "
        f"first centre {_both(dense.rows.shift, dense.columns.shift)}, "
        f"field {_both(dense.rows.field, dense.columns.field)} px"
    )
    document = found.document()
    return document | {"dense": {"slides": dense.slides, "looks": lines_document((dense.rows, dense.columns))}}, dense


def _show_taps(subject: Subject, *, stride: int | None, taps: str | None) -> dict[str, Any]:
    """Make an FCN of a classifier; that there is no map at the usual stride is told, but no mistake."""
    from fullyconv.networks import from_classifier
    from fullyconv.networks.inspection import alignment_document
    from fullyconv.networks.inspection import inspect as look
    from fullyconv.trace import NotFollowed

    named = tuple(part.strip() for part in taps.split(",")) if taps else ()
    try:
        network = from_classifier(
            subject.network, 21, stride or USUAL_STRIDE, taps=named, example=subject.example, origin="inspected:network"
        )
    except NotFollowed:
        raise
    except ValueError as error:
        if stride is not None or named:
            raise
        complain("no FCN yet", f"{error}: choose one with --stride, or maps with --taps")
        return {}
    found = look(network).alignment
    if found is None:
        return {}
    print_alignment(found)
    return {"alignment": alignment_document(found)}


def _heat_map(subject: Subject, dense: FullyConvolutional | None, image: Path, *, scores: bool) -> HeatMap:
    from fullyconv.data.images import read_image
    from fullyconv.predict.heatmap import classifier_heat_map, model_heat_map
    from fullyconv.predict.image import Segmenter
    from fullyconv.types import ClassSet, SpectralPreprocess

    if isinstance(subject.preprocess, SpectralPreprocess):
        raise ValueError("the model sees spectra: a heat map is painted over a picture, which it cannot read")
    if not subject.trained:
        complain("careful", "the weights are random, so the heat map means nothing: give --weights FILE.safetensors")
    if dense is not None:
        return classifier_heat_map(dense, read_image(image), subject.preprocess, scores=scores)
    network = cast("FCN", subject.network)
    if subject.trained and not any(weight.any() for weight in network.heads.parameters()):
        complain("careful", "the model's score layers hold only zeros, as before training: all classes look alike")
    names = subject.classes or tuple(map(str, range(network.classes)))
    segmenter = Segmenter(network, classes=ClassSet(names), preprocess=subject.preprocess)
    segmenter.temperature = subject.temperature
    return model_heat_map(segmenter, image)


def _show_heat(found: HeatMap, subject: Subject, *, wanted: str | None, file: Path) -> None:
    from fullyconv.draw import save_picture
    from fullyconv.outputs import single_output

    count = len(found.values)
    names = subject.classes if len(subject.classes) == count else ()

    def called(index: int) -> str:
        return f"{names[index]} ({index})" if names else f"class {index}"

    strongest = found.strongest(STRONGEST)
    index = strongest[0][0] if wanted is None else class_index(wanted, names, count)
    with single_output(file, overwrite=True).writing(file.name):
        save_picture(found.picture(index, called(index)), file)
    out.print(f"\nmean {found.what}: " + ", ".join(f"{called(each)} {value:.3g}" for each, value in strongest))
    out.print(f"heat map of {called(index)} {file}")


def _write(file: Path, document: dict[str, Any]) -> None:
    from fullyconv.files import write_json
    from fullyconv.outputs import single_output

    with single_output(file, overwrite=True).writing(file.name):
        write_json(file, document)
    out.print(f"layers and alignment {file}")


def print_layers(name: str, found: Inspection, *, everything: bool) -> None:
    """Print the layers of a network, a row each."""
    channels, height, width = found.picture
    table = _table(
        f"{name} at {channels} x {height} x {width}",
        ("module", "kind"),
        ("channels", "size", "stride", "field", "first centre", "parameters", "multiply-adds"),
    )
    shown = [layer for layer in found.layers if everything or not layer.pointwise]
    for layer in shown:
        table.add_row(*_cells(layer))
    _print_wide(table)
    left = len(found.layers) - len(shown)
    out.print(
        f"{found.parameters:,} parameters, {_many(found.multiply_adds)} multiply-adds"
        + (f" (--all shows {left} more operations, which act on each unit by itself)" if left else "")
    )
    _print_remarks(found.remarks)


def _print_remarks(remarks: Iterable[Remark]) -> None:
    """Say what is to be known of some modules, once for all of which it holds."""
    places: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        places.setdefault((remark.kind, remark.text), []).append(remark.path)
    for (kind, text), paths in places.items():
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        out.print(behind(kind, "yellow", f"{text}: {', '.join(paths[:MOST_NAMED])}{more}"))


def _cells(layer: LayerFacts) -> Iterable[str]:
    yield layer.path
    yield layer.kind
    yield str(layer.channels)
    yield "" if layer.size is None else f"{layer.size[0]} x {layer.size[1]}"
    yield from _looks(layer.lines)
    yield f"{layer.parameters:,}" if layer.parameters else ""
    yield _many(layer.multiply_adds) if layer.multiply_adds else ""


def _looks(lines: tuple[AxisMap, AxisMap] | None) -> tuple[str, str, str]:
    """Write stride, field and first centre; what has no positions depends on the whole picture."""
    if lines is None:
        return "", "all", ""
    rows, columns = lines
    return _both(rows.scale, columns.scale), _both(rows.field, columns.field), _both(rows.shift, columns.shift)


def print_alignment(found: Alignment) -> None:
    """Print the maps an FCN scores and how they are laid on each other and on the image."""
    table = _table("maps that are scored", ("module",), ("channels", "stride", "field", "first centre"))
    for tap in found.taps:
        table.add_row(tap.path, str(tap.channels), *_looks(tap.lines))
    out.print()
    _print_wide(table)
    rows, columns = found.plans
    table = _table("derived alignment", ("upsampled", "to"), ("factor", "kernel", "crop offset"))
    goals = [*(tap.path for tap in found.taps[1:]), "image"]
    for number, (down, across) in enumerate(zip(rows.stages, columns.stages, strict=True)):
        cells = (
            _both(down.factor, across.factor),
            _both(down.kernel, across.kernel),
            _both(down.offset, across.offset),
        )
        table.add_row("the sum" if number else found.taps[0].path, goals[number], *cells)
    _print_wide(table)
    out.print(
        f"margin {_both(rows.margin, columns.margin)} px, padded to a multiple of "
        f"{_both(rows.multiple, columns.multiple)} px, reach {_both(rows.reach, columns.reach)} px, "
        f"smallest input {found.smallest_input[0]} x {found.smallest_input[1]}\n"
        "A crop offset is the upsampled unit that lies on unit 0 of the finer map; where negative, that map is cropped."
    )


def _table(title: str, words: Iterable[str], numbers: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name, overflow="fold", min_width=9)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_wide(table: Table) -> None:
    """Print a table as wide as it is where nothing bounds the line."""
    if not out.is_terminal:
        table.width = out.measure(table, options=out.options.update(width=WIDEST)).maximum
    out.print(table)


def _both(rows: Fraction | int, columns: Fraction | int) -> str:
    """Write what holds for rows and columns, once where it is the same."""
    texts = [f"{value.numerator / value.denominator:g}" for value in (rows, columns)]
    return texts[0] if rows == columns else " x ".join(texts)


def _many(number: int) -> str:
    """Write a large number shortly.

    >>> _many(1_820_000_000), _many(30_425_472), _many(8_000)
    ('1.82 G', '30.43 M', '8,000')
    """
    for unit, letter in ((GIGA, "G"), (MEGA, "M")):
        if number >= unit:
            return f"{number / unit:.2f} {letter}"
    return f"{number:,}"
