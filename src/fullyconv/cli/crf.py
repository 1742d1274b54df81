"""``fullyconv crf …``: the dense CRF behind a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from fullyconv.cli.console import Bars, out, print_head
from fullyconv.cli.opening import pairs_to_score, unseen
from fullyconv.cli.options import DataArgument, DeviceOption, ModelArgument, TrustOption, import_from_here
from fullyconv.files import counted

if TYPE_CHECKING:
    from fullyconv.crf import CRFParameters
    from fullyconv.data.pairs import Pair
    from fullyconv.evaluation.refinement import Comparison
    from fullyconv.predict.image import Segmenter
    from fullyconv.predict.refine import CRFSegmenter

HELP = "The dense CRF behind a model.\n\nExample: `fullyconv crf tune runs/camvid/model camvid/`"
app = typer.Typer(help=HELP, no_args_is_help=True)
SHOWN_WIDTHS = (1, 2, 3, 5, 10, 20)


@app.command("tune")
def tune(
    model: ModelArgument,
    data: DataArgument,
    split: Annotated[str | None, typer.Option(help="Split to search on; default: val, test or all.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to search on, spread over the split.")] = 20,
    search: Annotated[Literal["random", "grid"], typer.Option(help="How to choose candidates.")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Candidates of a random search.")] = 40,
    seed: int = 0,
    diagonal: Annotated[bool, typer.Option(help="Count a pixel's message to itself (the paper does not).")] = True,
    exact: Annotated[bool, typer.Option("--exact", help="Compute smoothness exactly, not on a lattice.")] = False,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Search for the CRF's weights and bandwidths on labelled images and save the best with the model.

    Nothing is saved where no candidate is better than the model without a CRF, or than the parameters it has.

    Example: `fullyconv crf tune runs/camvid/model camvid/ --images 20 --trials 40`
    Of a model with several heads each gets a CRF of its own, found on its own masks.
    """
    from fullyconv.checkpoint import CONFIG, find_own_model, store_crf
    from fullyconv.crf import CRFParameters
    from fullyconv.evaluation.refinement import grid_candidates, random_candidates
    from fullyconv.opening import load

    import_from_here(*(trust or ()))
    saved = find_own_model(model) / CONFIG  # known before minutes are spent
    opened = load(model, device=device, trust=trust or ())
    if opened.network.crf is not None:
        raise ValueError(
            f"{model} has a CRF that was trained with it (crf=true), which predict and evaluate always apply"
        )
    folder, pairs = pairs_to_score(data, split, opened)
    pairs = unseen(model, folder, pairs, split)
    pairs = [pairs[index * len(pairs) // min(images, len(pairs))] for index in range(min(images, len(pairs)))]
    base = CRFParameters(keep_diagonal=diagonal, exact_smoothness=exact)
    candidates = grid_candidates(base) if search == "grid" else random_candidates(base, count=trials, seed=seed)
    for segmenter in (opened, *(head for name, head in opened.heads.items() if name in folder.heads)):
        print_head(segmenter.head)
        best = _search(segmenter, pairs, candidates, _stored(model, segmenter.head))
        if best is not None:
            store_crf(model, best, segmenter.head)
            out.print(f"saved in {saved}: predict --crf and evaluate --crf use it")


def _search(
    segmenter: Segmenter, pairs: list[Pair], candidates: list[CRFParameters], former: CRFParameters | None
) -> CRFParameters | None:
    """Try candidates and what the model has on labelled pictures and print the best; returns what is to be saved."""
    from fullyconv.evaluation.refinement import tune as score
    from fullyconv.predict.refine import CRFSegmenter

    if former is not None and former not in candidates:
        candidates = [former, *candidates]
    with Bars() as bars:
        plain, found = score(
            CRFSegmenter(segmenter), pairs, candidates, progress=lambda n, total: bars("trying", n, total)
        )
    names = [name for name, value in asdict(candidates[0]).items() if not isinstance(value, bool)]
    table = Table("mean IU", *(name.replace("_", " ") for name in names), title=f"best of {len(found)} trials")
    for trial in found[:10]:
        table.add_row(f"{trial.mean_iu:.4f}", *(f"{getattr(trial.parameters, name):g}" for name in names))
    out.print(table)
    best = found[0]
    held = next((trial.mean_iu for trial in found if trial.parameters == former), None)
    out.print(
        f"mean IU on {counted(len(pairs), 'image')}: {plain:.4f} without, {best.mean_iu:.4f} with the best CRF"
        + ("" if held is None else f", {held:.4f} with the parameters that the model has")
    )
    if best.mean_iu > plain and (held is None or best.mean_iu > held):
        return best.parameters
    kept = "the model has none, as before" if held is None else "the model keeps those it has"
    why = "the CRF is no better than none: leave --crf out" if best.mean_iu <= plain else "none is better than those"
    out.print(f"nothing saved, {kept}: {why}")
    return None


def _stored(model: Path, head: str) -> CRFParameters | None:
    """Return the parameters that a model has for a head."""
    from fullyconv.checkpoint import read_config

    config = read_config(model)
    if not head:
        return config.crf
    return config.heads[head].crf if head in config.heads else None


def with_crf(segmenter: Segmenter, model: Path) -> CRFSegmenter:
    """Put the CRF behind a segmenter: with the parameters of the model (of its head), or with the usual ones."""
    from fullyconv.predict.refine import CRFSegmenter

    if isinstance(segmenter, CRFSegmenter):
        return segmenter  # trained with the network
    head = segmenter.head
    stored = _stored(model, head)
    if stored is None:
        whose = f"the head {head}" if head else "the model"
        out.print(f"{whose} holds no CRF parameters: the usual ones are taken (find better: fullyconv crf tune)")
    return CRFSegmenter(segmenter, stored)


def print_comparison(comparison: Comparison) -> None:
    """Print scores before and after the CRF side by side."""
    sides = (comparison.before, comparison.after)
    title = f"{counted(len(sides[0].evaluation.image_iu), 'image')}, dense CRF"
    table = Table("", "before", "after", "change", title=title)
    rows = {
        key.replace("_", " "): [float(getattr(side.evaluation.scores, key)) for side in sides]
        for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")
    }
    rows["boundary F-score"] = [side.boundaries.f_score for side in sides]
    for width in SHOWN_WIDTHS:
        rows[f"trimap IU, {width} px"] = [side.boundaries.trimap_iu[width] for side in sides]
    for index, name in enumerate(comparison.before.evaluation.classes.names):
        rows[f"IU {name}"] = [side.evaluation.scores.per_class_iu[index] for side in sides]
    for name, (before, after) in rows.items():
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    out.print(table)
    out.print(f"{comparison.parameters}\nconvention: {comparison.before.document()['boundary_convention']}")
