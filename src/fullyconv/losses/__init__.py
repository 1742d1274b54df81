"""Losses of pixels, and of scores that are still to be upsampled to them."""

from fullyconv.losses.pixel import Normalization, class_weights, pixel_loss, sample_terms, softmax_loss
from fullyconv.losses.upsampled import upsampled_loss

__all__ = ["Normalization", "class_weights", "pixel_loss", "sample_terms", "softmax_loss", "upsampled_loss"]
