"""Writing a network for other programs, and checking what was written against the network before it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from fullyconv.export.formats import KINDS, Format, Kind, Metadata, Run
from fullyconv.export.graph import Graph, Inside, reason, record
from fullyconv.files import draft_folder
from fullyconv.networks.crf import WITHOUT_CRF
from fullyconv.networks.fcn import FCN
from fullyconv.outputs import Outputs
from fullyconv.types import ClassSet, Preprocess, SpectralPreprocess

FORMATS = get_args(Format)
NETWORK = Inside()  # and nothing else
SIZES = ((1, 1), (1, 40), (2, 3), (31, 33), (64, 64), (50, 7), (97, 161), (225, 320), (333, 500), (700, 500))
"""Heights and widths that every file is checked at, as far as the network takes them."""
EXACT = 1e-4
"""Of the largest score: how far rounding may carry. (Measured: 1e-6 and less for networks of 20 layers.)"""


@dataclass(frozen=True)
class Agreement:
    """What a file said of one image, beside what the model says.

    Attributes:
        size: Images, height and width.
        apart: The largest difference of scores (or probabilities), as a share of the largest; of labels how far the
            score of one that differs lies behind the best, likewise.
        changed: Pixels whose label differs, by rounding where scores are equal.

    >>> Agreement((1, 700, 500), apart=3e-7, changed=0).apart <= EXACT
    True
    """

    size: tuple[int, int, int]
    apart: float
    changed: int


@dataclass(frozen=True)
class Exported:
    """A network that was written for other programs.

    Attributes:
        path: The file (of OpenVINO the ``.xml``; the ``.bin`` with the weights lies beside it).
        input: What the graph takes, in words.
        output: What it returns, in words.
        agreements: How far it agreed with the model, at each size that was tried.

    >>> Exported(Path("out/photos.onnx"), "N x 3 x H x W float32", "N x 2 x H x W float32 scores", ()).path.name
    'photos.onnx'
    """

    path: Path
    input: str
    output: str
    agreements: tuple[Agreement, ...]


def model_name(folder: Path) -> str:
    """Return what a model is called: as its folder, or the run it lies in.

    Args:
        folder: The model's folder.

    Returns:
        A name for files and lists.

    >>> model_name(Path("runs/photos/model")), model_name(Path("camvid"))
    ('photos', 'camvid')
    """
    folder = folder.absolute()
    return (folder.parent if folder.name == "model" else folder).name or "model"


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        network: A segmentation network.
        classes: What its labels mean.
        preprocess: Its normalisation.
        folder: The model's folder, which gives the file its name.
        temperature: Of its probabilities.
        head: Which further head of a model the network is; empty for the first.

    >>> from fullyconv.networks import build
    >>> Source(build("fcn4s-lenet", 2), ClassSet(("a", "b")), Preprocess(), Path("runs/photos/model")).name
    'photos'
    """

    network: FCN
    classes: ClassSet
    preprocess: Preprocess | SpectralPreprocess
    folder: Path | None = None
    temperature: float = 1.0
    head: str = ""

    @property
    def name(self) -> str:
        """What the file is called, without its suffix: as the model's folder, or the run it lies in, with the head."""
        model = "model" if self.folder is None else model_name(self.folder)
        return f"{model}-{self.head}" if self.head else model


def export(
    source: Source,
    out: Path | str,
    *,
    to: Format = "onnx",
    inside: Inside = NETWORK,
    overwrite: bool = False,
    progress: Callable[[Agreement], None] | None = None,
) -> Exported:
    """Write a network for other programs; number, height and width of the images stay free.

    What was written is read back and compared with the model at ten sizes, from the smallest that it takes to
    700 x 500, and is kept only if it agrees. The classes, colours and the normalisation are inside the file.

    Args:
        source: The network and what belongs to it.
        out: The folder for the file.
        to: ``onnx``, ``openvino`` or ``torch`` (an ``ExportedProgram``, ``.pt2``).
        inside: What goes into the graph beside the network.
        overwrite: Also replace a file of ours that was changed since, or is of another model.
        progress: Called after each size.

    Returns:
        Where it is, and how far it agrees.

    Raises:
        ImportError: If a package is missing.
        ValueError: For a network that cannot be converted, or does not compute the same then; nothing is left.
        BadFile: Where the file may not be written.

    >>> import tempfile
    >>> from fullyconv.networks import build
    >>> source = Source(build("fcn4s-lenet", 2), ClassSet(("a", "b")), Preprocess())
    >>> with tempfile.TemporaryDirectory() as place:
    ...     export(source, place, to="jpeg")
    Traceback (most recent call last):
    ValueError: a network is exported to onnx, openvino, torch, not to 'jpeg'
    """
    if to not in KINDS:
        raise ValueError(f"a network is exported to {', '.join(FORMATS)}, not to {to!r}")
    kind, out = KINDS[to], Path(out)
    if source.network.crf is not None:
        raise ValueError(f"{source.name} was trained with a CRF, which no graph of layers holds: {WITHOUT_CRF}")
    kind.needs()
    graph = Graph(source.network, source.preprocess, inside, source.temperature)
    metadata = _metadata(graph, source)
    outputs = Outputs(out, overwrite=overwrite)
    names = [source.name + suffix for suffix in kind.suffixes]
    with outputs.alone():
        outputs.check(names, made_of=dict.fromkeys(names, source.folder) if source.folder else None)
        with _drafts(out / names[0]) as folder:
            draft = folder / names[0]
            agreements = _write_checked(kind, graph, draft, metadata, progress)
            with outputs.writing(*names, made_of=source.folder):
                for each in reversed(names):  # what is opened comes last
                    (folder / each).replace(out / each)
    return Exported(out / names[0], metadata["input"], metadata["output"], agreements)


@contextmanager
def _drafts(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, which is gone afterwards."""
    folder = draft_folder(path)
    shutil.rmtree(folder, ignore_errors=True)  # of a death
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_checked(
    kind: Kind,
    graph: Graph,
    draft: Path,
    metadata: Metadata,
    progress: Callable[[Agreement], None] | None,
) -> tuple[Agreement, ...]:
    """Write a file and compare it with the network; raises ``ValueError`` where it differs."""
    program = record(graph)
    try:
        kind.write(program, draft, metadata)
        run = kind.open(draft)
    except Exception as error:  # whatever a converter raises
        raise ValueError(f"this network cannot be converted ({reason(error)})") from error
    agreements = []
    for size in sizes(graph.network.smallest_input):
        agreements.append(_compare(graph, run, size))
        if progress is not None:
            progress(agreements[-1])
        if not agreements[-1].apart <= EXACT:
            number, height, width = size
            raise ValueError(
                f"the converted network does not say what the model says: of {number} x {height} x {width} pixels its "
                f"scores differ by {agreements[-1].apart:.2g} of the largest; nothing was written"
            )
    return tuple(agreements)


def sizes(least: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return numbers, heights and widths of images to check: ten that differ, none smaller than ``least``.

    >>> sizes((1, 1))[:2], sizes((31, 31))[:3]
    ([(1, 1, 1), (1, 1, 40)], [(1, 31, 31), (1, 32, 40), (2, 33, 33)])
    """

    def side(wanted: int, low: int, index: int) -> int:
        return wanted if wanted >= low else low + index

    return [
        (2 if index == 2 else 1, side(height, least[0], index), side(width, least[1], index))
        for index, (height, width) in enumerate(SIZES)
    ]


def _compare(graph: Graph, run: Run, size: tuple[int, int, int]) -> Agreement:
    image = graph.example(*size)
    wanted = _scores(graph, image)
    try:
        found = torch.from_numpy(np.asarray(run(image.numpy())))
    except Exception as error:  # of a foreign runtime
        raise ValueError(f"the converted network fails at {size[1]} x {size[2]} pixels ({reason(error)})") from error
    largest = max(float(wanted.abs().max()), torch.finfo(torch.float32).tiny)
    labels = found if graph.inside.labels else found.argmax(1)
    if labels.shape != wanted.argmax(1).shape:
        raise ValueError(f"the converted network makes {tuple(found.shape)} of {tuple(image.shape)}")
    changed = int((labels != wanted.argmax(1)).sum())
    if not graph.inside.labels:
        return Agreement(size, float((found - wanted).abs().max()) / largest, changed)
    # What lies behind the best class where the file chose another one.
    behind = wanted.amax(1) - wanted.gather(1, labels.long()[:, None])[:, 0]
    return Agreement(size, float(behind.max()) / largest, changed)


def _scores(graph: Graph, image: Tensor) -> Tensor:
    """Score images as the model itself does, without anything of what was recorded."""
    if graph.preprocess is not None:
        planes = [graph.preprocess(each.numpy().transpose(1, 2, 0)) for each in image]
        image = torch.from_numpy(np.stack(planes))
    with torch.inference_mode():
        scores = graph.network(image)
    scores = scores if isinstance(scores, Tensor) else scores[0]  # of two tasks the first
    return graph.ending(scores) if graph.inside.probabilities else scores


def _metadata(graph: Graph, source: Source) -> dict[str, Any]:
    """Say in the file what its numbers mean."""
    channels, classes, preprocess = graph.network.in_channels, source.classes, source.preprocess
    if graph.preprocess is not None:
        taken = f"N x {channels} x H x W {'uint8' if graph.bytes else 'float32'} pixels, 0..255, RGB first"
    else:
        order = f": (pixel 0..255 - mean) / std, {preprocess.order}" if isinstance(preprocess, Preprocess) else ""
        taken = f"N x {channels} x H x W float32, normalised{order}"
    architecture = graph.network.architecture
    levels = preprocess.levels if isinstance(preprocess, Preprocess) else None
    return {
        "network": architecture.name if architecture is not None else "",
        "input": taken,
        "output": _output(graph),
        "output_name": graph.inside.output,
        "smallest_input": list(graph.network.smallest_input),
        "preprocessing_inside": graph.preprocess is not None,
        "classes": list(classes.names),
        "colours": [list(colour) for colour in classes.colours],
        "values": list(classes.values),
        "ignore_index": classes.ignore_index,
        "temperature": source.temperature,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "order": preprocess.order if isinstance(preprocess, Preprocess) else "",
        "levels": levels and [list(pair) for pair in levels.ranges],
        "bands": [] if isinstance(preprocess, Preprocess) else list(preprocess.bands),
    }


def _output(graph: Graph) -> str:
    """Say what comes out of a graph."""
    if graph.inside.labels:
        return f"N x H x W {str(graph.kind).removeprefix('torch.')} labels"
    numbers = f"N x {graph.network.classes} x H x W float32"
    if graph.inside.probabilities:
        return f"{numbers} probabilities, 0..1"
    divided = "" if graph.temperature == 1 else f", which are divided by the temperature {graph.temperature:.6g} for it"
    return f"{numbers} scores before the softmax{divided}"
