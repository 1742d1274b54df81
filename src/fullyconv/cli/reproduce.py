"""``fullyconv reproduce``: a network of the papers, trained as they did, its scores beside theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fullyconv.cli.console import err, out
from fullyconv.cli.options import SetOption
from fullyconv.cli.training import Way, prepare_data, train_stages

if TYPE_CHECKING:
    from fullyconv.recipes.published import Published
    from fullyconv.train.prepare import Prepared

GEOMETRIC = "geometric"  # the further head of SIFT Flow's nets
SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def reproduce(
    network: Annotated[
        str,
        typer.Argument(help="voc-fcn32s, …, pascalcontext-fcn8s, siftflow-fcn16s, nyud-fcn32s-color-hha, …"),
    ],
    voc: Annotated[Path | None, typer.Option(help="VOCdevkit/VOC2011; for PASCAL-Context VOC2010.")] = None,
    sbdd: Annotated[Path | None, typer.Option(help="benchmark_RELEASE/dataset.")] = None,
    data: Annotated[Path | None, typer.Option(help="PASCAL-Context, SiftFlowDataset or NYUDv2.")] = None,
    out_: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs/reproduce"),
    weights: Annotated[
        Path | None, typer.Option(help="ImageNet classifier to start from: a model folder or .safetensors file.")
    ] = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted reproduction.")] = False,
) -> None:
    """Train a network of the papers by their whole chain on their data; print its scores beside theirs.

    Example: `fullyconv reproduce voc-fcn8s --voc VOCdevkit/VOC2011 --sbdd benchmark_RELEASE/dataset
    --weights vgg16/` trains FCN-32s, -16s and -8s one after the other on SBDD's 8,498 images and scores
    each on seg11valid. Without `--weights` the trunk starts from noise and learns next to nothing at the
    papers' rates. `fullyconv reproduce nyud-fcn32s-color-hha --data nyud --weights vgg16/` trains the colour net, the
    HHA net and, from both, their fusion. `--set key=value` and `--set stage.key=value` change the recipes.
    """
    from fullyconv.data.published import Places, open_published
    from fullyconv.networks.reference import preprocess_of
    from fullyconv.recipes.published import PUBLISHED, REPRODUCTIONS
    from fullyconv.train.chain import change_chain
    from fullyconv.train.folder import hold
    from fullyconv.train.recipe import nearest
    from fullyconv.train.settings import parse_settings
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
        places = Places(voc, sbdd, data)
        prepared: dict[str, Prepared] = {}
        for stage, recipe in chain.stages.items():
            # Stages of one data set differ in what they see of it: only then it is checked again.
            same = next((each for each in prepared if preprocess_of(each) == preprocess_of(stage)), None)
            prepared[stage] = (
                prepared[same]
                if same is not None
                else prepare_data(recipe, open_published(stage, places), skip_problems=False)
            )
        files = train_stages(chain, prepared, Way(out_, out_, resume, team=ALONE))
    ours = {stage: json.loads(file.read_text()) for stage, file in files.items()}
    _print_comparison(ours, PUBLISHED)


def _print_comparison(ours: dict[str, Any], published: dict[str, Published]) -> None:
    images = next(iter(ours.values()))["images"]
    columns = [key.replace("_iu", " IU").replace("_", " ") for key in SCORES]
    two = any(GEOMETRIC in document for document in ours.values())
    columns += ["geometric pixel accuracy"] * two
    table = Table("network", *columns, "from", title=f"ours on {images} images beside the paper's, %")
    for stage, document in ours.items():
        theirs = published[stage]
        found = [100 * document[key] for key in SCORES] + ([100 * document[GEOMETRIC]["pixel_accuracy"]] if two else [])
        table.add_row(stage, *(f"{value:.1f}" for value in found), "ours")
        figures = [getattr(theirs, key) for key in SCORES] + [theirs.geometric_accuracy] * two
        table.add_row("", *("-" if value is None else f"{value:.1f}" for value in figures), theirs.source)
    out.print(table)
