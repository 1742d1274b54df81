"""``fullyconv compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullyconv.cli.console import out
from fullyconv.cli.options import ModelArgument, OverwriteOption, TrustOption, import_from_here

FULLY_CONNECTED = ("trunk.fc6", "trunk.fc7")


def compress(
    model: ModelArgument,
    image: Annotated[Path, typer.Option(help="Picture to measure the output error and the multiply-adds on.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the compressed model.")],
    rank: Annotated[int | None, typer.Option(min=1, help="Rank to truncate to.")] = None,
    error: Annotated[
        float | None, typer.Option(help="Or: largest relative error of each layer's weights, 0..1.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Convolution to factor; may be repeated [fc6 and fc7].")
    ] = None,
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Truncate large layers by SVD, each to two smaller ones, and say what that saves and costs.

    Example: `fullyconv compress runs/voc/model --rank 512 --image photo.jpg --out runs/voc/small`
    """
    import torch

    from fullyconv.checkpoint import CONFIG, WEIGHTS, find_model, load_network, save
    from fullyconv.files import BadFile
    from fullyconv.outputs import Outputs
    from fullyconv.predict.inputs import pixels_of
    from fullyconv.surgery import compress as truncate
    from fullyconv.types import Preprocess

    import_from_here(*(trust or ()))
    source = find_model(model)
    outputs = Outputs(out_, inputs=[image, source / WEIGHTS, source / CONFIG], overwrite=overwrite)
    outputs.check([WEIGHTS, CONFIG])
    network, config = load_network(model, trust=trust or ())
    if not isinstance(config.preprocess, Preprocess):
        raise BadFile(model, "labels scenes, not pictures", "name a model of pictures")
    pixels = pixels_of(image, config.preprocess, network.in_channels).values
    picture = torch.from_numpy(config.preprocess(pixels))[None]
    report = truncate(network, layer or FULLY_CONNECTED, picture, rank=rank, error=error)
    notes = config.notes | {"ranks": report.ranks, "compressed_from": str(model)}
    with outputs.writing(WEIGHTS, CONFIG):
        heads = {name: head.classes for name, head in config.heads.items()}
        save(network, out_, classes=config.classes, preprocess=config.preprocess, heads=heads, notes=notes)
    for name, kept in report.ranks.items():
        out.print(f"{name}: rank {kept}, weights differ by {report.weight_errors[name]:.2%}")
    for what, (before, after) in (("parameters", report.parameters), ("multiply-adds", report.multiply_adds)):
        out.print(f"{what} of these layers: {before:,} -> {after:,} ({after / before:.1%})")
    out.print(f"scores of {image.name} differ by {report.output_error:.2%}\nmodel {out_}")
