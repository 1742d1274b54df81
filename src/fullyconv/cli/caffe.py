"""``fullyconv caffe …``: Caffe's files in and out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fullyconv.cli.console import err, out
from fullyconv.cli.options import DeviceOption, ModelArgument, OverwriteOption, TrustOption, import_from_here

if TYPE_CHECKING:
    from fullyconv.caffe import Net

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
    phase: Annotated[
        Literal["TRAIN", "TEST"] | None, typer.Option(help="Which layers of a file of both; default: TEST.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="A stage of the net; may be repeated.")] = None,
    level: Annotated[int, typer.Option(help="The level of the net.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a Caffe net that is a network of this package into a model folder, to predict and train with.

    The networks of this package and the model zoo's classifiers are found by their layers; any other net runs as it is
    in Python, by fullyconv.caffe.load. Pixels are normalised as the description's first line notes (caffe export
    writes it), else as for the papers' nets: the command prints which.

    Example: `fullyconv caffe import voc-fcn8s/deploy.prototxt fcn8s-heavy-pascal.caffemodel --out models/voc-fcn8s`
    """
    from fullyconv.caffe import import_model
    from fullyconv.caffe.convert import stated_pixels
    from fullyconv.checkpoint import CONFIG, WEIGHTS, save
    from fullyconv.data.classes import read_classes
    from fullyconv.networks import architecture_of
    from fullyconv.networks.reference import preprocess_of
    from fullyconv.outputs import Outputs

    inputs = [prototxt, caffemodel, *([] if classes is None else [classes])]
    outputs = Outputs(out_, inputs=inputs, overwrite=overwrite)
    outputs.check([WEIGHTS, CONFIG])
    model = import_model(prototxt, caffemodel, name=network, phase=phase, stage=stage or (), level=level)
    architecture = architecture_of(model)
    named = read_classes(classes) if classes is not None else None
    notes = {"imported": caffemodel.name}
    stated = stated_pixels(prototxt)
    preprocess = stated or preprocess_of(architecture.name)
    with outputs.writing(WEIGHTS, CONFIG):
        save(model, out_, classes=named, preprocess=preprocess, notes=notes)
    out.print(
        f"{architecture.name}, {architecture.classes} classes, {architecture.upsampling} upsampling\nmodel {out_}"
    )
    source = "noted in the description" if stated else f"the papers'; if the net's are others, correct them in {CONFIG}"
    out.print(f"{preprocess.order} pixels minus {preprocess.mean}, divided by {preprocess.std}: {source}")


@app.command("export")
def export(
    model: ModelArgument,
    out_: Annotated[Path, typer.Option("--out", help="Folder for deploy.prototxt and weights.caffemodel.")],
    overwrite: OverwriteOption = False,
    trust: TrustOption = None,
) -> None:
    """Write a model as Caffe's files, under the layer names of the papers' release; caffe import takes them back.

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
        prototxt, caffemodel = write(network, out_, config.preprocess)
    order, mean, std = config.preprocess.order, config.preprocess.mean, config.preprocess.std
    out.print(f"description {prototxt}\nweights {caffemodel}")
    out.print(f"feed it {order} pixels, 0..255, minus {mean}, divided by {std} (noted in the description)")


@app.command("train")
def train(
    solver: Annotated[Path, typer.Argument(metavar="SOLVER.prototxt", help="The solver's file.", show_default=False)],
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder of snapshots; default: as snapshot_prefix says.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.caffemodel[=SUFFIX]",
            help="Weights to start from, by layer name (with a suffix behind it); may be repeated.",
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A layer of --weights that stays behind; may be repeated.")
    ] = None,
    interp: Annotated[
        bool, typer.Option("--interp/--no-interp", help='Bilinear kernels for the "up" layers that have no filler.')
    ] = True,
    voc: Annotated[Path | None, typer.Option(help="VOCdevkit/VOC2011 (of PASCAL-Context: VOC2010).")] = None,
    sbdd: Annotated[Path | None, typer.Option(help="benchmark_RELEASE/dataset.")] = None,
    siftflow: Annotated[Path | None, typer.Option(help="SiftFlowDataset.")] = None,
    nyud: Annotated[Path | None, typer.Option(help="NYUDv2.")] = None,
    context: Annotated[Path | None, typer.Option(help="PASCAL-Context's folder of trainval and labels.txt.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Where to end; default: max_iter of the file.")] = None,
    score_every: Annotated[
        int | None, typer.Option(min=0, help="Iterations between scorings, 0: at the end alone; default: snapshot.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last snapshot.")] = False,
    snapshot: Annotated[Path | None, typer.Option(help="Continue from this .solverstate, Caffe's own too.")] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Run a training of Caffe's years as its solver says: nets, data layers, rates, snapshots and scores.

    The data layers are those of the papers' release, by name (voc_layers, siftflow_layers, nyud_layers,
    pascalcontext_layers), and ImageData, DenseImageData, ImageSegData and DummyData.

    Example: `fullyconv caffe train voc-fcn32s/solver.prototxt --weights vgg16-fcn.caffemodel --voc VOCdevkit/VOC2011
    --sbdd benchmark_RELEASE/dataset --out runs/voc-fcn32s`
    """
    from fullyconv.machine import choose_device
    from fullyconv.outputs import Outputs
    from fullyconv.solver import snapshots
    from fullyconv.solver.released import Roots
    from fullyconv.solver.run import Run, check_outputs, places
    from fullyconv.solver.settings import read_solver
    from fullyconv.solver.training import Training
    from fullyconv.train.stop import StopRequest

    read = read_solver(solver)
    last = iterations or read.settings.max_iter
    if last < 1:
        raise ValueError(f"{solver}: has no max_iter: add it, or give --iterations")
    folder, prefix = places(read, out_)
    given = [Path(name.rpartition("=")[0] or name) for name in weights or ()]
    outputs = Outputs(folder, inputs=[solver, *given, *filter(None, [snapshot])], overwrite=overwrite)
    check_outputs(outputs, prefix, read.settings, last)
    training = Training(read, Roots(voc, sbdd, siftflow, nyud, context), device=choose_device(device))
    state = snapshots.newest(folder, prefix) if resume and snapshot is None else snapshot
    if state is not None:
        training.iteration = snapshots.restore(state, training.net, training.update)
        out.print(f"continues at iteration {training.iteration} from {state}")
    else:
        _prepare(training.net, weights or (), skip or (), interp=interp)
    every = read.settings.snapshot if score_every is None else score_every
    with outputs.alone(), StopRequest() as stop:
        run = Run(training, outputs, prefix, out.print, score_every=every, stopped=lambda: stop.asked)
        if run(last) is None:
            err.print("stopped; run the same command with --resume to continue")
            raise typer.Exit(130)


def _prepare(net: Net, weights: Sequence[str], skip: Sequence[str], *, interp: bool) -> None:
    """Do what the drivers of the release do before the first step."""
    from fullyconv.solver.surgery import copy_weights, interpolate, zeros

    for name in weights:
        file, equals, suffix = name.rpartition("=")
        path = Path(file if equals else name)
        out.print(f"weights of {path}: {copy_weights(net, path, suffix=suffix if equals else '', skip=skip)}")
    filled = interpolate(net) if interp else []
    if filled:
        out.print(f"bilinear kernels: {', '.join(filled)}")
    dead = zeros(net)
    if len(dead) > 1 and not weights:
        warnings.warn(
            f"the weights of {len(dead)} layers start at zero ({', '.join(dead[:4])}, …), and nothing before them "
            "learns: give --weights, or fillers",
            stacklevel=1,
        )
