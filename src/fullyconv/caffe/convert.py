"""From a Caffe net to the network of this package that it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from fullyconv.caffe.description import describe_text
from fullyconv.caffe.export import CLASSIFIER_SCORES, PIXELS, bilinear_bank, is_whole, network_layers
from fullyconv.caffe.loading import load
from fullyconv.caffe.net import Net
from fullyconv.caffe.states import Phase
from fullyconv.caffe.structure import Numbering, differences
from fullyconv.caffe.text import Written, to_text
from fullyconv.files import BadFile
from fullyconv.networks import (
    CLASSIFIERS,
    architecture_of,
    build,
    external_trunk,
    family_names,
    foreign_trunk,
    generic_names,
    pyramid_names,
    rebuild,
)
from fullyconv.networks.architecture import Upsampling
from fullyconv.networks.classifier import Classifier
from fullyconv.networks.fcn import FCN
from fullyconv.networks.reference import REFERENCES
from fullyconv.types import FIRST_HEAD, Preprocess
from fullyconv.upsample import Upsample

HEAD = "score_fr_"  # before the name of a task, in networks of several
# The layers that say how many classes there are.
SCORES = (
    "score_fr", f"{HEAD}{FIRST_HEAD}", "score_fr_sem", "score_frcolor", *dict.fromkeys(CLASSIFIER_SCORES.values())
)  # fmt: skip
LONGEST = 10_000  # letters of a line that states a normalisation
TOLERANCE = 1e-6  # on bilinear weights, which programs compute in float32 or in float64
# The networks that do not normalise, among those that are no publication's; a file tells which of both it is.
PLAIN = re.compile(r"fcn\d+s-(?!resnet|lite)|deeplab.*-vgg16|unet-original")


def import_model(
    prototxt: Path | str,
    caffemodel: Path | str,
    *,
    name: str | None = None,
    phase: Phase | None = None,
    stage: str | Sequence[str] = (),
    level: int = 0,
) -> FCN | Classifier:
    """Read a Caffe net as the network of ``fullyconv.build`` that it is, with its weights.

    The net must compute what that network computes, layer for layer, under the names of the release; for a classifier,
    whose fully connected layers become convolutions, under those of Caffe's model zoo. Upsampling that is bilinear
    stays fixed; one kernel per class that is not becomes learned upsampling.

    Args:
        prototxt: The net's description.
        caffemodel: Its weights.
        name: Which network it is, where several have the same layers; default: the name in the file, else the first
            that fits.
        phase: Which layers to take of a file that serves several states, as ``fullyconv.caffe.load`` does.
        stage: Of which stage, or stages.
        level: Of which level.

    Returns:
        The network, in evaluation mode.

    Raises:
        BadFile: For a net that is no such network, and for upsampling that mixes classes: ``fullyconv.caffe.load`` runs
            these as they are.

    >>> import tempfile
    >>> from fullyconv.caffe import export
    >>> from fullyconv.networks import build
    >>> with tempfile.TemporaryDirectory() as place:
    ...     type(import_model(*export(build("lenet"), place))).__name__
    'Classifier'
    """
    net = load(prototxt, caffemodel, phase=phase, stage=stage, level=level)
    network, layers = recognise(net, str(prototxt), name)
    blobs = {layer.name: [tensor.detach() for _, tensor in net.blobs(layer)] for layer in net.described}
    if any(map(_is_bank, layers)):
        network, layers = _settle_upsampling(network, layers, blobs, str(caffemodel))
    state = {}
    for layer in layers:
        for blob, values in zip(layer.blobs, blobs.get(layer.name, []), strict=True):
            if blob.fixed and blob.key is not None:  # a buffer that is in no state
                place, _, buffer = blob.key.rpartition(".")
                network.get_submodule(place).register_buffer(buffer, blob.values, persistent=False)
            elif blob.key is not None:
                kept = _diagonal(values) if _is_bank(layer) else values
                state[blob.key] = kept.reshape(blob.values.shape)  # a matrix fills the convolution it stands for
    _check_fixed(layers, blobs, str(caffemodel))
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    network.load_state_dict(counts | state, assign=True)
    return network.eval()


def stated_pixels(prototxt: Path | str) -> Preprocess | None:
    """Return the normalisation that ``export`` wrote into a description.

    Args:
        prototxt: The net's description.

    Returns:
        The normalisation; ``None`` for files that have none, as Caffe's own.

    Raises:
        BadFile: For a line that is no normalisation.

    >>> stated_pixels("/dev/null") is None
    True
    """
    with Path(prototxt).open(encoding="utf-8", errors="replace") as file:
        line = file.readline(LONGEST)
    if not line.startswith(PIXELS):
        return None
    try:
        said = json.loads(line.removeprefix(PIXELS))
        mean, std = (tuple(float(value) for value in said[key]) for key in ("mean", "std"))
        if said["order"] not in ("RGB", "BGR"):
            raise ValueError
        return Preprocess(mean, std, said["order"])
    except (ValueError, KeyError, TypeError):
        fix = "write it as fullyconv caffe export does, or remove the line"
        raise BadFile(f"{prototxt}:1", "says no order, mean and std of pixels", fix) from None


def _is_bank(layer: Written) -> bool:
    """Return whether a layer is the upsampling of scores, one kernel per class; other deconvolutions mix channels."""
    if layer.kind != "Deconvolution" or layer.blobs[0].fixed:
        return False
    key = layer.blobs[0].key
    return key is None or key.partition(".")[0].endswith("upsamplers")


def recognise(net: Net, path: str, name: str | None) -> tuple[FCN | Classifier, list[Written]]:
    """Find the network that computes what ``net`` does, and its layers; both have sizes but no weights yet.

    ``path`` is what errors call the net. Raises ``BadFile`` naming the nearest network where there is none.
    """
    weighted = {layer.name: layer for layer in net.described if net.blobs(layer)}
    classes = next((weighted[score] for score in SCORES if score in weighted), None)
    if classes is None:
        raise BadFile(
            path, f"has no layer with weights called {', '.join(SCORES)}", "use fullyconv.caffe.load for other nets"
        )
    wide = net.blobs(classes)[0][1].shape[0]
    numbering = Numbering()
    wanted = numbering.outputs(net)
    nearest: list[tuple[int, str, list[Written]]] = []
    normalises = any(layer.kind == "BatchNorm" for layer in net.described)
    for candidate in [name] if name else _candidates(net.name, classes.name, wide, normalises=normalises):
        with torch.device("meta"):
            try:
                forms = list(_forms(_built(candidate, wide, net)))
            except ValueError:  # there is no such classifier, or Caffe has no layers for it
                if name:
                    raise
                continue
        for network, layers in forms:
            apart = len(weighted.keys() ^ {layer.name for layer in layers if layer.blobs})
            if not apart and numbering.outputs(_twin(candidate, layers)) == wanted:
                return network, layers
        nearest.append((apart, candidate, layers))
    raise _unknown(net, path, min(nearest, key=lambda each: each[0], default=None))


def _twin(name: str, layers: list[Written]) -> Net:
    return Net(describe_text(to_text(name, layers), name), {})


def _unknown(net: Net, path: str, nearest: tuple[int, str, list[Written]] | None) -> BadFile:
    """Make the error for a net that no network here computes."""
    what = "none reads such inputs"
    if nearest is not None:
        _, name, layers = nearest
        apart = differences(net, _twin(name, layers)) or ["it joins the same layers in another way"]
        what = f"nearest is {name}, but {apart[0]} ({len(apart)} such differences)"
    fix = "run it with fullyconv.caffe.load, which takes any net of these layers"
    return BadFile(path, f"is no network of the papers: {what}", fix)


def _built(name: str, classes: int, net: Net) -> FCN | Classifier:
    """Build a network of a net's tasks that reads as many channels as its one input has."""
    heads = [layer for layer in net.described if re.fullmatch(rf"{HEAD}\w+", layer.name) and net.blobs(layer)]
    counts = {layer.name.removeprefix(HEAD): int(net.blobs(layer)[0][1].shape[0]) for layer in heads}
    tasks = {task: wide for task, wide in counts.items() if task != FIRST_HEAD} if FIRST_HEAD in counts else None
    network: FCN | Classifier = build(name, classes, tasks=tasks)
    channels = [shape[1] for shape in net.inputs.values() if len(shape) == 4]
    if isinstance(network, FCN) and len(channels) == 1 and channels[0] != network.in_channels:
        network = build(name, classes, channels=channels[0], tasks=tasks)
    return network


def _forms(network: FCN | Classifier) -> Iterator[tuple[FCN | Classifier, list[Written]]]:
    """Write a network for sides of all lengths, after the other forms of decoders that go all the way up.

    Those are: only for multiples of its stride, where it needs no margin; and with kernels that learn.
    """
    if isinstance(network, FCN) and is_whole(network):
        if not any(plan.margin for plan in network.plans):
            yield network, network_layers(network, sized=True)
        learned = rebuild(replace(architecture_of(network), upsampling="learned"))
        yield learned, network_layers(learned)
    yield network, network_layers(network)


def _candidates(stated: str, score: str, classes: int, *, normalises: bool) -> Iterator[str]:
    """Order the networks to compare with: the one stated, those with as many classes, the others that come near."""
    if score in CLASSIFIER_SCORES.values():
        return (name for name in CLASSIFIERS if CLASSIFIER_SCORES[name] == score)
    ours = [*generic_names(), *family_names(), *pyramid_names()]
    fitting = [name for name, reference in REFERENCES.items() if reference.classes == classes]
    # A file may state a library's classifier; it may not state a function that would be called.
    of_library = external_trunk(stated) is not None and foreign_trunk(stated) is None
    first = [stated] if stated in {*REFERENCES, *ours} or of_library else []
    near = [name for name in ours if bool(PLAIN.match(name)) != normalises]
    ordered: Iterable[str] = chain(first, fitting, near, REFERENCES)
    return iter(dict.fromkeys(ordered))


def _settle_upsampling(
    network: FCN | Classifier, layers: list[Written], blobs: dict[str, list[Tensor]], path: str
) -> tuple[FCN | Classifier, list[Written]]:
    """Choose fixed or learned upsampling by the weights there are."""
    banks = [layer for layer in layers if _is_bank(layer)]
    upsamplers = [module for module in network.modules() if isinstance(module, Upsample)]
    bilinear = True
    for layer, upsampler in zip(banks, upsamplers, strict=True):
        weights = blobs[layer.name][0]
        if not _is_diagonal(weights):
            raise BadFile(
                path,
                f"layer {layer.name!r} (Deconvolution) mixes classes: its weights off the diagonal are not zero",
                "run it with fullyconv.caffe.load; a network here has one kernel per class",
            )
        kernel = _diagonal(bilinear_bank(upsampler))
        bilinear &= bool(torch.allclose(_diagonal(weights), kernel, rtol=0, atol=TOLERANCE))
    upsampling: Upsampling = "fixed" if bilinear and not _was_learned(blobs, banks) else "learned"
    with torch.device("meta"):
        settled = rebuild(replace(architecture_of(network), upsampling=upsampling))
        return settled, network_layers(settled)


def _was_learned(blobs: dict[str, list[Tensor]], banks: list[Written]) -> bool:
    """Return whether any upsampling is grouped: one kernel per class is how learned upsampling is written."""
    return any(blobs[layer.name][0].shape[1] == 1 < blobs[layer.name][0].shape[0] for layer in banks)


def _diagonal(bank: Tensor) -> Tensor:
    """Take the kernels that map each class to itself, C x 1 x k x k."""
    if bank.shape[1] == 1:
        return bank
    return bank.diagonal(dim1=0, dim2=1).permute(2, 0, 1)[:, None].contiguous()


def _is_diagonal(bank: Tensor) -> bool:
    if bank.shape[1] == 1:
        return True
    return int(bank.count_nonzero()) == int(_diagonal(bank).count_nonzero())


def _check_fixed(layers: list[Written], blobs: dict[str, list[Tensor]], path: str) -> None:
    """Refuse weights that are others than those by which a network does what it does."""
    for layer in layers:
        for blob, found in zip(layer.blobs, blobs.get(layer.name, []), strict=True):
            fits = found.shape == blob.values.shape
            if blob.fixed and not (fits and torch.allclose(found, blob.values, rtol=0, atol=TOLERANCE)):
                raise BadFile(
                    path,
                    f"layer {layer.name!r} ({layer.kind}) has other weights than this network has there",
                    "run it with fullyconv.caffe.load; here they are fixed",
                )
