"""The graph of a network: what goes into the file, recorded for every number, height and width of images."""

from __future__ import annotations

import copy
import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.fx.experimental._config as symbolic
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from fullyconv.networks.fcn import FCN
from fullyconv.scores.calibration import probabilities_of
from fullyconv.types import Preprocess, SpectralPreprocess

COLOURS = 3
RECORDING = threading.Lock()  # the recorder of PyTorch has one state for the process
ASSERTIONS = ("_assert_scalar.default", "sym_constrain_range_for_size.default", "_assert_tensor_metadata.default")


@dataclass(frozen=True)
class Inside:
    """What a file holds beside the network.

    Attributes:
        preprocessing: The normalisation: the input is then pixels, 0..255 RGB, instead of normalised numbers.
        labels: The choice of the best class: the output is then labels instead of scores.
        probabilities: The softmax at the model's temperature: the output is then probabilities instead of scores.

    Raises:
        ValueError: For labels and probabilities together.

    >>> Inside(labels=True).preprocessing
    False
    """

    preprocessing: bool = False
    labels: bool = False
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.labels and self.probabilities:
            raise ValueError("labels and probabilities: a graph has one output, choose one, or export two files")

    @property
    def output(self) -> str:
        """The name of what comes out."""
        return "labels" if self.labels else "probabilities" if self.probabilities else "scores"


class Graph(nn.Module):
    """A network with what goes into the file beside it.

    Takes N x K x H x W: normalised float32; with ``preprocessing`` pixels, uint8 where they are colours alone. Returns
    N x C x H x W float32 scores of the first task or their probabilities, or N x H x W labels (uint8; int32 of more
    than 256 classes).
    """

    def __init__(
        self, network: FCN, preprocess: Preprocess | SpectralPreprocess, inside: Inside, temperature: float
    ) -> None:
        super().__init__()
        if not isinstance(network, FCN):
            raise ValueError(f"a {type(network).__name__} does not label pixels: export a segmentation network")
        # Of its own in float32, planes first, on the CPU: the original may train on, elsewhere, in another arithmetic.
        own = copy.deepcopy(network).float().cpu().eval()
        self.network: FCN = own.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.inside, self.temperature = inside, temperature
        self.kind = torch.uint8 if network.classes <= 256 else torch.int32
        self.preprocess: Preprocess | None = None
        if inside.preprocessing:
            if not isinstance(preprocess, Preprocess):
                raise ValueError("this model normalises spectra, which is no part of the graph: normalise them outside")
            self.preprocess = preprocess
            std, mean = torch.tensor(preprocess.std), torch.tensor(preprocess.mean)
            self.register_buffer("scale", (1 / std)[:, None, None])
            self.register_buffer("shift", (mean / std)[:, None, None])

    @property
    def bytes(self) -> bool:
        """Whether pixels are uint8."""
        return self.preprocess is not None and self.network.in_channels == COLOURS

    def forward(self, image: Tensor) -> Tensor:
        """Score or label every pixel."""
        size = image.shape[2], image.shape[3]
        if self.preprocess is not None:
            if self.preprocess.order == "BGR":
                image = torch.cat([image[:, :COLOURS].flip(1), image[:, COLOURS:]], 1)
            image = image.float() * self.get_buffer("scale") - self.get_buffer("shift")
        # Without ``check``: it compares sizes, which would tie the graph to those of the example.
        scores = self.network.upsampled(self.network.fused(self.network.scored(self.network.padded(image))), size)
        return self.ending(scores)

    def ending(self, scores: Tensor) -> Tensor:
        """Make what comes out of N x C x H x W scores."""
        if self.inside.probabilities:
            return probabilities_of(scores, self.temperature, 1)
        return scores.argmax(1).to(self.kind) if self.inside.labels else scores

    def example(self, number: int, height: int, width: int) -> Tensor:
        """Make images of random numbers, the same for the same size."""
        dice = torch.Generator().manual_seed(height * 10_000 + width)
        shape = number, self.network.in_channels, height, width
        if self.bytes:
            return torch.randint(0, 256, shape, generator=dice, dtype=torch.uint8)
        noise = torch.randn(shape, generator=dice)
        return noise if self.preprocess is None else 127.5 + 60 * noise


def record(graph: Graph) -> ExportedProgram:
    """Record a graph with free number, height and width of images.

    Raises:
        ValueError: For a network whose operations cannot be recorded so.
    """
    rows, columns = graph.network.plans
    least = graph.network.smallest_input
    example = graph.example(2, least[0] + 2 * rows.stride + 1, least[1] + 3 * columns.stride + 3)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with RECORDING, torch.no_grad(), warnings.catch_warnings(), _sizes_of_one():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                graph, (example,), dynamic_shapes=(free,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # whatever a foreign operation makes the recorder raise
        raise ValueError(f"this network cannot be recorded for every size ({reason(error)})") from error
    _allow_sizes(program, (1, *least))
    return _without_assertions(program)


def _allow_sizes(program: ExportedProgram, least: tuple[int, int, int]) -> None:
    """Let the file take every number, height and width from the least on.

    Where a network turns its maps over (ConvNeXt), the recorder compares their sizes with 1 to choose an order in
    memory, and takes what the example had for a bound of the image: "height >= 33". What is computed does not change.
    """
    (image,) = (node for node in program.graph.nodes if node.name == "image")
    for size, lower in zip((image.meta["val"].shape[axis] for axis in (0, 2, 3)), least, strict=True):
        program.range_constraints[size.node.expr] = ValueRanges(lower, int_oo)


def _sizes_of_one() -> AbstractContextManager[None]:
    """Let the recorder allow for sizes of 0 and 1, too, which it otherwise takes for constants."""
    patched: AbstractContextManager[None] = symbolic.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patched


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Take out what only says that no size is 1: the recorder's assumption, not the operations'.

    That every size is computed rightly is checked afterwards.
    """
    nodes = program.graph_module.graph
    for node in list(nodes.nodes):
        if node.op == "call_function" and str(node.target).removeprefix("aten.") in ASSERTIONS:
            nodes.erase_node(node)
    nodes.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def reason(error: Exception) -> str:
    """Return the first line of what a library says, which may be pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
