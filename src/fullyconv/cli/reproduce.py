"""``fullyconv reproduce``: a network of the papers, trained as they did, its scores beside theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fullyconv.cli.console import err, out
from fullyconv.cli.options import SetOption
from fullyconv.cli.train import Way, prepare_data, train_stages

if TYPE_CHECKING:
    from fullyconv.recipes.published import Published

SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def reproduce(
    network: Annotated[
        str, typer.Argument(help="voc-fcn32s, -fcn16s, -fcn8s, -fcn8s-atonce, -fcn32s-fixed, -alexnet.")
    ],
    voc: Annotated[Path, typer.Option(help="VOCdevkit/VOC2011.")],
    sbdd: Annotated[Path, typer.Option(help="benchmark_RELEASE/dataset.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs/reproduce"),
    weights: Annotated[
        Path | None, typer.Option(help="ImageNet classifier to start from: a model folder or .safetensors file.")
    ] = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted reproduction.")] = False,
) -> None:
    """Train a network of the papers by their whole chain on VOC and SBDD; print its scores beside theirs.

    Example: `fullyconv reproduce voc-fcn8s --voc VOCdevkit/VOC2011 --sbdd benchmark_RELEASE/dataset
    --weights vgg16/` trains FCN-32s, -16s and -8s one after the other on SBDD's 8,498 images and scores
    each on seg11valid. Without `--weights` the trunk starts from noise and learns next to nothing at the
    papers' rates. `--set key=value` and `--set stage.key=value` change the recipes.
    """
    from fullyconv.data.pascal import open_pascal
    from fullyconv.recipes.published import PUBLISHED, REPRODUCTIONS
    from fullyconv.train.chain import change_chain
    from fullyconv.train.folder import hold
    from fullyconv.train.recipe import nearest, parse_settings
    from fullyconv.train.team import ALONE

    if network not in REPRODUCTIONS:
        raise ValueError(f"nothing is published for{nearest(network, REPRODUCTIONS)}")
    settings = parse_settings(set_ or [])
    if weights is not None:
        settings["start_from"] = str(weights)
    elif "start_from" not in settings:
        err.print("no --weights: the papers start from an ImageNet classifier, this starts from noise")
    chain = change_chain(REPRODUCTIONS[network], settings, source="--set")
    with hold(out_):
        prepared = prepare_data(next(iter(chain.stages.values())), open_pascal(voc, sbdd), skip_problems=False)
        files = train_stages(chain, prepared, Way(voc, out_, resume, team=ALONE))
    ours = {stage: json.loads(file.read_text()) for stage, file in files.items()}
    _print_comparison(ours, PUBLISHED)


def _print_comparison(ours: dict[str, Any], published: dict[str, Published]) -> None:
    images = next(iter(ours.values()))["images"]
    columns = [key.replace("_iu", " IU").replace("_", " ") for key in SCORES]
    table = Table("network", *columns, "from", title=f"ours on {images} images beside the paper's, %")
    for stage, document in ours.items():
        theirs = published[stage]
        table.add_row(stage, *(f"{100 * document[key]:.1f}" for key in SCORES), "ours")
        figures = (getattr(theirs, key) for key in SCORES)
        table.add_row("", *("-" if value is None else f"{value:.1f}" for value in figures), theirs.source)
    out.print(table)
