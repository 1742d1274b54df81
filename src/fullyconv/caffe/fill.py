"""A layer's weights: as its fillers start them, or as a caffemodel holds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.caffe import fields
from fullyconv.caffe.build import kind_of
from fullyconv.caffe.description import Layer
from fullyconv.caffe.modules import InnerProduct, Scale
from fullyconv.files import BadFile
from fullyconv.upsample import bilinear_taps

LEGACY_AXES = 4


def _fan(filler: fields.Filler, blob: Tensor) -> float:
    fan_in = blob.numel() / blob.shape[0]
    fan_out = blob.numel() / blob.shape[1] if blob.ndim > 1 else blob.numel()
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[filler.variance_norm]


def _xavier(filler: fields.Filler, blob: Tensor) -> None:
    bound = sqrt(3 / _fan(filler, blob))
    blob.uniform_(-bound, bound)


def _bilinear(filler: fields.Filler, blob: Tensor) -> None:
    if blob.ndim != 4 or blob.shape[2] != blob.shape[3]:
        raise ValueError(f"a bilinear filler for a blob of {tuple(blob.shape)}: it needs square kernels")
    taps = bilinear_taps(blob.shape[2])
    blob.copy_(torch.outer(taps, taps).expand_as(blob))


def _unit_ball(filler: fields.Filler, blob: Tensor) -> None:
    blob.uniform_(0, 1)
    blob.div_(blob.flatten(1).sum(1).reshape(-1, *[1] * (blob.ndim - 1)))


def _gaussian(filler: fields.Filler, blob: Tensor) -> None:
    blob.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:  # so many inputs of each output are not 0, on average
        blob.mul_(torch.empty_like(blob).bernoulli_(min(filler.sparse / blob.shape[0], 1)))


FILLERS: dict[str, Callable[[fields.Filler, Tensor], object]] = {
    "constant": lambda filler, blob: blob.fill_(filler.value),
    "uniform": lambda filler, blob: blob.uniform_(filler.min, filler.max),
    "gaussian": _gaussian,
    "xavier": _xavier,
    "msra": lambda filler, blob: blob.normal_(0, sqrt(2 / _fan(filler, blob))),
    "bilinear": _bilinear,
    "positive_unitball": _unit_ball,
}


@torch.no_grad()
def fill(layer: Layer, module: nn.Module) -> None:
    """Allocate a module on the current device and fill its weights as its fillers say."""
    module.to_empty(device=torch.get_default_device())
    fillers = kind_of(layer).fillers(layer)
    if isinstance(module, InnerProduct) and module.weight is None:
        module.start, fillers = partial(_fill, layer, fillers[0]), fillers[1:]
    for index, (_, blob) in enumerate(blobs_of(module)):
        _fill(layer, fillers[index] if index < len(fillers) else fields.Filler(), blob)


@torch.no_grad()
def _fill(layer: Layer, filler: fields.Filler, blob: Tensor) -> None:
    if filler.type not in FILLERS:
        raise layer.fail(f"filler {filler.type!r}", f"supported are {', '.join(FILLERS)}")
    try:
        FILLERS[filler.type](filler, blob)
    except (ValueError, RuntimeError) as error:
        raise layer.fail(str(error), "choose another filler") from None


def blobs_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return a layer's weights in Caffe's order, each with its name in the module."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    order = getattr(type(module), "BLOBS", own)
    return [(name, own[name]) for name in order if name in own]


def assign(
    layer: Layer, module: nn.Module, weights: dict[str, list[np.ndarray]], path: str, *, shared: bool = False
) -> None:
    """Attach to a module the weights that a caffemodel holds under its layer's name; they leave ``weights``.

    A Scale layer may be absent from the file if its filler says its factors, or if it says nothing (they are 1 then),
    and so may one whose weights belong to another layer (``shared``). Raises ``BadFile`` for any other layer that is
    absent, for a wrong number of blobs and for blobs of another shape.
    """
    own = blobs_of(module)
    blobs = weights.pop(layer.name, None)
    if blobs is None and (not own or shared or (isinstance(module, Scale) and _says_its_factors(layer))):
        fill(layer, module)
        return
    if blobs is None:
        raise BadFile(path, f"{layer.label} has no weights here", "give the caffemodel that belongs to the prototxt")
    if len(blobs) != len(own):
        raise BadFile(
            path, f"{layer.label} has {len(blobs)} blobs here, it needs {len(own)}", "give its own caffemodel"
        )
    state = {}
    for (name, tensor), blob in zip(own, blobs, strict=True):
        shape = tuple(tensor.shape)
        is_vector = len(shape) < 2 and np.squeeze(blob).ndim < 2  # 1 x C x 1 x 1 is C to every Caffe
        if (_plain(blob.shape) != _plain(shape) and not is_vector) or blob.size != tensor.numel():
            raise BadFile(
                path,
                f"{layer.label}: its {name} is {blob.shape} here, it needs {shape}",
                "give the caffemodel that belongs to the prototxt",
            )
        state[name] = torch.from_numpy(blob.reshape(shape))
    module.load_state_dict(state, assign=True)


def _says_its_factors(layer: Layer) -> bool:
    given = layer.message.messages("scale_param")
    return not given or any("filler" in block.fields for block in given)


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the leading ones that old files pad shapes with, up to four axes."""
    shape = tuple(shape)
    while len(shape) > 1 and len(shape) <= LEGACY_AXES and shape[0] == 1:
        shape = shape[1:]
    return shape
