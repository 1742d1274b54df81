"""``fullyconv quantize``, and the prices of arithmetics that ``fullyconv bench --accuracy`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullyconv.cli.console import Bars, out
from fullyconv.cli.options import DataArgument, ModelArgument, TrustOption, import_from_here
from fullyconv.files import counted

if TYPE_CHECKING:
    from fullyconv.data.pairs import Pair
    from fullyconv.predict.image import Segmenter


def quantize(
    model: ModelArgument,
    data: DataArgument,
    images: Annotated[int, typer.Option(min=1, help="How many training pictures to calibrate on.")] = 200,
    trust: TrustOption = None,
) -> None:
    """Calibrate a model for 8-bit arithmetic on training pictures, and say what that costs in accuracy.

    The ranges go into the model's folder (int8.safetensors); `--precision int8` then uses them, with OpenVINO, on the
    CPU. Example: `fullyconv quantize runs/camvid/model camvid/`.
    Of a model with several heads all are calibrated, and the price of each is said.
    """
    from fullyconv.checkpoint import find_own_model
    from fullyconv.data.folder import open_folder
    from fullyconv.machine import frozen
    from fullyconv.predict.quantised import find_quantisation, store_quantisation

    import_from_here(*(trust or ()))
    find_own_model(model)  # to write into, known before anything is computed
    segmenter = open_pictures(model, trust)
    splits = open_folder(data).splits
    known = splits.get("train") or next(iter(splits.values()))
    count = min(images, len(known))
    chosen = [known[index * len(known) // count] for index in range(count)]
    out.print(f"calibrating on {len(chosen)} of {len(known)} pictures")
    pictures = [segmenter.pixels(pair.image) for pair in chosen]
    found = find_quantisation(frozen(segmenter.network), segmenter.preprocess, pictures)
    out.print(f"{store_quantisation(model, found)}")
    if "val" in splits:
        print_prices(segmenter, splits["val"])


def open_pictures(model: Path, trust: list[str] | None) -> Segmenter:
    """Open a model of pictures on the CPU; raises ``ValueError`` for one of scenes."""
    from fullyconv.hsi.segmenter import SceneSegmenter
    from fullyconv.opening import load

    segmenter = load(model, device="cpu", trust=trust or ())
    if isinstance(segmenter, SceneSegmenter):
        raise ValueError(f"{model} labels scenes: arithmetics are compared for models of pictures")
    return segmenter


def pairs_to_compare(data: Path) -> list[Pair]:
    """Return a data set's validation pictures, or all where it has no splits; raises ``BadFile``."""
    from fullyconv.data.folder import open_folder

    splits = open_folder(data).splits
    return splits.get("val") or next(iter(splits.values()))


def print_prices(segmenter: Segmenter, pairs: list[Pair], *, store: bool = False) -> None:
    """Print what each engine and arithmetic changes of each head that ``pairs`` have masks of.

    With ``store`` keep with the model what ``auto`` may use.
    """
    from fullyconv.evaluation.precision import measure_prices, usable_variants
    from fullyconv.predict.trusted import store_changes

    variants, found = usable_variants(segmenter.folder), []
    masks = {mask.head for pair in pairs for mask in pair.further}
    for each in (segmenter, *(head for name, head in segmenter.heads.items() if name in masks)):
        with Bars() as bars:
            prices = measure_prices(each, pairs, variants, progress=lambda n, total: bars("comparing", n, total))
        whose = f"head {each.head} " if each.head else ""
        out.print(f"{whose}against PyTorch in float32, over {counted(len(pairs), 'picture')}:")
        for price in prices:
            out.print(f"  {price.words()}")
        found += prices
    if store and segmenter.folder is not None:
        worst = max(price.changed for price in found if price.precision == "bfloat16")
        store_changes(segmenter.folder, segmenter.network, {"bfloat16": worst})
        out.print(f"kept in {segmenter.folder}: precision auto goes by it")
