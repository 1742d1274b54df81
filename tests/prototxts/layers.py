"""``layers.txt`` as prototxts: every layer of BVLC's Caffe, each field of its documentation in each spelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Prototxt:
    """A file, the row of the table it counts in, and what must come of it: outputs' sizes, or words of a refusal."""

    group: str
    name: str
    text: str
    tops: dict[str, Sizes] = field(default_factory=dict)
    refused: str = ""
    parameters: int | None = None  # that train, where they are published
    options: dict[str, str] = field(default_factory=dict)  # of ``load``: phase and stage
    feeds: dict[str, Sizes] = field(default_factory=dict)  # sizes of blobs that no data layer says


def sizes(words: str) -> list[Sizes]:
    """Read ``2x3x7 2`` as sizes; ``scalar`` has no axes."""
    return [() if word == "scalar" else tuple(map(int, word.split("x"))) for word in words.split()]


def fed(bottoms: list[Sizes]) -> str:
    """Write an input for each bottom."""
    return "".join(
        f'input: "in{index}" input_shape {{ {" ".join(f"dim: {side}" for side in shape)} }}\n'
        for index, shape in enumerate(bottoms)
    )


def layers() -> Iterator[Prototxt]:
    """Return a prototxt for each line of ``layers.txt``."""
    kind, block = "", ""
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        if line.startswith("    "):
            yield _form(kind, block, line)
        elif not line.startswith("#"):
            kind, _, block = line.partition(" ")


def _form(kind: str, block: str, line: str) -> Prototxt:
    written, _, end = line.rpartition("->")
    written, _, given = written.rpartition("@")
    fields, _, beside = (part.strip() for part in written.partition("|"))
    bottoms = sizes(given)
    own = f"{block} {{ {fields} }}" if fields else ""
    taken = " ".join(f'bottom: "in{index}"' for index in range(len(bottoms)))
    top = "" if end.strip() == "nothing" else 'top: "out"'
    layer = f'layer {{ name: "it" type: "{kind}" {taken} {top} {beside} {own} }}\n'
    names = ["out", *(part.split('"')[0] for part in beside.split('top: "')[1:])]
    group = "data layers" if not bottoms and kind != "Parameter" else "layers"
    if group == "data layers":
        layer, names = layer + 'layer { name: "used" type: "Power" bottom: "out" top: "used" }\n', ["used"]
    refused = end.strip().removeprefix("refused ") if end.strip().startswith("refused") else ""
    tops = {} if refused or not top else dict(zip(names, sizes(end), strict=False))
    return Prototxt(group, f"{kind} {fields} {beside}".strip(), fed(bottoms) + layer, tops, refused)
