"""oneDNN's convolution as a module: weights packed once, the sum and the activation that follow in the same step."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.trace.activations import Activation


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
        self.geometry = [*_padding(layer)], [*layer.stride], [*layer.dilation], layer.groups
        padding, stride, dilation, groups = self.geometry
        # Whatever the size of the pictures, the order of the packed weights is the same: any size will do.
        size = [1, layer.in_channels, *(64 + side for side in layer.kernel_size)]
        laid = weight.to(kind).contiguous(memory_format=torch.channels_last)
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(laid, padding, stride, dilation, groups, size)
        self.bias, self.kind = bias, kind
        self.after = activation.name if activation else "none", [*activation.numbers] if activation else []
        self.algorithm = activation.algorithm if activation else None

    def forward(self, features: Tensor, other: Tensor | None = None) -> Tensor:
        """Return act(convolution + other), N x K x h x w in channels-last order."""
        features, (name, numbers) = _laid(features, self.kind), self.after
        result: Tensor
        if other is None:
            result = torch.ops.mkldnn._convolution_pointwise(
                features, self.packed, self.bias, *self.geometry, name, numbers, self.algorithm
            )
        else:
            unary = None if name == "none" else name
            bias = None if self.bias is None else self.bias.to(self.kind)  # PyTorch demands it of sums alone
            result = torch.ops.mkldnn._convolution_pointwise.binary(
                features, _laid(other, self.kind), self.packed, bias, *self.geometry,
                "add", None, unary, numbers, self.algorithm,
            )  # fmt: skip
        return result


def _laid(features: Tensor, kind: torch.dtype) -> Tensor:
    return features.to(kind).contiguous(memory_format=torch.channels_last)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    return (0, 0) if isinstance(layer.padding, str) else cast("tuple[int, int]", layer.padding)


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
            found = PackedConvolution(layer, weight, bias, kind, Activation("relu"))(image, other)
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return False
    return torch.allclose(found.float(), expected, rtol=2e-5 if kind == torch.float32 else 2e-2)
