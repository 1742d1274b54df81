"""What Caffe has no layer for, written with those it has: zeros around a map, whole strides, a border that repeats.

None of them has weights that learn. A convolution whose only tap is 1 moves a map over a larger or a smaller plane; of
``Crop``'s second bottom only the size counts; a max pool over a plane's border sees the outermost unit alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fullyconv.caffe.text import Blob, Value, Written, sides

Ends = tuple[int, int]
"""How many units are put before and after an axis; negative: taken away."""


def fixed(values: Tensor, key: str | None = None) -> tuple[Blob]:
    """Write weights that say what a layer does; ``key`` is the place of the network's buffer that holds them."""
    return (Blob(values, key, rate=0.0, decay=0.0, fixed=True),)


def moved(name: str, bottom: str, channels: int, rows: Ends, columns: Ends) -> Written:
    """Put zeros around a map, or cut it.

    >>> moved("wide", "map", 1, (0, 1), (2, 2)).fields
    {'num_output': 1, 'bias_term': False, 'pad_h': 1, 'pad_w': 2, 'kernel_h': 2, 'kernel_w': 1}
    """
    pads = [max(*ends, 0) for ends in (rows, columns)]
    kernel = [2 * pad - sum(ends) + 1 for pad, ends in zip(pads, (rows, columns), strict=True)]
    bank = torch.zeros(channels, 1, *kernel, device="cpu")
    bank[..., pads[0] - rows[0], pads[1] - columns[0]] = 1
    fields: dict[str, Value] = {"num_output": channels, "bias_term": False}
    fields |= sides("pad", pads, 0) | sides("kernel_size", kernel)
    fields |= {"group": channels} if channels > 1 else {}
    return Written(name, "Convolution", (bottom,), name, fields, fixed(bank))


def covered(name: str, bottom: str, channels: int, margins: Sequence[int], multiples: Sequence[int]) -> list[Written]:
    """Put margins of zeros around a picture, and behind it as many more as make it whole multiples.

    The multiples are counted by a convolution and spread again, which gives a blob of the size to cut to.
    """
    more = [multiple - 1 for multiple in multiples]
    wide = [margin + extra for margin, extra in zip(margins, more, strict=True)]
    if not any(more):
        return [moved(name, bottom, channels, *((margin, margin) for margin in wide))]
    count, size = f"{name}/count", f"{name}/size"
    once: dict[str, Value] = {"num_output": 1, "bias_term": False}
    steps = sides("stride", multiples, 1)
    rows, columns = multiples
    return [
        Written(count, "Convolution", (bottom,), count, once | sides("pad", margins, 0) | {"kernel_size": 1} | steps,
                fixed(torch.zeros(1, channels, 1, 1, device="cpu"))),
        Written(size, "Deconvolution", (count,), size, once | sides("kernel_size", multiples) | steps,
                fixed(torch.zeros(1, 1, rows, columns, device="cpu"))),
        moved(f"{name}/wide", bottom, channels, (wide[0], wide[0]), (wide[1], wide[1])),
        Written(name, "Crop", (f"{name}/wide", size), name, crop_fields(more)),
    ]  # fmt: skip


def crop_fields(offsets: Sequence[int]) -> dict[str, Value]:
    """Write where a crop begins, along rows and columns."""
    return {"axis": 2, "offset": offsets[0] if len(set(offsets)) == 1 else list(offsets)}


def repeated(name: str, bottom: str, channels: int) -> list[Written]:
    """Repeat the outermost units of a map once beyond its border, along rows and then along columns."""
    layers: list[Written] = []
    for axis, ends in (("rows", ((1, 1), (0, 0))), ("columns", ((0, 0), (1, 1)))):
        here = f"{name}/{axis}"
        pads, kernel = ([2 * before for before, _ in ends], [1 + 2 * before for before, _ in ends])
        pool: dict[str, Value] = {"pool": "MAX", **sides("pad", pads, 0), **sides("kernel_size", kernel), "stride": 1}
        layers += [
            moved(f"{here}/wide", bottom, channels, *ends),
            # Its windows over the border hold the outermost unit alone; what it is elsewhere is multiplied by 0.
            Written(f"{here}/outermost", "Pooling", (bottom,), f"{here}/outermost", pool),
            Written(f"{here}/ones", "Power", (bottom,), f"{here}/ones", {"scale": 0, "shift": 1}),
            moved(f"{here}/inside", f"{here}/ones", channels, *ends),
            Written(f"{here}/beyond", "Power", (f"{here}/inside",), f"{here}/beyond", {"scale": -1, "shift": 1}),
            Written(f"{here}/border", "Eltwise", (f"{here}/outermost", f"{here}/beyond"), f"{here}/border",
                    {"operation": "PROD"}),
            Written(here, "Eltwise", (f"{here}/wide", f"{here}/border"), here, {"operation": "SUM"}),
        ]  # fmt: skip
        bottom = here
    return layers
