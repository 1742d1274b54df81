"""One layer in another form: linear as convolution and back, convolution as sparse matrix, more input channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

AnyLayer = TypeVar("AnyLayer", bound=nn.Module)
Network = TypeVar("Network", bound=nn.Module)


def linear_to_conv(linear: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    """Recast a fully connected layer as the convolution that applies it at every position (paper, section 3.1).

    Over an h x w map the convolution gives the same numbers as the layer, over a larger one the layer's answer for
    every window.

    Args:
        linear: Reads C x h x w maps flattened channel first.
        window: (h, w).

    Returns:
        A convolution with the same weights in the same order (a copy of them).

    Raises:
        ValueError: If the input does not divide into windows.

    >>> linear_to_conv(nn.Linear(512 * 7 * 7, 10, device="meta"), window=(7, 7))
    Conv2d(512, 10, kernel_size=(7, 7), stride=(1, 1))
    """
    taps = window[0] * window[1]
    if min(window) < 1 or linear.in_features % taps:
        raise ValueError(
            f"{linear.in_features} inputs are not a whole number of channels of {window[0]} x {window[1]} each: "
            "give the height and width of the map that was flattened"
        )
    with torch.device("meta"):
        conv = nn.Conv2d(linear.in_features // taps, linear.out_features, window, bias=linear.bias is not None)
    return filled(conv, linear.weight.reshape(conv.weight.shape), linear.bias)


def conv_to_linear(conv: nn.Conv2d) -> nn.Linear:
    """Recast a convolution as the fully connected layer over one of its windows: the inverse of ``linear_to_conv``.

    Args:
        conv: Any convolution that is not grouped. The layer has one position, so stride, padding and dilation have no
            counterpart.

    Returns:
        A layer that reads C x h x w windows flattened channel first, with a copy of the weights.

    Raises:
        ValueError: For a grouped convolution.

    >>> conv_to_linear(nn.Conv2d(512, 10, 7, device="meta"))
    Linear(in_features=25088, out_features=10, bias=True)
    """
    if conv.groups != 1:
        raise ValueError(
            f"a convolution in {conv.groups} groups is not one linear layer: convert each group by itself, "
            "or take its matrix with conv_to_matrix"
        )
    weight = conv.weight.flatten(1)
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=conv.bias is not None)
    return filled(linear, weight, conv.bias)


def conv_to_matrix(conv: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """Write a convolution over maps as a sparse fully connected layer.

    Its non-zeros are the kernel values, each repeated at every position where its tap falls on the map; its transpose
    is the deconvolution with the same weights (paper, section 3.3).

    Args:
        conv: A convolution C -> O of any stride, padding, dilation and grouping.
        size: (H, W) of the maps.

    Returns:
        A coalesced ``torch.sparse`` matrix of (O * oh * ow) x (C * H * W) such that
        ``matrix @ x.flatten() == conv(x).flatten()`` without the bias.

    Raises:
        ValueError: For padding other than zeros and for maps smaller than the kernel.

    >>> conv_to_matrix(nn.Conv2d(1, 1, 3), (4, 5)).shape
    torch.Size([6, 20])
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError("only zero padding by a number of pixels has a matrix: give padding=(rows, columns)")
    grids = [_taps(conv, axis, size[axis]) for axis in (0, 1)]
    (input_rows, rows_inside), (input_columns, columns_inside) = grids  # kernel x outputs each
    channels, wide = conv.weight.shape[:2]  # wide: input channels of one group
    group = torch.arange(channels) // (channels // conv.groups)
    sources = group[:, None] * wide + torch.arange(wide)  # O x C/g
    high, across = input_rows.shape[1], input_columns.shape[1]
    # Every axis below: O x C/g x kernel rows x kernel columns x output rows x output columns.
    shape = (channels, wide, *conv.kernel_size, high, across)
    target = torch.arange(channels * high * across).view(channels, 1, 1, 1, high, across).expand(shape)
    pixels = input_rows[:, None, :, None] * size[1] + input_columns[None, :, None, :]
    source = sources[:, :, None, None, None, None] * (size[0] * size[1]) + pixels
    inside = (rows_inside[:, None, :, None] & columns_inside[None, :, None, :]).expand(shape)
    values = conv.weight.detach()[..., None, None].expand(shape)
    return torch.sparse_coo_tensor(
        torch.stack([target[inside], source[inside]]).to(values.device),
        values[inside.to(values.device)],
        (channels * high * across, conv.in_channels * size[0] * size[1]),
        check_invariants=False,
    ).coalesce()


def _taps(conv: nn.Conv2d, axis: int, units: int) -> tuple[Tensor, Tensor]:
    """Return which input unit each tap reads for each output unit, kernel x outputs, and whether it exists."""
    kernel, stride, dilation = conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis]
    pad = cast("tuple[int, int]", conv.padding)[axis]
    outputs = (units + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1:
        raise ValueError(f"a map of {units} units along axis {axis} is smaller than the kernel: give a larger size")
    read = torch.arange(outputs)[None, :] * stride - pad + torch.arange(kernel)[:, None] * dilation
    return read, (read >= 0) & (read < units)


def expand_inputs(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Widen a layer: its filters are kept, each new channel gets their mean.

    As the reference starts its colour-and-depth network: colour weights as they were, depth the mean of the three, per
    filter and tap.

    Args:
        conv: The layer.
        channels: How many inputs it reads afterwards.

    Returns:
        A new layer; ``conv`` stays as it was.

    Raises:
        ValueError: For fewer channels than there are and for a grouped convolution.

    >>> expand_inputs(nn.Conv2d(3, 8, 3), 4)
    Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    if conv.groups != 1:
        raise ValueError(f"a convolution in {conv.groups} groups cannot be widened: its channels belong to groups")
    extra = channels - conv.in_channels
    if extra < 0:
        raise ValueError(f"the layer reads {conv.in_channels} channels already: give at least as many, not {channels}")
    with torch.device("meta"):
        wider = nn.Conv2d(
            channels,
            conv.out_channels,
            cast("tuple[int, int]", conv.kernel_size),
            cast("tuple[int, int]", conv.stride),
            cast("tuple[int, int]", conv.padding),
            cast("tuple[int, int]", conv.dilation),
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
    mean = conv.weight.mean(1, keepdim=True)  # O x 1 x k x k
    return filled(wider, torch.cat([conv.weight, mean.expand(-1, extra, -1, -1)], dim=1), conv.bias)


def widen(network: nn.Module, channels: int) -> None:
    """Let a network read ``channels`` inputs, by ``expand_inputs`` of its first convolution; states ``in_channels``.

    Raises ``ValueError`` where that convolution does not read the image, and for what ``expand_inputs`` refuses.
    """
    name, first = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels != network.in_channels:
        raise ValueError(
            f"{name} reads {first.in_channels} channels, not the image: only such a first layer is widened"
        )
    replace_layer(network, name, expand_inputs(first, channels))
    network.in_channels = channels  # type: ignore[assignment]


def without_weights(build: Callable[[], Network]) -> Network:
    """Build a network on the meta device, where its weights take no time; as it is if its constructor needs numbers."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # what PyTorch raises for numbers asked of a meta tensor
        return build()


def filled(layer: AnyLayer, weight: Tensor, bias: Tensor | None) -> AnyLayer:
    """Set copies of these tensors as the parameters of a layer, on their device and in their precision."""
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None:
            setattr(layer, name, nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format)))
    return layer


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put another layer where a network has one.

    Args:
        network: Is changed in place.
        name: The layer's name, dotted, as in ``named_modules``.
        layer: What takes its place.

    Returns:
        The layer that was there.

    Raises:
        ValueError: If there is no such layer.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> replace_layer(network, "1", nn.Tanh()), network[1]
    (ReLU(), Tanh())
    """
    parent, _, leaf = name.rpartition(".")
    try:
        home = network.get_submodule(parent)
        old = home.get_submodule(leaf)
    except AttributeError:
        known = ", ".join(key for key, module in network.named_modules() if key and not any(module.children()))
        raise ValueError(f"the network has no layer {name!r}: its layers are {known}") from None
    home.register_module(leaf, layer)
    return old
