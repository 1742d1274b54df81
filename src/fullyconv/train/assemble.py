"""From a recipe to the objects of a run: the only place where choices become things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import nn

from fullyconv.augment import Augmentation, Change
from fullyconv.data.check import Report
from fullyconv.data.classes import write_classes
from fullyconv.data.dataset import TRAINED_ON, Reader, SampleCache, Views, read_sample, remember
from fullyconv.files import write_json
from fullyconv.losses import class_weights, dice_loss, lovasz_loss
from fullyconv.machine import DeviceName, free_memory
from fullyconv.networks import build
from fullyconv.networks.crf import CRFLayer, WithCRF
from fullyconv.networks.fcn import FCN
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.reference import preprocess_of
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.train.average import Average, lagging, measure_statistics
from fullyconv.train.batches import Batching
from fullyconv.train.folder import CLASSES, TRANSPLANT, RunFolder
from fullyconv.train.form import FusedScores, WholeScores
from fullyconv.train.job import Job, Schedule, make_fabric, precision_of
from fullyconv.train.optim import make_optimizer, trunk_of
from fullyconv.train.pictures import Judge, PixelLoss
from fullyconv.train.prepare import Prepared, data_print
from fullyconv.train.recipe import Recipe
from fullyconv.train.share import Share, synchronised
from fullyconv.train.smallest import check_room, check_views
from fullyconv.train.start import start_crf, take_weights
from fullyconv.train.tasks import FusedTasks, SummedLoss
from fullyconv.train.team import ALONE, Team
from fullyconv.types import Preprocess
from fullyconv.upsample import LastStep

COLOURS = 3
OVERLAP = {"cross-entropy": None, "cross-entropy+dice": dice_loss, "cross-entropy+lovasz": lovasz_loss}
SETTLING_VIEWS = 64  # training views that batch statistics are measured on


def assemble(
    recipe: Recipe,
    prepared: Prepared,
    folder: RunFolder | None,
    *,
    trust: Sequence[str] = (),
    team: Team = ALONE,
    augment: Change | None = None,
) -> Job:
    """Build every part of a run and write down what was decided (``recipe.yaml``, ``classes.yaml``, ``data.json``).

    Where the run does not start from fresh weights, ``transplant.json`` lists which were taken over and which not;
    ``trust`` names the functions that loading that model may call. Where several processes train together, the first
    of the ``team`` has the folder. ``augment`` varies training views before the recipe's own variations.

    Raises ``BadFile`` if the run to resume was another one or on other data, or if what it starts from has
    nothing for this network.
    """
    recipe = recipe.model_copy(update={"classes": prepared.report.classes})
    share = _share(recipe, team)
    sizes = {pair.image: prepared.report.sizes[pair.image] for pair in prepared.train}
    check_room(recipe, sizes.values())
    if folder is not None:
        folder.begin(recipe, data_print(prepared))
        write_classes(prepared.report.classes, folder.path / CLASSES, prepared.head_classes)
    fabric = make_fabric(recipe.device, recipe.precision, team)
    network, preprocess = team.in_turn(lambda: _make_network(recipe, prepared, folder, trust))
    optimizer = make_optimizer(network.to(fabric.device), recipe)
    average = Average(network, recipe.average) if recipe.average else None
    room = free_memory() // 4 if recipe.cache_gib is None else int(recipe.cache_gib * 2**30)
    read = SampleCache(room // team.local)
    batching = _make_batching(recipe, prepared, preprocess, read, share, augment)
    check_views(network, sizes, batching.views.options, recipe.batch)
    delivered = network if average is None else cast("FCN", average.network)
    return Job(
        network=network,
        optimizer=optimizer,
        fabric=fabric,
        schedule=Schedule(recipe.epochs * batching.updates, batching.updates, recipe.rate_at, recipe.minutes),
        seed=recipe.seed,
        batches=batching,
        loss=_make_loss(recipe, prepared, fabric.device, network),
        form=partial(_form, recipe=recipe, preprocess=preprocess, team=team),
        classes=prepared.report.classes,
        heads=prepared.head_classes,
        preprocess=preprocess,
        clip=recipe.clip,
        average=average,
        settle=_settling(recipe, delivered, batching, fabric),
        validate=Judge(_segmenter(delivered, prepared, preprocess, fabric), prepared.val, read, team, prepared.heads),
        validate_every=recipe.validate_every,
        patience=recipe.patience,
        notes={TRAINED_ON: remember(prepared.report.pictures[pair.image] for pair in prepared.train)},
        smaller="batch (and raise accumulate as much), or crop",
        share=share,
    )


def _share(recipe: Recipe, team: Team) -> Share:
    return Share.fitting(
        team, batch=recipe.batch, accumulate=recipe.batches, together=recipe.sync_batchnorm and team.size > 1
    )


def _form(network: FCN, *, recipe: Recipe, preprocess: Preprocess, team: Team) -> nn.Module:
    kind = FusedTasks if isinstance(network, ManyHeads) else FusedScores
    formed: nn.Module = kind(network, checkpointing=recipe.checkpointing)
    if network.crf is not None:
        whole = WholeScores(network, checkpointing=recipe.checkpointing)
        formed = WithCRF(whole, cast("CRFLayer", whole.network.crf), preprocess)
    return synchronised(formed, team) if recipe.sync_batchnorm else formed


def _make_network(
    recipe: Recipe, prepared: Prepared, folder: RunFolder | None, trust: Sequence[str]
) -> tuple[FCN, Preprocess]:
    """Build the network with the weights it starts from; gives it and the normalisation that goes with them."""
    torch.manual_seed(recipe.seed)
    report = prepared.report
    tasks = prepared.tasks
    network = build(recipe.network_name, len(report.classes), upsampling=recipe.upsampling, tasks=tasks)
    _check_trainable(network, recipe, prepared)
    if recipe.crf:
        network.crf = CRFLayer(len(report.classes), start_crf(recipe))
    moved, learned_on = take_weights(network, recipe, trust) or (None, None)
    channels, beside = len(report.mean), bool(prepared.train[0].beside)
    if channels != network.in_channels and not beside:
        network = _widened(network, recipe, channels)
    if moved is not None and folder is not None:
        write_json(folder.path / TRANSPLANT, asdict(moved))
    if recipe.train_only == "scores":
        for trunk in trunk_of(network):
            trunk.requires_grad_(False)
    if beside:  # numbers as the papers take them, which no range of levels brings to 0..255
        return network, recipe.preprocess or learned_on or preprocess_of(recipe.network_name)
    if channels > COLOURS or not (recipe.preprocess or learned_on):
        return network, Preprocess(mean=report.mean, std=report.std, levels=report.levels)
    return network, replace(recipe.preprocess or learned_on or Preprocess(), levels=report.levels)


def _widened(network: FCN, recipe: Recipe, channels: int) -> FCN:
    """Let a network see more channels than its own (colours; LeNet's is grey): the further weights are their mean."""
    name = recipe.network_name
    try:
        wider = build(name, network.classes, upsampling=recipe.upsampling, channels=channels, tasks=network.tasks)
    except ValueError as error:
        raise ValueError(f"pictures of {channels} channels: {error}") from None
    (key,) = (key for key, tensor in wider.state_dict().items() if tensor.shape != network.state_dict()[key].shape)
    weights = network.state_dict()
    first = weights[key]
    weights[key] = torch.cat([first, first.mean(1, keepdim=True).expand(-1, channels - first.shape[1], -1, -1)], dim=1)
    wider.load_state_dict(weights)
    return wider


def _settling(recipe: Recipe, delivered: FCN, batching: Batching, fabric: Fabric) -> Callable[[int], None] | None:
    """Choose how batch statistics are settled before a validation; ``None``: they are taken as they are."""
    wanted = recipe.statistics == "measured" or (
        recipe.statistics == "auto" and (recipe.average > 0 or lagging(delivered))
    )
    if not wanted:
        return None

    def settle(epoch: int) -> None:
        with closing(batching.some(epoch, SETTLING_VIEWS)) as images, fabric.autocast():  # type: ignore[type-var]
            sent = (each.to(fabric.device, memory_format=torch.channels_last) for each in images)
            measure_statistics(delivered, sent, batching.share.team)

    return settle


def _make_batching(
    recipe: Recipe, prepared: Prepared, preprocess: Preprocess, read: Reader, share: Share, augment: Change | None
) -> Batching:
    options = Augmentation(
        crop=recipe.crop,
        scale=recipe.scale,
        flip=recipe.flip,
        colour=recipe.colour,
        shift=recipe.shift,
        rotation=recipe.rotation,
        upside_down=recipe.upside_down,
        blur=recipe.blur,
        noise=recipe.noise,
        change=augment,
    )
    views = Views(prepared.train, prepared.report.classes, preprocess, options, seed=recipe.seed, read=read)
    return Batching(views, recipe.batch, recipe.batches, recipe.workers, share, recipe.repeat)


def _make_loss(recipe: Recipe, prepared: Prepared, device: torch.device, network: FCN) -> PixelLoss | SummedLoss:
    report = prepared.report
    if unknown := recipe.head_weights.keys() - report.heads.keys():
        heads = ", ".join(report.heads) or "no further ones: these pictures have one mask each"
        raise ValueError(f"head_weights names {min(unknown)!r}, the heads are {heads}")
    if not isinstance(network, ManyHeads):
        return _pixel_loss(recipe, report, device, network.last_step if network.crf is None else None)
    reports = (report, *(report.heads[name] for name in network.tasks))
    losses = tuple(_pixel_loss(recipe, own, device, step) for own, step in zip(reports, network.steps, strict=True))
    return SummedLoss(losses, (1.0, *(recipe.head_weights.get(name, 1.0) for name in network.tasks)))


def _pixel_loss(recipe: Recipe, report: Report, device: torch.device, step: LastStep | None) -> PixelLoss:
    shares = torch.from_numpy(next(iter(report.splits.values())).shares)
    weights, by_weight = class_weights(shares, power=recipe.balance), recipe.balance_by == "weighting"
    return PixelLoss(
        normalization=recipe.normalization,
        sampling=recipe.sampling,
        keep=recipe.sampling if by_weight else recipe.sampling * weights / weights.max(),
        weights=weights.to(device) if by_weight and recipe.balance else None,
        step=step,
        hardest=recipe.hardest,
        overlap=OVERLAP[recipe.loss],
    )


def _segmenter(network: FCN, prepared: Prepared, preprocess: Preprocess, fabric: Fabric) -> Segmenter:
    place: DeviceName = "cuda" if fabric.device.type == "cuda" else "cpu"
    # Its weights change from one validation to the next: converting them for another engine would not pay.
    segmenter = Segmenter(
        network,
        classes=prepared.report.classes,
        preprocess=preprocess,
        device=place,
        precision=precision_of(fabric),
        engine="pytorch",
    )
    segmenter.name_heads(prepared.head_classes)
    return segmenter if network.crf is None else CRFSegmenter(segmenter)


def _check_trainable(network: FCN, recipe: Recipe, prepared: Prepared) -> None:
    """Refuse networks that see or learn something else than what the data have."""
    name = recipe.network_name
    pair = prepared.train[0]
    first = read_sample(pair, prepared.report.classes)
    channels = first.image.shape[2]
    if pair.beside and network.in_channels != channels:
        raise ValueError(
            f"{name} takes {network.in_channels} channels, these pictures have {channels}: choose another network, or "
            "the data set it was made for"
        )
    if recipe.crf and (network.tasks or channels != COLOURS):
        what = f"{1 + len(network.tasks)} tasks" if network.tasks else f"pictures of {channels} channels"
        raise ValueError(f"crf=true is for networks of one task on colour pictures, not for {what}: leave it out")
    zoomed = recipe.crop is not None or recipe.scale != (1.0, 1.0) or recipe.rotation
    if pair.beside and (zoomed or recipe.colour or recipe.blur or recipe.noise):
        raise ValueError(
            "pictures with others beside them are trained on as they are: set crop=null scale=[1,1] colour=0 (and "
            "leave rotation, blur and noise out)"
        )
