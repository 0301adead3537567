"""Blocks of a graph: what is reconstructed, measured or given a precision together.

A block is a run of nodes in graph order. Its ends are where few tensors are alive, ideally one: the
articulation points of the graph, between residual blocks. Runs between such points are joined as
long as they lie in one module of the source network that is small enough, so that an inverted
bottleneck or a transformer layer is one block (Li et al., BRECQ, arXiv 2102.05426).
Graphs without module paths fall back to the articulation points alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from edgec.export.quantize.entries import QuantPlan
from edgec.export.quantize.learned import WeightKey
from edgec.export.rewrite.graph import MODULE_KEY

MAX_LAYERS = 6
"""Most quantized weights of a joined block: a transformer layer has six (q, k, v, o and two)."""
MAX_WIDTH = 3
"""Most tensors alive at an end that is cut into a long run without articulation points."""


@dataclass(frozen=True)
class Block:
    """Consecutive nodes.

    Attributes:
        name: the module that holds its weights; if there is none, or an earlier block has its
            name, the first node with weights. Unique.
        nodes: node names, in graph order.
        inputs: names of the activations alive before it.
        outputs: activations that it computes and that are alive after it.
        alive: all activations alive after it; those not in `outputs` pass by.
        weights: its quantized weights; a weight shared by several blocks belongs to the first.
    """

    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alive: tuple[str, ...]
    weights: tuple[WeightKey, ...]


def find_blocks(
    model: ir.Model, plan: QuantPlan, *, max_layers: int = MAX_LAYERS
) -> tuple[Block, ...]:
    """Split a graph into blocks; each has quantized weights, and together they are the graph.

    Args:
        model: the graph that was planned, with unique names.
        plan: says which weights are quantized.
        max_layers: joined blocks have at most so many of them; 1 gives single layers where the
            graph can be cut between them.

    Returns:
        Blocks in graph order; empty if nothing is quantized.
    """
    nodes = list(model.graph)
    weighted = _weighted(nodes, plan)
    if not weighted:
        return ()
    alive = _alive(model, nodes)
    pieces = _pieces(0, len(nodes), 1, alive, weighted, max_layers)
    pieces = _with_weights(pieces, weighted)
    groups = _joined(pieces, nodes, weighted, max_layers)
    seen: set[WeightKey] = set()
    blocks: list[Block] = []
    for first, last in groups:
        keys: list[WeightKey] = []
        for position in range(first, last):
            for key in weighted.get(position, ()):
                if key not in seen:
                    seen.add(key)
                    keys.append(key)
        inside = nodes[first:last]
        made = {v.name for node in inside for v in node.outputs}
        positions = [p for p in range(first, last) if p in weighted]
        name = _name(nodes, positions)
        if any(block.name == name for block in blocks):
            name = str(nodes[positions[0]].name)
        blocks.append(
            Block(
                name=name,
                nodes=tuple(str(node.name) for node in inside),
                inputs=alive[first],
                outputs=tuple(name for name in alive[last] if name in made),
                alive=alive[last],
                weights=tuple(keys),
            )
        )
    return tuple(blocks)


def _weighted(nodes: Sequence[ir.Node], plan: QuantPlan) -> dict[int, list[WeightKey]]:
    """Position → the quantized weights of the node there."""
    position = {str(node.name): i for i, node in enumerate(nodes)}
    found: dict[int, list[WeightKey]] = {}
    for weight in plan.weights:
        if not weight.operand:
            found.setdefault(position[weight.node], []).append((weight.tensor, weight.axis))
    return found


def _alive(model: ir.Model, nodes: Sequence[ir.Node]) -> list[tuple[str, ...]]:
    """Per position, the activations that are known before the node there and read from it on.

    Graph outputs stay alive to the end.
    """
    known = {v: -1 for v in model.graph.inputs if v.name not in model.graph.initializers}
    for i, node in enumerate(nodes):
        if any(v in known for v in node.inputs if v is not None):
            known.update(dict.fromkeys(node.outputs, i))
    last = dict.fromkeys(known, -1)
    for i, node in enumerate(nodes):
        for value in node.inputs:
            if value in last:
                last[value] = i
    for value in model.graph.outputs:
        if value in last:
            last[value] = len(nodes)
    return [
        tuple(str(v.name) for v, made in known.items() if made < i <= last[v])
        for i in range(len(nodes) + 1)
    ]


Run = tuple[int, int]


def _pieces(
    first: int,
    end: int,
    width: int,
    alive: Sequence[tuple[str, ...]],
    weighted: dict[int, list[WeightKey]],
    max_layers: int,
) -> list[Run]:
    """Cut a run where `width` tensors are alive; what stays too long is cut where more are."""
    cuts = [i for i in range(first + 1, end) if len(alive[i]) == width]
    ends = [first, *cuts, end]
    result = []
    for a, b in pairwise(ends):
        layers = sum(len(weighted.get(i, ())) for i in range(a, b))
        if layers > max_layers and width < MAX_WIDTH:
            result.extend(_pieces(a, b, width + 1, alive, weighted, max_layers))
        else:
            result.append((a, b))
    return result


def _with_weights(pieces: Sequence[Run], weighted: dict[int, list[WeightKey]]) -> list[Run]:
    """Add runs without weights to the one before: activations belong to their layer."""
    result: list[Run] = []
    for first, end in pieces:
        has = any(i in weighted for i in range(first, end))
        if result and not (has and any(i in weighted for i in range(*result[-1]))):
            result[-1] = (result[-1][0], end)
        else:
            result.append((first, end))
    return result


def _joined(
    pieces: Sequence[Run],
    nodes: Sequence[ir.Node],
    weighted: dict[int, list[WeightKey]],
    max_layers: int,
) -> list[Run]:
    """Join neighbours in the same largest module with at most `max_layers` weights."""
    layers: Counter[str] = Counter()
    for position, keys in weighted.items():
        for module in _ancestors(_module(nodes[position])):
            layers[module] += len(keys)

    def home(run: Run) -> str | None:
        paths = [_ancestors(_module(nodes[i])) for i in range(*run) if i in weighted]
        shared = [m for m in paths[0] if all(m in path for path in paths)]
        return next((m for m in shared if layers[m] <= max_layers), None)

    result = [pieces[0]]
    for run in pieces[1:]:
        if home(run) is not None and home(run) == home(result[-1]):
            result[-1] = (result[-1][0], run[1])
        else:
            result.append(run)
    return result


def _module(node: ir.Node) -> str:
    return node.metadata_props.get(MODULE_KEY, "")


def _ancestors(path: str) -> list[str]:
    """The module and those around it, outermost first, without the network itself."""
    parts = path.split(".") if path else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _name(nodes: Sequence[ir.Node], positions: Sequence[int]) -> str:
    paths = [_ancestors(_module(nodes[i])) for i in positions]
    shared = [m for m in paths[0] if all(m in path for path in paths)]
    return shared[-1] if shared else str(nodes[positions[0]].name)
