"""From a recipe to the objects of a run: the only place where choices become things."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullyconv.augment import Augmentation
from fullyconv.checkpoint import load_network, read_tensors
from fullyconv.data.check import Progress, Report, check_folder
from fullyconv.data.classes import FILE_NAME, write_classes
from fullyconv.data.dataset import Views, read_sample
from fullyconv.data.folder import open_folder, training_splits
from fullyconv.data.pairs import Folder, Pair
from fullyconv.draw import colourise
from fullyconv.evaluation import evaluate
from fullyconv.files import BadFile, write_json
from fullyconv.losses import class_weights
from fullyconv.machine import DeviceName, Precision, choose_device, fast_bf16
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.networks.heads import TwoHeads
from fullyconv.predict.image import Segmenter
from fullyconv.surgery import Transplant, transplant
from fullyconv.train.loop import LAST, METRICS, Job
from fullyconv.train.optim import make_optimizer, rate_at
from fullyconv.train.recipe import Recipe, read_recipe, write_recipe
from fullyconv.types import ClassSet, Preprocess

RECIPE = "recipe.yaml"
CHANGEABLE = ("epochs", "minutes", "device", "workers", "validate_every")  # when a run is resumed
PICTURED = 4  # validation images shown in TensorBoard
TRANSPLANT = "transplant.json"
COLOURS = 3


class BadData(ValueError):
    """A data set that training refuses; ``report`` says why, in the words of ``fullyconv data check``."""

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join(str(problem) for problem in report.problems))
        self.report = report


@dataclass(frozen=True)
class Prepared:
    """A checked data set: what to train on, what to validate on."""

    report: Report
    train: list[Pair]
    val: list[Pair]


def prepare(
    recipe: Recipe, data: Path | Folder, *, skip_problems: bool = False, progress: Progress | None = None
) -> Prepared:
    """Check a data set, given by its path or already opened, and choose its splits.

    Raises ``BadData`` if anything is wrong with it; with ``skip_problems`` the pairs at fault are left
    out instead.
    """
    folder = open_folder(data) if isinstance(data, Path) else data
    # What is never trained or validated on need not be in order.
    folder.splits = {name: pairs for name, pairs in folder.splits.items() if name in ("train", "val", "all")}
    report = check_folder(folder, recipe.classes, progress=progress)
    if report.problems and not skip_problems:
        raise BadData(report)
    folder.splits = {
        name: [pair for pair in pairs if pair.image not in report.bad_pairs] for name, pairs in folder.splits.items()
    }
    train, val = training_splits(folder)
    return Prepared(report, train, val)


def assemble(recipe: Recipe, prepared: Prepared, out: Path, *, resume: bool = False) -> Job:
    """Build every part of a run and write down what was decided (``recipe.yaml``, ``classes.yaml``).

    With ``recipe.start_from``, ``transplant.json`` lists which weights were taken over and which not.

    Raises ``BadFile`` if ``out`` already holds a run and ``resume`` is false, or if ``start_from`` has
    nothing for this network.
    """
    if (out / METRICS).exists() and not resume:
        raise BadFile(out, "already holds a run", "continue it with --resume, or choose another --out")
    if resume:
        _check_same_run(recipe, out / RECIPE)
    else:
        shutil.rmtree(out / LAST, ignore_errors=True)  # of a run that ended before its first epoch
    out.mkdir(parents=True, exist_ok=True)
    report, classes = prepared.report, prepared.report.classes
    recipe = recipe.model_copy(update={"classes": classes})
    write_recipe(recipe, out / RECIPE)
    write_classes(classes, out / FILE_NAME)
    torch.manual_seed(recipe.seed)
    device = choose_device(recipe.device)
    precision = _choose_precision(recipe, device)
    network = build(recipe.network_name, len(classes), upsampling=recipe.upsampling)
    _check_trainable(network, recipe.network_name)
    preprocess = recipe.preprocess or Preprocess(mean=report.mean, std=report.std)
    if recipe.start_from is not None:
        moved, learned_on = _start(network, Path(recipe.start_from))
        write_json(out / TRANSPLANT, asdict(moved))
        preprocess = recipe.preprocess or learned_on or preprocess
    if recipe.train_only == "scores":
        network.trunk.requires_grad_(False)
    shares = torch.from_numpy(next(iter(report.splits.values())).shares)
    weights, by_weight = class_weights(shares, power=recipe.balance), recipe.balance_by == "weighting"
    judge = partial(_segmenter, classes=classes, preprocess=preprocess, device=device, precision=precision)
    return Job(
        network=network.to(device),
        optimizer=make_optimizer(
            network,
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            bias_multipliers=recipe.bias_multipliers,
        ),
        views=Views(
            prepared.train,
            classes,
            preprocess,
            Augmentation(recipe.crop, recipe.scale, recipe.flip, recipe.colour, recipe.shift),
            seed=recipe.seed,
        ),
        validate=lambda network: evaluate(judge(network), prepared.val),
        pictures=lambda network: _pictures(judge(network), prepared.val[:PICTURED]),
        rate=partial(rate_at, schedule=recipe.schedule, power=recipe.power, warmup=recipe.warmup),
        classes=classes,
        preprocess=preprocess,
        normalization=recipe.normalization,
        sampling=recipe.sampling,
        keep=recipe.sampling if by_weight else recipe.sampling * weights / weights.max(),
        weights=weights.to(device) if by_weight and recipe.balance else None,
        precision=precision,
        device=device,
        out=out,
        epochs=recipe.epochs,
        minutes=recipe.minutes,
        batch=recipe.batch,
        accumulate=max(1, round(recipe.accumulate / recipe.sampling)),
        workers=recipe.workers,
        validate_every=recipe.validate_every,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )


def _choose_precision(recipe: Recipe, device: torch.device) -> Precision:
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if fast_bf16(device) else "fp32"


def _check_trainable(network: FCN, name: str) -> None:
    """Refuse networks that need more than a picture and a mask."""
    if network.in_channels != COLOURS or isinstance(network, TwoHeads):
        raise ValueError(
            f"{name} takes {network.in_channels} channels and has {1 + isinstance(network, TwoHeads)} score maps: "
            "train takes pictures of 3 channels and one mask each; train its parts one by one, or in a loop of your own"
        )


def _check_same_run(recipe: Recipe, path: Path) -> None:
    """Refuse to continue a run with choices that would make it another one."""
    if not path.is_file():
        raise BadFile(path, "no run to resume", "leave out --resume to start anew")
    before = read_recipe(path, {"default": Recipe()})
    changed = [
        key
        for key in Recipe.model_fields
        if key not in CHANGEABLE and getattr(before, key) != getattr(recipe, key) and getattr(recipe, key) is not None
    ]
    if changed:
        raise BadFile(
            path,
            f"the run was started with another {', '.join(changed)}",
            f"resume with the same recipe and settings (only {', '.join(CHANGEABLE)} may change)",
        )


def _segmenter(
    network: FCN, *, classes: ClassSet, preprocess: Preprocess, device: torch.device, precision: Precision
) -> Segmenter:
    place: DeviceName = "cuda" if device.type == "cuda" else "cpu"
    return Segmenter(network, classes=classes, preprocess=preprocess, device=place, precision=precision)


def _start(network: FCN, source: Path) -> tuple[Transplant, Preprocess | None]:
    """Take over trained weights; gives what moved and, of a model folder, the normalisation they were trained with."""
    preprocess = None
    if source.suffix == ".safetensors":
        report = transplant(_named_as_in(network, read_tensors(source)), network)
    else:
        trained, config = load_network(source)
        preprocess = config.preprocess if isinstance(config.preprocess, Preprocess) else None
        # Of a classifier there is only a trunk to take.
        report = continue_from(trained, network) if isinstance(trained, FCN) else transplant(trained, network)
    if not report.moved and not report.reshaped:
        raise BadFile(
            source,
            "has no weights for this network: no name is the same",
            "start from a model with this trunk, or leave start_from out",
        )
    return report, preprocess


def _named_as_in(network: FCN, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a classifier's weights as its trunk's, where they are the trunk's by their own names."""
    prefix = "trunk.classifier."
    known = network.state_dict()
    if any(name in known for name in tensors) or not any(prefix + name in known for name in tensors):
        return tensors
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _pictures(segmenter: Segmenter, pairs: Sequence[Pair]) -> np.ndarray:
    """Put image, truth and prediction side by side, one row per pair, all as large as the smallest."""
    rows = []
    for pair in pairs:
        sample = read_sample(pair, segmenter.classes)
        guess = segmenter.predict(sample.image).labels
        painted = [sample.image, colourise(sample.labels, segmenter.classes), colourise(guess, segmenter.classes)]
        rows.append(np.concatenate(painted, axis=1))
    height, width = min(row.shape[0] for row in rows), min(row.shape[1] for row in rows)
    return np.concatenate([row[:height, :width] for row in rows])
