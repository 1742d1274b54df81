"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, overload

from fullyconv.networks.architecture import (
    USUAL_CLASSES,
    Architecture,
    Upsampling,
    architecture_of,
    class_count,
    split_name,
)
from fullyconv.networks.classifier import Classifier
from fullyconv.networks.converted import from_classifier
from fullyconv.networks.decoders import TRUNKS, decoded, family_names
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import with_tasks
from fullyconv.networks.pyramid import Pyramid
from fullyconv.networks.reference import REFERENCES, Reference
from fullyconv.networks.trunks import backbone, read_channels
from fullyconv.networks.trunks.caffenet import CaffeNet
from fullyconv.networks.trunks.external import foreign_code, is_external
from fullyconv.networks.trunks.googlenet import GoogLeNet
from fullyconv.networks.trunks.lenet import LeNet
from fullyconv.networks.trunks.vgg import VGG16
from fullyconv.surgery.trunk import Trunk
from fullyconv.upsample import Border

__all__ = [
    "CLASSIFIERS", "REFERENCES", "Architecture", "architecture_of", "build", "external_trunk", "family_names",
    "foreign_trunk", "from_classifier", "generic_names", "network_names", "pyramid_names", "rebuild", "split_name",
]  # fmt: skip

# Which FCNs each trunk has the maps for: of its coarsest map alone, with one skip, with two, …
VARIANTS: dict[str, tuple[str, ...]] = {
    "vgg16": ("fcn32s", "fcn16s", "fcn8s"),
    "vgg16-same": ("fcn32s", "fcn16s", "fcn8s"),
    "resnet18": ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"),
    "lite0": ("fcn32s", "fcn16s", "fcn8s", "fcn4s"),
    "caffenet": ("fcn32s",),
    "alexnet": ("fcn32s",),
    "googlenet": ("fcn32s",),
    "lenet": ("fcn4s",),
    "spectral1": ("fcn1s",),
    "spectral2": ("fcn2s", "fcn1s"),
    "spectral4": ("fcn4s", "fcn2s", "fcn1s"),
    "spectral8": ("fcn8s", "fcn4s", "fcn2s", "fcn1s"),
}

PYRAMIDS = ("vgg16-same", "resnet18", "lite0")  # trunks whose maps meet at every size

# The reference lets scores fade towards the edge, as its zero-padded upsampling does; the compact
# trunks have no reference to match and repeat the edge instead.
COMPACT = ("resnet18", "lite0", "spectral1", "spectral2", "spectral4", "spectral8")
COVERED = ("lite0",)  # trunks whose maps cover small images only with a margin
BORDERS: dict[str, Border] = dict.fromkeys(COMPACT, "replicate")

ClassifierName = Literal["vgg16", "caffenet", "alexnet", "googlenet", "lenet"]


class NamedClassifier(NamedTuple):
    """A classifier of the papers: trunk, padded as published, classes, the side of the pictures it was made for."""

    trunk: Callable[[], Trunk]
    classes: int
    side: int


CLASSIFIERS = {
    "vgg16": NamedClassifier(partial(VGG16, image_pad=1), 1000, 224),
    "caffenet": NamedClassifier(partial(CaffeNet, image_pad=0), 1000, 227),
    "alexnet": NamedClassifier(partial(CaffeNet, image_pad=0, norm_first=True), 1000, 227),
    "googlenet": NamedClassifier(GoogLeNet, 1000, 224),
    "lenet": NamedClassifier(partial(LeNet, image_pad=0), 10, 28),
}


def generic_names() -> list[str]:
    """List the names that combine a variant and a trunk.

    Returns:
        ``fcn32s-vgg16``, ``fcn16s-vgg16``, …

    >>> generic_names()[:3]
    ['fcn32s-vgg16', 'fcn16s-vgg16', 'fcn8s-vgg16']
    """
    return [f"{variant}-{trunk}" for trunk, variants in VARIANTS.items() for variant in variants]


def pyramid_names() -> list[str]:
    """List the feature pyramids on trunks of our own, by the stride of their finest map.

    Returns:
        ``fpn16s-vgg16-same``, …

    >>> "fpn8s-resnet18" in pyramid_names()
    True
    """
    return [f"fpn{variant.removeprefix('fcn')}-{trunk}" for trunk in PYRAMIDS for variant in VARIANTS[trunk][1:]]


def network_names() -> list[str]:
    """List the segmentation networks that ``build`` knows; it also knows ``CLASSIFIERS`` and trunks from elsewhere.

    Returns:
        The names of variants and trunks, those of pyramids, of the decoders after FCN, then those of the papers.

    >>> "voc-fcn8s" in network_names()
    True
    """
    return [*generic_names(), *pyramid_names(), *family_names(), *REFERENCES]


def external_trunk(name: str) -> tuple[int | None, str] | None:
    """Split a network's name with a classifier from elsewhere into the stride of its finest scores and the classifier.

    Args:
        name: A network's name, as ``build`` takes it.

    Returns:
        The stride in pixels (``None`` where the decoder says it) and the classifier's name; ``None`` for networks on
        trunks of our own.

    >>> external_trunk("fcn8s-timm:resnet50"), external_trunk("unet-timm:resnet50"), external_trunk("fcn8s-vgg16")
    ((8, 'timm:resnet50'), (None, 'timm:resnet50'), None)
    """
    parts = split_name(name)
    return (parts.stride, parts.trunk) if parts is not None and is_external(parts.trunk) else None


def foreign_trunk(name: str) -> str | None:
    """Return the function that building a network calls, where that is neither ours nor timm's nor torchvision's.

    Args:
        name: A network's name, as ``build`` takes it.

    Returns:
        ``package.module:function``, or ``None``.

    >>> foreign_trunk("fcn8s-my_package.nets:build"), foreign_trunk("fcn8s-timm:resnet50"), foreign_trunk("voc-fcn8s")
    ('my_package.nets:build', None, None)
    """
    external = external_trunk(name)
    return external[1] if external is not None and foreign_code(external[1]) else None


@overload
def build(name: ClassifierName, classes: int | None = None) -> Classifier: ...  # type: ignore[overload-overlap]
@overload
def build(
    name: str,
    classes: int | None = None,
    *,
    upsampling: Upsampling | None = None,
    channels: int | None = None,
    tasks: Mapping[str, int] | None = None,
) -> FCN: ...
def build(
    name: str,
    classes: int | None = None,
    *,
    upsampling: Upsampling | None = None,
    channels: int | None = None,
    tasks: Mapping[str, int] | None = None,
) -> FCN | Classifier:
    """Build a network with fresh weights.

    Args:
        name: A network of the papers (``REFERENCES``: ``voc-fcn8s``, ``siftflow-fcn16s``, …); or a variant, a hyphen
            and a trunk: ``fcn32s``, ``fcn16s`` or ``fcn8s`` and ``vgg16`` (the reference form), ``vgg16-same`` (padded
            by 1 instead of 100), ``resnet18``, …; ``fpn8s`` for a feature pyramid (``networks.pyramid``); ``segnet``,
            ``deconvnet``, ``deeplab``, ``deeplab-largefov`` or ``unet`` for those decoders (``networks.decoders``);
            trunks from elsewhere as ``from_classifier`` takes them, ``fcn8s-timm:convnext_tiny``. A trunk's name alone
            (``CLASSIFIERS``) gives a classifier of whole pictures.
        classes: The number of classes, 1 or more; default: those of the named network, else 21.
        upsampling: ``fixed`` bilinear kernels or ``learned`` ones; default: the named network's, else fixed.
        channels: Let a variant of a trunk read images of so many channels instead of 3; ``fcn1s-spectral4`` and its
            like are made for that.
        tasks: Further tasks on the same maps, by their names, with their numbers of classes (pictures of several
            masks); default: those of the named network (SIFT Flow's: ``{"geometric": 3}``), else none.

    Returns:
        A module of N x 3 (or ``channels``) x H x W -> N x ``classes`` x H x W scores, for any height and width from its
        ``smallest_input`` on, with ``tasks`` a named tuple of such; of a classifier N x ``classes`` scores.

    Raises:
        ValueError: For an unknown name, no class, or choices that the named network does not leave open.

    >>> import torch
    >>> network = build("fcn8s-resnet18", classes=5)
    >>> network.smallest_input, network(torch.zeros(1, 3, 33, 47)).shape
    ((1, 1), torch.Size([1, 5, 33, 47]))
    """
    network: FCN | Classifier
    classes = None if classes is None else class_count(classes)
    parts = split_name(name)
    if parts is not None and is_external(parts.trunk):
        wanted = Architecture(name, USUAL_CLASSES if classes is None else classes, upsampling or "fixed", channels)
        return rebuild(replace(wanted, tasks=tuple((tasks or {}).items())))
    if channels is not None and (name in CLASSIFIERS or name in REFERENCES):
        raise ValueError(f"{name} reads the channels it was published with: leave channels out")
    if name in CLASSIFIERS:
        if upsampling == "learned" or tasks:
            raise ValueError(f"{name} is a classifier and upsamples nothing: leave upsampling and tasks out")
        known = CLASSIFIERS[name]
        network = Classifier(known.trunk(), classes=known.classes if classes is None else classes)
    elif name in REFERENCES:
        network = _build_reference(REFERENCES[name], classes, upsampling)
    elif name in generic_names() or name in pyramid_names() or name in family_names():
        network = _build_generic(name, classes, upsampling, channels)
    else:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join([*network_names(), *CLASSIFIERS])}")
    network.architecture = Architecture(
        name, network.classes, network.upsampling if isinstance(network, FCN) else "fixed", channels
    )
    published = dict(REFERENCES[name].tasks) if name in REFERENCES else {}
    return with_tasks(network, published if tasks is None else tasks) if isinstance(network, FCN) else network


def rebuild(architecture: Architecture) -> FCN:
    """Build the network that an architecture describes, with fresh weights.

    Args:
        architecture: What ``architecture_of`` said of a network.

    Returns:
        A network of the same layers; load its weights by ``load_state_dict``.

    Raises:
        ValueError: For a name that ``build`` does not know.

    >>> rebuild(Architecture("fcn8s-resnet18", classes=5)).classes
    5
    """
    parts = split_name(architecture.name)
    if parts is None or not is_external(parts.trunk):
        return build(
            architecture.name,
            architecture.classes,
            upsampling=architecture.upsampling,
            channels=architecture.channels,
            tasks=dict(architecture.tasks) or None,
        )
    network = from_classifier(
        parts.trunk,
        architecture.classes,
        parts.stride or 8,
        decoder=parts.decoder,
        taps=architecture.taps,
        example=architecture.example,
        upsampling=architecture.upsampling,
        channels=architecture.channels,
    )
    return with_tasks(network, dict(architecture.tasks))


def _build_generic(name: str, classes: int | None, upsampling: Upsampling | None, channels: int | None) -> FCN:
    parts = split_name(name)
    assert parts is not None  # one of the listed names
    decoder, stride, trunk = parts
    skips, single = 0, decoder != "fcn"
    if decoder in TRUNKS:
        made = TRUNKS[decoder][trunk]()
        if channels is not None:
            read_channels(made, channels)
        made = decoded(decoder, made, trunk)
    else:
        skips = VARIANTS[trunk].index(f"fcn{stride}s")
        made = backbone(trunk, channels)
        made = Pyramid(made, skips + 1) if single else made
    return FCN(
        made,
        classes=USUAL_CLASSES if classes is None else classes,
        skips=0 if single else skips,
        upsampling=upsampling or "fixed",
        border="replicate" if single else BORDERS.get(trunk, "zero"),
        cover=single or trunk in COVERED,
    )


def _build_reference(reference: Reference, classes: int | None, upsampling: Upsampling | None) -> FCN:
    classes = reference.classes if classes is None else classes
    upsampling = upsampling or reference.upsampling
    trunk, skips = backbone(reference.trunk), reference.skips
    network: FCN
    if reference.streams[1:] == ("hha",):
        second = backbone(reference.trunk)
        network = LateFusion(trunk, second, classes=classes, skips=skips, upsampling=upsampling)
    else:
        network = FCN(
            trunk,
            classes=classes,
            skips=skips,
            upsampling=upsampling,
            fusion=reference.fusion,
            scales=reference.scales,
        )
    if reference.trains == "score":
        network.trunk.requires_grad_(False)
    return network
