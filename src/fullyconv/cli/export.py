"""``fullyconv export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fullyconv.cli.console import out
from fullyconv.cli.opening import tell_heads
from fullyconv.cli.options import ModelArgument, OverwriteOption, TrustOption, import_from_here

if TYPE_CHECKING:
    from fullyconv.checkpoint import Config
    from fullyconv.export import Agreement
    from fullyconv.networks.fcn import FCN
    from fullyconv.types import ClassSet


def export(
    model: ModelArgument,
    out_: Annotated[Path, typer.Option("--out", help="Folder for the file, which is called after the model.")],
    to: Annotated[Literal["onnx", "openvino", "torch"], typer.Option(help="The format.")] = "onnx",
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Put the normalisation inside: pixels in, N x 3 x H x W uint8.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Put the choice of the best class inside: N x H x W labels out.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Put the softmax at the model's temperature inside, as in predict.")
    ] = False,
    head: Annotated[
        str | None, typer.Option(help="Of a model of several heads, the further one to write; default: the first.")
    ] = None,
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Write a model for other programs, for images of every size, and check it against the model at ten sizes.

    By default the graph is the network: normalised N x 3 x H x W float32 in, N x C x H x W scores out, N, H and W free.
    Classes, colours, mean and deviation are in the file. A file that does not compute what the model computes is not
    left. Example: `fullyconv export runs/photos/model --to onnx --out exported` writes exported/photos.onnx
    (extras: `export` for ONNX, `openvino`). With `--head geometry` it is exported/photos-geometry.onnx.
    """
    from fullyconv.checkpoint import find_model, load_network
    from fullyconv.export import Inside, Source
    from fullyconv.export import export as write

    import_from_here(*(trust or ()))
    network, config = load_network(model, trust=trust or ())
    classes, temperature = config.classes, config.temperature
    if head is None:
        tell_heads(network, "--head NAME")
    else:
        network, classes, temperature = _further(network, config, head)
    source = Source(network, classes, config.preprocess, find_model(model), temperature, head or "")
    inside = Inside(with_preprocessing, labels, probabilities)
    made = write(source, out_, to=to, inside=inside, overwrite=overwrite, progress=_print)
    worst = max(each.apart for each in made.agreements)
    out.print(f"input: {made.input}")
    out.print(f"output: {made.output}")
    out.print(f"{made.path}: agrees with the model at {len(made.agreements)} sizes to {worst:.1e} of the largest score")


def _further(network: FCN, config: Config, head: str) -> tuple[FCN, ClassSet, float]:
    """Return the network of a further head, its classes and its temperature."""
    from fullyconv.networks.heads import ManyHeads

    if not isinstance(network, ManyHeads) or head not in network.tasks:
        known = f"its further heads are {', '.join(network.tasks)}" if network.tasks else "it has one head"
        raise ValueError(f"--head {head}: the model has no further head of that name, {known}")
    return network.task_network(head), config.heads[head].classes, config.heads[head].temperature


def _print(found: Agreement) -> None:
    number, height, width = found.size
    out.print(f"{number} x {height} x {width} pixels: scores {found.apart:.1e} apart, {found.changed} labels differ")
