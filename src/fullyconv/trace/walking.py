"""Where every tensor of a recorded network looks.

Each operation on a map has a rule in its row of the table (``operations``): those that move a window are in
``windows``, those that move axes in ``axes``, those that join maps or act on each unit in ``joins``, sums and
normalisations in ``reductions``, sums of products in ``products``. Maps may be transposed, split into groups of
channels, flattened and restored; what mixes positions that no window bounds (attention, fully connected layers over
positions) is an error that names the operation and its module.
"""

from __future__ import annotations

from torch import fx, nn

from fullyconv.trace import windows
from fullyconv.trace.nodes import SHAPE, spelling
from fullyconv.trace.operations import NOT_KNOWN, operation
from fullyconv.trace.positions import POOLED, Call, NotFollowed, Positions, Walk


def layer_of(recorded: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return recorded.get_submodule(str(node.target)) if node.op == "call_module" else None


def call_of(recorded: fx.GraphModule, node: fx.Node, found: Walk) -> Call:
    """Return a node as its row's functions take it."""
    return Call(node.args, node.kwargs, layer_of(recorded, node), node, spelling(node), found)


def walk(recorded: fx.GraphModule, found: Walk | None = None) -> Walk:
    """Follow the picture through a recorded network.

    Args:
        recorded: What ``record`` made.
        found: Is filled and returned, where it is given; it holds what came before an operation that is refused.

    Returns:
        Where each of its tensors looks.

    Raises:
        NotFollowed: Naming the operation and module that cannot be followed.

    >>> from torch import nn
    >>> from fullyconv.trace import record
    >>> found = walk(record(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()), (3, 16, 16)))
    >>> [positions.stride[0] for positions in found.positions.values()]
    [Fraction(1, 1), Fraction(2, 1), Fraction(2, 1)]
    """
    found = Walk() if found is None else found
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            found.positions[node] = Positions(rows=-2, columns=-1)
        elif node.op not in ("output", "get_attr") and SHAPE in node.meta:
            call = call_of(recorded, node, found)
            positions = _follow(call) if call.sources else None
            if positions is not None:
                found.positions[node] = positions
    return found


def _follow(call: Call) -> Positions | None:
    row = operation(call.node, call.layer)
    if row is None:
        if any(call.walk.positions[source].axes for source in call.sources):
            raise call.refuse(NOT_KNOWN)
        return POOLED  # whatever happens to a vector, it has no positions
    if row.positions is not windows.unpool and any(windows.is_places(source, call) for source in call.sources):
        raise call.refuse("computes with the places of maxima, which are numbers of a map of one size")
    try:
        return row.positions(call)
    except NotFollowed:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise call.refuse("this use of the operation is not understood") from None
