"""One walk over a network's graph: what it does, and where each of its tensors looks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import fx, nn

from fullyconv.geometry import Path, axis_map
from fullyconv.trace.completion import complete
from fullyconv.trace.positions import NotFollowed, Positions, Remark, Walk
from fullyconv.trace.recording import input_channels, record
from fullyconv.trace.walking import walk

__all__ = [
    "NotFollowed",
    "Outputs",
    "Positions",
    "Remark",
    "Walk",
    "complete",
    "input_channels",
    "outputs",
    "record",
    "walk",
]


@dataclass(frozen=True)
class Outputs:
    """What the maps that a network gives look at.

    Attributes:
        paths: For each map the layers behind it, along rows and along columns.
        drifts: How many pixels beside the middle of what they see the maps are centred (``Trail``).
        remarks: What is to be known of some operations.
        multiples: Numbers of which the picture's height and width must be multiples.

    >>> outputs(nn.Conv2d(3, 8, 3, stride=2)).strides
    (Fraction(2, 1), Fraction(2, 1))
    """

    paths: tuple[tuple[Path, Path], ...]
    drifts: tuple[tuple[Fraction, Fraction], ...]
    remarks: tuple[Remark, ...]
    multiples: tuple[int, int]

    @property
    def strides(self) -> tuple[Fraction, Fraction]:
        """Pixels between neighbouring units of the last map, along rows and columns."""
        rows, columns = self.paths[-1]
        return axis_map(rows).scale, axis_map(columns).scale

    def along(self, axis: int) -> list[Path]:
        """Return the paths along one axis.

        Args:
            axis: 0 rows, 1 columns.

        Returns:
            One path per output.
        """
        return [pair[axis] for pair in self.paths]

    def drifts_along(self, axis: int) -> list[Fraction]:
        """Return how far from the middle of what they see the maps are centred, along one axis.

        Args:
            axis: 0 rows, 1 columns.

        Returns:
            Pixels, one number per output.
        """
        return [pair[axis] for pair in self.drifts]


def outputs(network: nn.Module) -> Outputs:
    """Follow the picture through a network to each of its outputs.

    Args:
        network: N x C x H x W -> a map, or a tuple of maps. One that states its ``recording`` is not recorded
            again.

    Returns:
        What the maps look at.

    Raises:
        NotFollowed: A ``ValueError`` naming the operation that cannot be followed.

    >>> len(outputs(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))).along(0)[0])
    2
    """
    recording = getattr(network, "recording", None)
    recorded = recording if isinstance(recording, fx.GraphModule) else record(network)
    found = walk(recorded)
    given = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    paths, drifts = [], []
    for node in given if isinstance(given, tuple | list) else (given,):
        positions = found.positions.get(node) if isinstance(node, fx.Node) else None
        if positions is None or not positions.is_map:
            raise NotFollowed(f"{node}: the network's output is no map with rows and columns")
        paths.append((positions.trails[0].path, positions.trails[1].path))
        drifts.append((positions.trails[0].drift, positions.trails[1].drift))
    rows, columns = found.multiples
    return Outputs(tuple(paths), tuple(drifts), tuple(found.remarks), (rows, columns))
