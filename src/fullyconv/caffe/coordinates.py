"""Where the units of a blob lie in the input, for the crops of Caffe's first segmenters, which do not say their offset.

The Caffe of the papers' first release (and of CRF-RNN) lays the first bottom of a CROP on the second by itself: unit 0
of the top is the unit of the first that lies where unit 0 of the second does (fact sheet, section 4.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from torch import nn

from fullyconv.caffe.description import Layer
from fullyconv.caffe.dialects import Interp
from fullyconv.caffe.modules import Pooling
from fullyconv.caffe.prototxt import Token
from fullyconv.caffe.reshaping import Crop
from fullyconv.files import BadFile


@dataclass(frozen=True)
class Line:
    """Along one axis: the place of unit 0, and the distance between units, in units of the input."""

    start: Fraction = Fraction(0)
    stride: Fraction = Fraction(1)


Lines = tuple[Line, Line]
ORIGIN: Lines = (Line(), Line())


def placed(module: nn.Module, bottom: Lines | None) -> Lines | None:
    """Return where a layer's units lie, from where its first bottom's do; ``None`` where that is not to be said."""
    if bottom is None or isinstance(module, Interp) or (isinstance(module, Pooling) and module.kernel is None):
        return None
    if isinstance(module, Crop):
        offsets = (0,) * (module.axis - 2) + (module.offsets * 2 if len(module.offsets) == 1 else module.offsets)
        pair = (*offsets, 0, 0)[:2]
        return _both(bottom, lambda line, axis: Line(line.start + pair[axis] * line.stride, line.stride))
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | Pooling):
        return _both(bottom, lambda line, axis: _moved(module, line, axis))
    return bottom


def _both(lines: Lines, move: Callable[[Line, int], Line]) -> Lines:
    return move(lines[0], 0), move(lines[1], 1)


def _moved(module: nn.Conv2d | nn.ConvTranspose2d | Pooling, line: Line, axis: int) -> Line:
    if isinstance(module, Pooling):
        kernel, pad, stride = cast("tuple[int, int]", module.kernel)[axis], module.pad[axis], module.stride[axis]
    else:
        kernel = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        pad, stride = cast("tuple[int, int]", module.padding)[axis], module.stride[axis]
    middle = Fraction(kernel - 1, 2) - pad
    if isinstance(module, nn.ConvTranspose2d):
        finer = line.stride / stride
        return Line(line.start - middle * finer, finer)
    return Line(line.start + middle * line.stride, line.stride * stride)


def placed_crop(layer: Layer, made: nn.Module, bottoms: Sequence[Lines | None]) -> nn.Module:
    """Return a Crop as it was made, or, of the old form without an offset, laid on its second bottom.

    Warns where one of today's form without fields begins elsewhere than its grids say: its offset is 0 in Caffe; in the
    forks of HED, U-Net and CRF-RNN, older than Caffe's own Crop, it follows from the grids.
    """
    if layer.message.messages("crop_param"):
        return made
    kind = layer.message.fields["type"][0]
    if isinstance(kind, Token) and kind.kind == "word":
        return aligned(layer, bottoms)
    try:
        offsets = aligned(layer, bottoms).offsets
    except BadFile:
        return made
    if any(offsets):
        said = " ".join(f"offset: {offset}" for offset in offsets)
        fix = f"in a file of HED, U-Net or CRF-RNN, whose Caffe aligns by itself, write crop_param {{ axis: 2 {said} }}"
        warnings.warn(f"{layer.fail('says no offset, which is 0 in Caffe', fix)}", stacklevel=2)
    return made


def aligned(layer: Layer, bottoms: Sequence[Lines | None]) -> Crop:
    """Make the crop that lays the first bottom on the second; raises ``BadFile`` where their grids do not meet."""
    source, reference = bottoms
    if source is None or reference is None:
        raise layer.fail("its offset does not follow from the layers before it", "write crop_param { offset: … }")
    offsets = []
    for line, wanted in zip(source, reference, strict=True):
        offset = (wanted.start - line.start) / line.stride
        if line.stride != wanted.stride or offset.denominator != 1 or offset < 0:
            what = f"units {line.stride} apart from {line.start} on do not lie on units {wanted.stride} apart from "
            raise layer.fail(f"{what}{wanted.start} on", "correct kernels and pads, or write crop_param { offset: … }")
        offsets.append(int(offset))
    return Crop(2, offsets)
