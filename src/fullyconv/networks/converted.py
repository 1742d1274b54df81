"""FCNs on any classifier (paper, section 4): its graph says where to tap it and how the maps lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from fullyconv.networks.architecture import USUAL_CLASSES, Architecture, Decoder, Upsampling, class_count
from fullyconv.networks.decoders import decoded
from fullyconv.networks.fcn import FCN
from fullyconv.networks.trunks.external import build_classifier, origins, usual_example
from fullyconv.surgery.layers import widen, without_weights
from fullyconv.surgery.subject import example_size, uncompiled
from fullyconv.surgery.trunk import ClassifierTrunk, cut_trunk
from fullyconv.trace.nodes import spelling
from fullyconv.trace.operations import operation
from fullyconv.trace.walking import layer_of


def from_classifier(  # noqa: PLR0913 (the choices of one network)
    classifier: nn.Module | str,
    classes: int = USUAL_CLASSES,
    stride: int = 8,
    *,
    decoder: Decoder = "fcn",
    taps: Sequence[str] = (),
    example: object = None,
    upsampling: Upsampling = "fixed",
    channels: int | None = None,
    origin: str | None = None,
) -> FCN:
    """Make an FCN-32s, -16s, -8s (or -4s, …) on a classifier, with a copy of its weights.

    ``classifier`` takes N x C x H x W and gives N x K scores; a name (``timm:convnext_tiny``,
    ``torchvision:resnet50``, ``my_package.nets:build``) stands for a fresh one. ``stride`` is that of the finest map
    to score: 32 is FCN-32s, 8 FCN-8s. ``taps`` names the modules to tap instead, as in ``named_modules``.
    ``example``, (C, H, W), (H, W) or a tensor of pictures, is a size the classifier takes: timm's own for its models,
    else 3 x 224 x 224.

    ``channels`` widens the first layer to images of so many: its filters are kept, each further channel starts
    with their mean (the reference's rule for colour and depth).

    Score layers start at zero; kernels, crops, the margin of zeros around the image and all offsets follow from the
    classifier's graph (``fullyconv inspect`` prints them); images of any size are labelled.

    Args:
        classifier: A module of N x C x H x W -> N x K scores; a name (``timm:convnext_tiny``, ``torchvision:resnet50``,
            ``my_package.nets:build``) stands for a fresh one.
        classes: The number of classes to score.
        stride: The stride in pixels of the finest map to score: 32 is FCN-32s, 8 FCN-8s.
        decoder: ``fcn`` sums the scores of the maps; ``fpn`` lets coarse maps flow into finer ones, scores the finest;
            the others are those of ``networks.decoders``, for which ``stride`` does not count.
        taps: The modules to tap instead, as in ``named_modules``.
        example: A size (C, H, W) that the classifier takes: timm's own for its models, else 3 x 224 x 224.
        upsampling: ``fixed`` bilinear kernels or ``learned`` ones.
        channels: Widen the first layer to images of so many channels: its filters are kept, each further channel starts
            with their mean (the reference's rule for colour and depth).
        origin: The name ``package.module:function`` that a saved model records to build the classifier by. It is found
            for models of timm and torchvision and for classes that need no arguments. (Noise of training that arguments
            switched on, such as stochastic depth, is not part of a name.)

    Returns:
        A network of N x C x H x W -> N x ``classes`` x H x W scores.

    Raises:
        ValueError: Naming the operation and module for what has no fully convolutional form.

    >>> small = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1),
    ...                       nn.Flatten(), nn.Linear(8, 10))
    >>> network = from_classifier(small, classes=3, stride=2, example=(3, 32, 32))
    >>> network(torch.zeros(1, 3, 21, 30)).shape
    torch.Size([1, 3, 21, 30])
    """
    classes = class_count(classes)
    named = isinstance(classifier, str)
    if isinstance(classifier, str):
        origin, classifier = classifier, build_classifier(classifier)
    classifier = uncompiled(classifier)
    size = usual_example(classifier) if example is None else example_size(example, classifier)
    strided = decoder in ("fcn", "fpn")
    cut = partial(
        cut_trunk, stride=stride if strided else None, taps=taps, example=size, hidden=strided or decoder == "deconvnet"
    )
    trunk = cut(classifier, copied=not named)
    origin = origin or _origin(classifier, trunk, cut)
    if channels is not None:
        widen(trunk, channels)
    maps = trunk if decoder == "fcn" else decoded(decoder, trunk)
    network = FCN(
        maps, classes=classes, skips=len(maps.channels) - 1, upsampling=upsampling, border="replicate", cover=True
    )
    network.remarks += tuple(trunk.remarks)
    like = next((each for each in trunk.parameters() if each.is_floating_point()), torch.empty(0))
    made = [] if maps is trunk else [part for name, part in maps.named_children() if name != "trunk"]
    for part in (network.heads, network.upsamplers, *made):  # in the classifier's precision, where it is
        part.to(like.device, like.dtype)
    if origin is not None:
        variant = f"{decoder}{stride}s" if strided else decoder
        network.architecture = Architecture(f"{variant}-{origin}", classes, upsampling, channels, tuple(taps), size)
    return network


def _origin(classifier: nn.Module, trunk: ClassifierTrunk, cut: Callable[..., ClassifierTrunk]) -> str | None:
    """Find a name that builds the same trunk."""
    shapes = _shapes(classifier)
    for exact in (True, False):  # with other parameters only when none has the same: those are larger, most of them
        for name, rebuilt in _rebuilt(classifier):
            theirs = _shapes(rebuilt)
            if (theirs == shapes) if exact else (theirs != shapes and shapes.keys() <= theirs.keys()):
                try:
                    other = cut(rebuilt, copied=False)
                except ValueError:
                    continue
                if _operations(other) == _operations(trunk) and _shapes(other) == _shapes(trunk):
                    return name
    return None


def _rebuilt(classifier: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Build the networks, without weights, that a classifier may be, by their names."""
    for name in origins(classifier):
        try:
            yield name, without_weights(partial(build_classifier, name))
        except Exception:  # whatever a constructor raises without its arguments
            continue


def _operations(trunk: ClassifierTrunk) -> list[tuple[str, str]]:
    """List what a trunk does when it is not training."""
    nodes = ((node, layer_of(trunk.classifier, node)) for node in trunk.classifier.graph.nodes)
    rows = ((spelling(node), repr(layer), operation(node, layer)) for node, layer in nodes)
    return [(name, layer) for name, layer, row in rows if row is None or row.role not in ("drop", "idle")]


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
