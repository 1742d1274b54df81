"""Weights from one network to another, by name (reference, section "surgery"; paper, sections 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, takewhile

import torch
from torch import Tensor, nn

Weights = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True)
class Transplant:
    """What a transplant did: names of tensors.

    Attributes:
        moved: Those of the target that were filled.
        reshaped: Of these, those of another shape than the source's: same numbers in the same order.
        left: Those of the source that were skipped or have no place in the target.
        missing: Those of the target that the source does not have: they keep their values.

    >>> str(transplant(nn.Linear(2, 3), nn.Linear(2, 3, bias=False)))
    '1 moved; 0 reshaped; 1 left (bias); 0 missing'
    """

    moved: tuple[str, ...]
    reshaped: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        parts = {"moved": self.moved, "reshaped": self.reshaped, "left": self.left, "missing": self.missing}
        return "; ".join(
            f"{len(names)} {what}" + (f" ({_some(names)})" if what != "moved" and names else "")
            for what, names in parts.items()
        )


def _some(names: tuple[str, ...], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def transplant(
    source: Weights, target: nn.Module, *, skip: Collection[str] = (), rename: Mapping[str, str] | None = None
) -> Transplant:
    """Copy every tensor of a network to the tensor of the same name in another.

    Tensors of one size but another shape are filled in flat order, which turns an O x (C*h*w) matrix into an
    O x C x h x w kernel.

    Args:
        source: A network or named tensors.
        target: Is changed in place.
        skip: Tensors, or layers by their dotted prefix, that stay behind.
        rename: Maps such names of the source to the target's (``{"features.0": "trunk.block1.conv1_1"}``).

    Returns:
        What moved and what did not.

    Raises:
        ValueError: If a name stands for different numbers of elements (the reference's script would repeat or cut
            them) or for different numbers of outputs; nothing is changed then.

    >>> transplant(nn.Linear(18, 4), nn.Conv2d(2, 4, 3)).reshaped
    ('weight',)
    """
    given = source.state_dict() if isinstance(source, nn.Module) else source
    names = {name: _renamed(name, rename or {}) for name in given if not _skipped(name, skip)}
    if len(set(names.values())) < len(names):
        raise ValueError(f"rename gives two tensors of the source one name: {rename}")
    tensors, places = {new: given[old] for old, new in names.items()}, target.state_dict()
    common = [name for name in tensors if name in places]
    for name in common:
        _check(name, tensors[name].shape, places[name].shape)
    with torch.no_grad():
        for name in common:
            places[name].copy_(tensors[name].reshape(places[name].shape))
    return Transplant(
        moved=tuple(name for name in common if tensors[name].shape == places[name].shape),
        reshaped=tuple(name for name in common if tensors[name].shape != places[name].shape),
        left=tuple(name for name in given if names.get(name) not in places),
        missing=tuple(name for name in places if name not in common),
    )


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    """Replace the longest dotted prefix that is listed."""
    prefixes = [prefix for prefix in rename if _skipped(name, (prefix,))]
    if not prefixes:
        return name
    longest = max(prefixes, key=len)
    return rename[longest] + name[len(longest) :]


def _skipped(name: str, skip: Collection[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in skip)


def _check(name: str, given: torch.Size, wanted: torch.Size) -> None:
    """Refuse tensors that cannot be the same weights; axes of length 1 (Caffe's old blobs) do not matter."""
    if given.numel() != wanted.numel():
        raise ValueError(
            f"{name}: the source has {tuple(given)}, {given.numel()} elements, the target {tuple(wanted)}, "
            f"{wanted.numel()}: rename the layer, or leave it out with skip"
        )
    outputs = [[length for length in shape if length > 1][:1] for shape in (given, wanted)]
    if given[:1] != wanted[:1] and outputs[0] != outputs[1]:
        raise ValueError(
            f"{name}: {tuple(given)} in the source cannot fill {tuple(wanted)} in flat order: "
            "they have different numbers of outputs"
        )


def prefixes_of_trunks(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[str, str]:
    """Find below which names two networks have a trunk in common: decoders stand around it in different ways.

    Args:
        source: Named tensors.
        target: Those of another network.

    Returns:
        The prefix of the source and that of the target, behind which most tensors have the same names and shapes.

    >>> prefixes_of_trunks({"trunk.a.weight": torch.zeros(2)}, {"trunk.layers.a.weight": torch.zeros(2)})
    ('trunk.', 'trunk.layers.')
    """
    pairs = [(first, second) for first in _wrappings(source) for second in _wrappings(target)]

    def common(pair: tuple[str, str]) -> int:
        first, second = pair
        names = ((name, second + name.removeprefix(first)) for name in source if name.startswith(first))
        return sum(source[name].shape == target[other].shape for name, other in names if other in target)

    return max(sorted(pairs, key=lambda pair: len(pair[0] + pair[1])), key=common)


def _wrappings(names: Collection[str]) -> set[str]:
    """List what names may have in front of a trunk's own: parts that say nothing but that it is one."""
    found = {""}
    for name in names:
        for end in accumulate(len(part) + 1 for part in takewhile(WRAPPERS.__contains__, name.split("."))):
            found.add(name[:end])
    return found


WRAPPERS = ("trunk", "layers", "classifier")


def merge_streams(streams: Mapping[str, Weights], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Name the tensors of several networks apart, to be the source of one transplant.

    Args:
        streams: Maps a suffix to a network or its tensors: ``{"color": …, "hha": …}`` turns ``conv1_1.weight`` into
            ``conv1_1color.weight`` and ``conv1_1hha.weight``, the reference's names for late fusion.
        drop: Layers that the streams share and that stay behind (``upscore``).

    Returns:
        The tensors of all streams by their new names.

    Raises:
        ValueError: If two tensors come to share a name.

    >>> sorted(merge_streams({"color": nn.Linear(2, 2), "hha": nn.Linear(2, 2, bias=False)}))
    ['biascolor', 'weightcolor', 'weighthha']
    """
    merged: dict[str, Tensor] = {}
    for suffix, source in streams.items():
        tensors = source.state_dict() if isinstance(source, nn.Module) else source
        for name, tensor in tensors.items():
            if _skipped(name, drop):
                continue
            layer, dot, kind = name.rpartition(".")
            renamed = f"{layer}{suffix}.{kind}" if dot else f"{name}{suffix}"
            if renamed in merged:
                raise ValueError(f"two streams give a tensor {renamed!r}: choose other suffixes than {list(streams)}")
            merged[renamed] = tensor
    return merged
