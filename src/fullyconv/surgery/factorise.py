"""Fewer weights for fully connected layers: truncated SVD, and global average pooling in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fullyconv.machine import evaluating
from fullyconv.surgery.layers import filled, linear_to_conv, replace_layer


@dataclass(frozen=True)
class Compression:
    """What a truncation saved and what it cost.

    Attributes:
        ranks: By layer.
        parameters: Of these layers, before and after.
        multiply_adds: Of these layers over the given input, before and after.
        weight_errors: By layer, ``|W - W'| / |W|``, Frobenius.
        output_error: ``|y - y'| / |y|`` of the network's output for the given input.

    >>> saved = compress(nn.Sequential(nn.Conv2d(8, 8, 3)), ["0"], torch.randn(1, 8, 9, 9), rank=2)
    >>> saved.ranks, saved.parameters
    ({'0': 2}, (584, 168))
    """

    ranks: dict[str, int]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    weight_errors: dict[str, float]
    output_error: float


def truncate_svd(conv: nn.Conv2d, *, rank: int | None = None, error: float | None = None) -> nn.Sequential:
    """Factor a k x k convolution I -> O into k x k, I -> r, without bias, and 1 x 1, r -> O, with the old bias.

    No other factors of rank r come closer. At full rank the function is unchanged; weights are saved if and only if
    r < n*O / (n + O) with n = I*k*k.

    Args:
        conv: The convolution.
        rank: r; give either this or ``error``.
        error: The largest relative error of the weights (Frobenius norm; that of the output for white input), 0..1; the
            smallest sufficient rank is taken.

    Returns:
        The two convolutions.

    Raises:
        ValueError: For grouped convolutions, and for ranks and errors out of range.

    >>> [tuple(layer.weight.shape) for layer in truncate_svd(nn.Conv2d(8, 16, 3), rank=2)]
    [(2, 8, 3, 3), (16, 2, 1, 1)]
    """
    weight = _matrix(conv)  # O x I*k*k
    singular, inner, outer = _factors(weight)
    if (rank is None) == (error is None):
        raise ValueError("give either rank or error, not both and not neither")
    if rank is None:
        rank = _rank_for(singular, cast("float", error))
    if not 1 <= rank <= len(singular):
        raise ValueError(
            f"the rank of a {conv.out_channels} x {weight.shape[1]} layer is 1 to {len(singular)}, not {rank}"
        )
    with torch.device("meta"):
        first, second = (cast("nn.Conv2d", part) for part in _pair(conv, rank))
    kind = conv.weight.dtype
    return nn.Sequential(
        filled(first, inner[:rank].view(first.weight.shape).to(kind), None),
        filled(second, outer[:, :rank, None, None].to(kind), conv.bias),
    ).train(conv.training)


def _pair(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """Make the two factors of a convolution, with weights of their own."""
    first = nn.Conv2d(
        conv.in_channels,
        rank,
        cast("tuple[int, int]", conv.kernel_size),
        cast("tuple[int, int]", conv.stride),
        cast("tuple[int, int]", conv.padding),
        cast("tuple[int, int]", conv.dilation),
        bias=False,
        padding_mode=conv.padding_mode,
    )
    return nn.Sequential(first, nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None))


def factor_like(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Factor the convolutions of a fresh network that are factored in a saved one, in place.

    Args:
        network: Is changed where ``tensors`` describe a factored layer; weights are not copied.
        tensors: The saved network's, by name.

    >>> saved = nn.Sequential(truncate_svd(nn.Conv2d(8, 16, 3), rank=2))
    >>> fresh = nn.Sequential(nn.Conv2d(8, 16, 3))
    >>> factor_like(fresh, saved.state_dict())
    >>> fresh[0][0].weight.shape
    torch.Size([2, 8, 3, 3])
    """
    for name, conv in [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]:
        inner = tensors.get(f"{name}.0.weight")
        if f"{name}.weight" in tensors or f"{name}.1.weight" not in tensors or inner is None or inner.ndim != 4:
            continue
        if inner.shape[0] <= min(conv.out_channels, conv.weight[0].numel()):  # no larger rank is of any use
            replace_layer(network, name, _pair(conv, max(1, inner.shape[0])))


def _matrix(conv: nn.Conv2d) -> Tensor:
    if conv.groups != 1:
        raise ValueError(f"a convolution in {conv.groups} groups is not one matrix: truncate each group by itself")
    return conv.weight.detach().flatten(1).double()


def _factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular values, largest first, and W = outer @ inner: its first r columns and rows are the best rank r.

    From the eigenvectors of the smaller Gram matrix: fc6 has 4096 rows but 25088 columns, and an
    orthogonal basis of the rows is all that is needed.
    """
    rows, columns = weight.shape
    if rows <= columns:
        values, basis = torch.linalg.eigh(weight @ weight.T)
        basis = basis.flip(1)
        return values.flip(0).clamp(min=0).sqrt(), basis.T @ weight, basis
    values, basis = torch.linalg.eigh(weight.T @ weight)
    basis = basis.flip(1)
    return values.flip(0).clamp(min=0).sqrt(), basis.T, weight @ basis


def _rank_for(singular: Tensor, error: float) -> int:
    if not 0 <= error < 1:
        raise ValueError(f"the relative error lies from 0 to below 1, not {error}")
    energy = singular.square()
    beyond = energy.sum() - energy.cumsum(0)  # what the rank 1, 2, … leaves out
    enough = beyond <= error**2 * energy.sum()
    return int(enough.nonzero()[0]) + 1 if enough.any() else len(singular)


def compress(
    network: nn.Module, names: Sequence[str], inputs: Tensor, *, rank: int | None = None, error: float | None = None
) -> Compression:
    """Truncate convolutions of a network in place and measure the effect.

    Args:
        network: Answers with one tensor.
        names: Its convolutions, as in ``named_modules`` (``trunk.fc6``, ``trunk.fc7``).
        inputs: N x C x H x W, what the output error and the multiply-adds are measured on.
        rank: See ``truncate_svd``.
        error: See ``truncate_svd``.

    Returns:
        What was saved and what it cost.

    Raises:
        ValueError: For a name that is no convolution of the network, and what ``truncate_svd`` refuses.

    >>> compress(nn.Sequential(nn.Conv2d(8, 8, 3)), ["0"], torch.randn(1, 8, 9, 9), rank=8).output_error < 1e-5
    True
    """
    layers = {name: _convolution(network, name) for name in names}
    pairs = {name: truncate_svd(conv, rank=rank, error=error) for name, conv in layers.items()}
    before, positions = _run(network, layers, inputs)
    for name, pair in pairs.items():
        replace_layer(network, name, pair)
    after, _ = _run(network, {}, inputs)
    old = {name: conv.weight.numel() for name, conv in layers.items()}
    new = {name: sum(cast("nn.Conv2d", part).weight.numel() for part in pair) for name, pair in pairs.items()}
    biases = sum(conv.out_channels for conv in layers.values() if conv.bias is not None)
    return Compression(
        ranks={name: cast("nn.Conv2d", pair[0]).out_channels for name, pair in pairs.items()},
        parameters=(sum(old.values()) + biases, sum(new.values()) + biases),
        multiply_adds=(
            sum(old[name] * positions[name] for name in names),
            sum(new[name] * positions[name] for name in names),
        ),
        weight_errors={name: _weight_error(layers[name], pair) for name, pair in pairs.items()},
        output_error=_relative(after - before, before),
    )


def _convolution(network: nn.Module, name: str) -> nn.Conv2d:
    layer = dict(network.named_modules()).get(name)
    if not isinstance(layer, nn.Conv2d):
        known = ", ".join(key for key, module in network.named_modules() if isinstance(module, nn.Conv2d))
        raise ValueError(f"{name!r} is not a convolution of this network: choose from {known}")
    return layer


def _run(network: nn.Module, layers: dict[str, nn.Conv2d], inputs: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Return the network's output without dropout, and at how many positions each layer was applied."""
    positions: dict[str, int] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, output, name=name: positions.update({name: output.numel() // output.shape[1]})
        )
        for name, layer in layers.items()
    ]
    try:
        with evaluating(network):
            output = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise ValueError(f"the network answers with a {type(output).__name__}: its error is measured on one tensor")
    return output, positions


def _weight_error(conv: nn.Conv2d, pair: nn.Sequential) -> float:
    inner, outer = (cast("nn.Conv2d", part).weight.detach().flatten(1).double() for part in pair)
    weight = _matrix(conv)
    return _relative(outer @ inner - weight, weight)


def _relative(difference: Tensor, whole: Tensor) -> float:
    size = float(whole.double().norm())
    return float(difference.double().norm()) / size if size else 0.0


class GlobalAverageHead(nn.Module):
    """Class scores without a fully connected layer: a 1 x 1 convolution, then the mean over positions.

    Takes N x C x h x w of any size, gives N x K. The mean and the convolution commute, so this is also "average, then
    linear" (GoogLeNet, ResNet), and the map before the mean, ``heat_map``, says where each class is.

    Args:
        channels: C.
        classes: K.

    >>> GlobalAverageHead(8, 3)(torch.zeros(2, 8, 5, 7)).shape
    torch.Size([2, 3])
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, classes, 1)

    @classmethod
    def of(cls, linear: nn.Linear) -> GlobalAverageHead:
        """Take the weights of the linear layer that follows an average pool.

        Args:
            linear: C -> K.

        Returns:
            A head with a copy of its weights.
        """
        head = cls(1, 1)
        head.score = linear_to_conv(linear, (1, 1))
        return head

    def heat_map(self, features: Tensor) -> Tensor:
        """Score every position.

        Args:
            features: N x C x h x w.

        Returns:
            N x K x h x w.
        """
        scores: Tensor = self.score(features)
        return scores

    def forward(self, features: Tensor) -> Tensor:
        """Score the whole map.

        Args:
            features: N x C x h x w.

        Returns:
            N x K.
        """
        return self.heat_map(features).mean((2, 3))
