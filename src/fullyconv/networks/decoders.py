"""Decoders that came after FCN, on trunks of our own and of others: what each of them stands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from fullyconv.networks.architecture import Decoder
from fullyconv.networks.deconvnet import DeconvNet
from fullyconv.networks.deeplab import DeepLab, Holes
from fullyconv.networks.pyramid import Pyramid
from fullyconv.networks.segnet import SegNet
from fullyconv.networks.trunks.classic import Contracting, SegNetBasic
from fullyconv.networks.trunks.lite import EfficientNetLite0
from fullyconv.networks.trunks.resnet import ResNet18
from fullyconv.networks.trunks.vgg import VGG16, HoleVGG16
from fullyconv.networks.unet import UNet
from fullyconv.surgery.trunk import ClassifierTrunk, Trunk, retap

COMPACT: Mapping[str, Callable[[], Trunk]] = {"resnet18": ResNet18, "lite0": EfficientNetLite0}

TRUNKS: dict[str, Mapping[str, Callable[[], Trunk]]] = {
    "segnet": {"vgg16": partial(VGG16, image_pad=1, norm=True, hidden=False), "basic": SegNetBasic},
    "deconvnet": {"vgg16": partial(VGG16, image_pad=1, fc6_pad=3, norm=True)},
    "deeplab-largefov": {"vgg16": partial(HoleVGG16, average=True), **COMPACT},
    "deeplab": {"vgg16": HoleVGG16, **COMPACT},
    "unet": {"vgg16": partial(VGG16, image_pad=1, hidden=False), **COMPACT, "original": Contracting},
}
"""Of each decoder the trunks of our own, in the form that it was published on."""


def family_names() -> list[str]:
    """List the networks that came after FCN, on trunks of our own.

    Returns:
        ``segnet-vgg16``, ``segnet-basic``, …

    >>> "deeplab-largefov-vgg16" in family_names()
    True
    """
    return [f"{decoder}-{trunk}" for decoder, trunks in TRUNKS.items() for trunk in trunks]


def decoded(decoder: Decoder, trunk: Trunk, name: str = "") -> Trunk:
    """Put a decoder on a trunk: what an ``FCN`` scores the map of.

    Args:
        decoder: Any but ``fcn``, which needs nothing between the trunk and its scores.
        trunk: Gives feature maps fine to coarse.
        name: That of a trunk of our own, whose published decoders differ in layers.

    Returns:
        N x K x H x W -> one map.

    Raises:
        ValueError: Where the decoder needs something that the trunk does not have; names the layer.
    """
    if decoder == "segnet":
        return SegNet(trunk, basic=name == "basic")
    if decoder == "deconvnet":
        return DeconvNet(trunk)
    if decoder == "unet":
        if name == "original":
            return UNet(trunk, padded=False, norm=False)
        return UNet(trunk if isinstance(trunk, ClassifierTrunk) else retap(trunk))
    if decoder == "fpn":
        return Pyramid(trunk)
    aspp = decoder == "deeplab"
    if isinstance(trunk, HoleVGG16):
        return DeepLab(trunk, aspp=aspp, published=True, reduction=trunk.reduction)
    holes = Holes(trunk)
    return DeepLab(holes, aspp=aspp, reduction=holes.reduction)
