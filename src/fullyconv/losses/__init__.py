"""Losses of pixels, of scores that are still to be upsampled to them, and of regions."""

from fullyconv.losses.overlap import dice_loss, lovasz_loss
from fullyconv.losses.pixel import (
    Normalization,
    class_weights,
    hardest_terms,
    pixel_loss,
    sample_terms,
    softmax_loss,
)
from fullyconv.losses.upsampled import upsampled_loss

__all__ = [
    "Normalization",
    "class_weights",
    "dice_loss",
    "hardest_terms",
    "lovasz_loss",
    "pixel_loss",
    "sample_terms",
    "softmax_loss",
    "upsampled_loss",
]
