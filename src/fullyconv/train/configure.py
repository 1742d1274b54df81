"""What a recipe leaves to ``auto``, chosen for a data set and this machine, and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fullyconv.checkpoint import check_trust, read_config
from fullyconv.data.check import Progress
from fullyconv.data.fingerprint import take_fingerprint
from fullyconv.files import write_json
from fullyconv.networks import PYRAMIDS, build
from fullyconv.surgery.layers import without_weights
from fullyconv.train.auto import Choice, choose
from fullyconv.train.folder import CHOICES, RECIPE, RunFolder
from fullyconv.train.pace import find_machine, measure_pace
from fullyconv.train.prepare import Prepared
from fullyconv.train.recipe import Recipe, change, read_recipe
from fullyconv.train.start import named_as_in, read_named


def configure(
    recipe: Recipe,
    prepared: Prepared,
    folder: RunFolder,
    *,
    trust: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Recipe, list[Choice]]:
    """Choose what a recipe with ``auto`` leaves open; other recipes stay as they are.

    A run that is resumed keeps what was chosen for it, but for what is set anew.

    Args:
        recipe: What is set in it is kept.
        prepared: The data set.
        folder: The run's; ``choices.json`` lists every choice with its reason.
        trust: Functions that making the network of a model folder may call.
        progress: Told of every picture that is looked at.

    Returns:
        The recipe that is trained, and the choices (none for a recipe without ``auto``, or that is resumed).

    Raises:
        BadFile: If a file that the run starts from cannot be read, or would call a function that is not in ``trust``.
    """
    if not recipe.auto:
        return recipe, []
    if recipe.weights and not recipe.classifier:  # of a trunk of our own
        recipe = recipe.model_copy(update={"start_from": recipe.weights, "weights": None})
    given = {key: getattr(recipe, key) for key in recipe.model_fields_set - {"auto"}}
    if folder.resume and (folder.path / RECIPE).is_file():
        before = read_recipe(folder.path / RECIPE, {"default": Recipe()})
        return change(before, given, source="--set"), []
    report = prepared.report
    data = take_fingerprint(
        prepared.train,
        sum(height * width for height, width in (report.sizes[pair.image] for pair in prepared.val)),
        report.classes,
        shares=next(iter(report.splits.values())).shares.tolist(),
        sizes=[report.sizes[pair.image] for pair in prepared.train],
        progress=progress,
    )
    classes = len(report.classes)
    found = choose(
        data,
        find_machine(recipe),
        given,
        lambda name: measure_pace(recipe, lambda: build(name, classes)),
        start=_start_of(recipe, trust),
    )
    write_json(folder.path / CHOICES, [choice._asdict() for choice in found])
    chosen: Mapping[str, Any] = {choice.key: choice.value for choice in found}
    return change(recipe, {**chosen, "auto": False}, source="auto"), found


def _start_of(recipe: Recipe, trust: Sequence[str]) -> str:
    """Name the trunk, or the whole network, that the weights fit which a recipe starts from; empty: none known."""
    if recipe.classifier:
        return recipe.classifier if recipe.weights or recipe.pretrained or recipe.start_from else ""
    if recipe.start_from is None:
        return ""
    path = Path(recipe.start_from)
    if not path.suffix:
        architecture = read_config(path).architecture
        check_trust(architecture.name, path, trust)
        return architecture.name
    tensors = read_named(path)
    for trunk in PYRAMIDS:
        known = without_weights(partial(build, f"fpn8s-{trunk}", 2)).state_dict()
        named = named_as_in(known, tensors)
        same = sum(name in known and known[name].shape == tensor.shape for name, tensor in named.items())
        if same > len(named) // 2:
            return trunk
    return ""
