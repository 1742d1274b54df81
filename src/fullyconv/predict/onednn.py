"""oneDNN's convolution as a module: weights packed once, the sum and the activation that follow in the same step."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.predict.convolutions import padding_of
from fullyconv.trace.activations import Activation

SIZES = 16  # of pictures that a layer remembers
ORDERS = 3  # of its weights that it keeps at most
REORDERED = 1 << 22  # weights; of larger layers reading the weights takes the time, not the order they have
HOLE = slice(108, 112)  # bytes of oneDNN's description of a memory that mean nothing


class PackedConvolution(nn.Module):
    """A convolution, the sum with another map and an activation in one step.

    Args:
        layer: Whose strides, padding, dilation and groups are taken.
        weight: K x C/groups x h x w float32.
        bias: K numbers float32, or none.
        kind: float32 or bfloat16: what it reads and writes; sums are float32.
        activation: What is done to the result.
    """

    def __init__(
        self, layer: nn.Conv2d, weight: Tensor, bias: Tensor | None, kind: torch.dtype, activation: Activation | None
    ) -> None:
        super().__init__()
        self.geometry = [*padding_of(layer)], [*layer.stride], [*layer.dilation], layer.groups
        # Of many layers the order of the packed weights is the same whatever the size of the pictures.
        size = [1, layer.in_channels, *(64 + side for side in layer.kernel_size)]
        self.packed = self._pack(weight.to(kind).contiguous(memory_format=torch.channels_last), size)
        self.varies = weight.numel() <= REORDERED
        self._by_size: OrderedDict[torch.Size, Tensor | None] = OrderedDict()
        self.bias, self.kind = bias, kind
        self.after = activation.name if activation else "none", [*activation.numbers] if activation else []
        self.algorithm = activation.algorithm if activation else None

    def _pack(self, weight: Tensor, size: list[int]) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry, size)
        return packed

    def _packed(self, size: torch.Size) -> Tensor:
        """Return the weights in the order that oneDNN wants at a size, lest it order them anew at every call.

        That took 9.3 of the 9.8 ms of a layer of 320 to 1280 channels. Pictures that are all of different sizes would
        gain nothing by it: only what comes a second time is packed for.
        """
        if not self.varies:
            return self.packed
        if size not in self._by_size:
            self._by_size[size] = None
            if len(self._by_size) > SIZES:
                self._by_size.popitem(last=False)
            return self.packed
        found = self._by_size[size]
        if found is None:
            found = self._by_size[size] = self._shared(self._pack(self.packed.to_dense(), [*size]))
        return found

    def _shared(self, packed: Tensor) -> Tensor:
        """Return weights that lie in the same order, if there are such."""
        kept = {id(each): each for each in (self.packed, *self._by_size.values()) if each is not None}
        same = next((each for each in kept.values() if _order(each) == _order(packed)), None)
        if same is None and len(kept) >= ORDERS:
            return self.packed
        return packed if same is None else same

    def forward(self, features: Tensor, other: Tensor | None = None) -> Tensor:
        """Return act(convolution + other), N x K x h x w in channels-last order."""
        features, (name, numbers) = _laid(features, self.kind), self.after
        packed = self._packed(features.shape)
        result: Tensor
        if other is None:
            result = torch.ops.mkldnn._convolution_pointwise(
                features, packed, self.bias, *self.geometry, name, numbers, self.algorithm
            )
        else:
            unary = None if name == "none" else name
            bias = None if self.bias is None else self.bias.to(self.kind)  # PyTorch demands it of sums alone
            result = torch.ops.mkldnn._convolution_pointwise.binary(
                features, _laid(other, self.kind), packed, bias, *self.geometry,
                "add", None, unary, numbers, self.algorithm,
            )  # fmt: skip
        return result


def _order(packed: Tensor) -> bytes:
    described: Tensor = torch.ops.mkldnn._get_mkldnn_serialized_md(packed)
    code = described.numpy().view(np.uint8).copy()
    code[HOLE] = 0
    return code.tobytes()


def _laid(features: Tensor, kind: torch.dtype) -> Tensor:
    return features.to(kind).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def can_pack(kind: torch.dtype) -> bool:
    """Return whether this PyTorch on this machine has oneDNN's convolutions, and they compute what a convolution is."""
    if not torch._C._has_mkldnn or not torch.backends.mkldnn.enabled:
        return False
    if kind == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    layer = nn.Conv2d(16, 32, 3, padding=1)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image, weight, bias, other = (
            torch.rand(shape) for shape in ((1, 16, 9, 8), (32, 16, 3, 3), (32,), (1, 32, 9, 8))
        )
        expected = functional.relu(functional.conv2d(image, weight, bias, padding=1) + other)
        try:
            packed = PackedConvolution(layer, weight, bias, kind, Activation("relu"))
            packed(image, other)
            found = packed(image, other)  # in the order of this size
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return False
    return torch.allclose(found.float(), expected, rtol=2e-5 if kind == torch.float32 else 2e-2)
