"""``fullyconv caffe …``: Caffe's files in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullyconv.cli.console import out
from fullyconv.cli.options import ModelArgument, OverwriteOption, TrustOption, import_from_here

HELP = "Caffe's files in and out.\n\nExample: `fullyconv caffe export runs/photos/model --out caffe/`"
app = typer.Typer(help=HELP, no_args_is_help=True)


@app.command("import")
def import_(
    prototxt: Annotated[Path, typer.Argument(metavar="DEPLOY.prototxt", help="The net's description.")],
    caffemodel: Annotated[Path, typer.Argument(metavar="WEIGHTS.caffemodel", help="Its weights.")],
    out_: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    network: Annotated[
        str | None, typer.Option("--network", help="Which network it is, where several have the same layers.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="A classes.yaml that names the classes.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a Caffe net that is one of the papers' networks into a model folder, to predict and train with.

    Example: `fullyconv caffe import voc-fcn8s/deploy.prototxt fcn8s-heavy-pascal.caffemodel --out models/voc-fcn8s`
    """
    from fullyconv.caffe import import_model
    from fullyconv.checkpoint import CONFIG, WEIGHTS, save
    from fullyconv.data.classes import read_classes
    from fullyconv.networks import architecture_of
    from fullyconv.networks.reference import preprocess_of
    from fullyconv.outputs import Outputs

    inputs = [prototxt, caffemodel, *([] if classes is None else [classes])]
    outputs = Outputs(out_, inputs=inputs, overwrite=overwrite)
    outputs.check([WEIGHTS, CONFIG])
    model = import_model(prototxt, caffemodel, name=network)
    architecture = architecture_of(model)
    named = read_classes(classes) if classes is not None else None
    notes = {"imported": caffemodel.name}
    with outputs.writing(WEIGHTS, CONFIG):
        save(model, out_, classes=named, preprocess=preprocess_of(architecture.name), notes=notes)
    out.print(
        f"{architecture.name}, {architecture.classes} classes, {architecture.upsampling} upsampling\nmodel {out_}"
    )


@app.command("export")
def export(
    model: ModelArgument,
    out_: Annotated[Path, typer.Option("--out", help="Folder for deploy.prototxt and weights.caffemodel.")],
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Write a model as Caffe's files, under the layer names of the papers' release.

    Example: `fullyconv caffe export runs/photos/model --out caffe/`
    """
    from fullyconv.caffe import export as write
    from fullyconv.caffe.export import CAFFEMODEL, PROTOTXT
    from fullyconv.checkpoint import load_network
    from fullyconv.outputs import Outputs
    from fullyconv.types import Preprocess

    import_from_here(*(trust or ()))
    network, config = load_network(model, trust=trust or ())
    if not isinstance(config.preprocess, Preprocess):
        raise ValueError(
            f"{model} labels hyperspectral scenes, which Caffe has no input for: export a model of pictures"
        )
    outputs = Outputs(out_, overwrite=overwrite)
    outputs.check([PROTOTXT, CAFFEMODEL])
    with outputs.writing(PROTOTXT, CAFFEMODEL):
        prototxt, caffemodel = write(network, out_)
    order, mean, std = config.preprocess.order, config.preprocess.mean, config.preprocess.std
    out.print(f"description {prototxt}\nweights {caffemodel}")
    out.print(f"feed it {order} pixels, 0..255, minus {mean}, divided by {std}")
