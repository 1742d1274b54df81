"""``fullyconv bench``: one function per question; the measuring itself is in ``fullyconv.bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import complain, out
from fullyconv.cli.options import DeviceOption, TrustOption, check_size, import_from_here
from fullyconv.cli.quantize import open_pictures, pairs_to_compare, print_prices

if TYPE_CHECKING:
    from fullyconv.bench import Watch
    from fullyconv.cli.options import Device
    from fullyconv.machine import Precision
    from fullyconv.predict.image import Segmenter

LONGEST = 600.0  # seconds that a timing may take: who would wait longer meant another size
TRIAL = 1000  # pixels a side: what a larger picture takes is judged by one of this size
USUAL = "fcn8s-vgg16-same"  # the network that is timed where no model is named: its weights do not matter


def bench(
    model: Annotated[
        Path | None, typer.Argument(help=f"Model folder (RUN/model); default: {USUAL} of 21 classes, untrained.")
    ] = None,
    size: Annotated[
        tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Of the picture, in pixels: two numbers.")
    ] = (500, 500),
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 7,
    scaling: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Instead: time and peak memory along area (0.1 to 100 megapixels), batch, classes and threads, drawn "
            "into this file with the straight lines through them.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="What --scaling may take, about.")] = 120,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Instead: what each engine and arithmetic changes on validation pictures (share of labels, "
            "mean IU), against PyTorch in float32.",
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="With --accuracy: keep it with the model, for precision auto to go by.")
    ] = False,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Measure how fast this machine labels pictures, and which share that is of what the machine can do.

    Example: `fullyconv bench runs/camvid/model --size 360 480`. `make bench` compares with other libraries.
    """
    from fullyconv.bench import Watch
    from fullyconv.checkpoint import find_own_model

    check_size(*size)
    import_from_here(*(trust or ()))
    if scaling is not None:
        _scaling(_opened(model, device, trust), str(model or USUAL), scaling, seconds)
        return
    if accuracy is not None:
        if model is None:
            raise ValueError("--accuracy compares a trained model: name its folder")
        if store:
            find_own_model(model)  # to write into, known before anything is computed
        print_prices(open_pictures(model, trust), pairs_to_compare(accuracy), store=store)
        return
    watch = Watch()
    _speed(_opened(model, device, trust), size, rounds, watch)
    if (verdict := watch.verdict()) is not None:
        complain("careful", verdict)


def _opened(model: Path | None, device: Device, trust: list[str] | None) -> Segmenter:
    """Open the model, or build the usual network."""
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.opening import load

    if model is not None:
        segmenter = load(model, device=device, precision="auto", trust=trust or ())
        if isinstance(segmenter, SceneSegmenter):
            raise ValueError(f"{model} labels scenes: bench times models of pictures")
        return segmenter
    from fullyconv import facts
    from fullyconv.networks import build
    from fullyconv.predict.image import Segmenter
    from fullyconv.types import Preprocess

    classes = facts.VOC.classes
    return Segmenter(build(USUAL, len(classes)), classes=classes, preprocess=Preprocess(), device=device)


def _speed(segmenter: Segmenter, size: tuple[int, int], rounds: int, watch: Watch) -> None:
    """Print the machine's limits and the model's share of them."""
    from fullyconv.bench.limits import measure_limits
    from fullyconv.bench.speed import measure_speed
    from fullyconv.machine import fast_bf16

    precisions: tuple[Precision, ...] = ("fp32", "bf16") if fast_bf16(segmenter.device) else ("fp32",)
    _check_time(segmenter, size, rounds * len(precisions))
    limits = measure_limits(watch=watch, device=segmenter.device)
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in limits.operations.items())
    out.print(f"this machine: {rates}; memory {limits.bytes / 1e9:.0f} GB/s")
    out.print(f"a picture of {size[0]} x {size[1]} (rows x columns), to labels:")
    for speed in measure_speed(segmenter, size, precisions, watch=watch, rounds=rounds):
        out.print(f"  {speed.words(limits)}")


def _check_time(segmenter: Segmenter, size: tuple[int, int], calls: int) -> None:
    """Refuse, before it begins, a timing that nobody would wait for, judged by a picture of a megapixel."""
    from fullyconv.bench.speed import measure_speed

    share = size[0] * size[1] / TRIAL**2
    if share <= 1:
        return
    (found,) = measure_speed(segmenter, (TRIAL, TRIAL), ("fp32",), rounds=1)
    seconds = found.timing.median * share * calls
    if seconds > LONGEST:
        what = f"timing {size[0]} x {size[1]} pixels {calls} times takes about {seconds / 60:.0f} minutes here"
        raise ValueError(f"{what}, more than {LONGEST / 60:.0f}: choose a smaller --size, or fewer --rounds")


def _scaling(segmenter: Segmenter, name: str, picture: Path, seconds: float) -> None:
    """Print time and memory along each axis, and draw them."""
    import torch

    from fullyconv.bench.scaling import UNITS, Point, lines, measure_scaling, plot_scaling
    from fullyconv.report.figures import save_figure

    def tell(point: Point) -> None:
        held = f"{point.bytes / 2**20:.0f} MiB" if point.bytes >= 0 else "memory unknown"
        out.print(f"  {point.amount:g} {UNITS[point.axis]}: {point.seconds:.3g} s, {held}")

    points = measure_scaling(segmenter, seconds=seconds, told=tell)
    for axis, (times, held) in lines(points).items():
        what = "pictures/s" if axis == "threads" else "s"
        words = f"{times.start:.3g} + {times.slope:.3g} {what} per unit, at most {times.worst:.0%} off"
        if held is not None:
            words += f"; {held.start / 2**20:.0f} + {held.slope / 2**20:.3g} MiB, at most {held.worst:.0%} off"
        out.print(f"{axis} ({UNITS[axis]}): {words}".replace("%", " %"))
    where = (
        torch.cuda.get_device_name() if segmenter.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    save_figure(plot_scaling(points, f"{name}, {where}"), picture)
    out.print(f"drawn: {picture}")
