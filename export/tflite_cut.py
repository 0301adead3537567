"""Which nodes of an int8 network are faster in float, the conversions between them counted.

Every node is computed in float or on integers, and a tensor between the two is converted once: a
minimum cut of a graph with a vertex per node finds the division that takes the least time (Stone,
"Multiprocessor Scheduling with the Aid of Network Flow Algorithms", 1977).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import networkx
import onnx_ir as ir

from edgec.export.emit.tflite.lower import Lowered
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.tflite.model import ABSENT

MOVING = frozenset({"QUANTIZE", "DEQUANTIZE"})
_CLOCK = 0.5e-6
"""Seconds added to every conversion: what a clock of whole microseconds does not see."""
_ENDS = ("ends",)
_FLOAT, _INTEGER = ("float",), ("integer",)


@dataclass(frozen=True)
class Timed:
    """A lowered network, and the seconds of each of its operators."""

    lowered: Lowered
    seconds: Sequence[float]


@dataclass(frozen=True)
class Split:
    """What of an int8 network is computed how.

    Attributes:
        keep_float: nodes, operator types or modules whose products are float; their weights are
            integers in the file all the same.
        eager: nodes that are integers behind float ones too.
    """

    keep_float: tuple[str, ...] = ()
    eager: tuple[str, ...] = ()

    def rules(self, scheme: QuantScheme) -> QuantScheme:
        """A scheme with this division; what is `keep_float` has to be excluded as well."""
        return replace(scheme, eager=frozenset(self.eager), stored=frozenset(self.keep_float))


ALL_INTEGER = Split()


def fastest_split(
    master: ir.Model, floating: Timed, integer: Timed, opportunistic: Collection[str]
) -> Split:
    """Divide the nodes of a network between float and integers.

    Args:
        master: the float graph that both files were made from; its inputs and outputs stay float.
        floating, integer: all of it in float, and as far as it goes on integers.
        opportunistic: operators that are integers only behind integers, unless told so.
    """
    float_cost, integer_cost = _costs(floating), _costs(integer)
    able = _on_integers(integer.lowered)
    per_element = _conversion(integer)
    most = round(1e9 * (sum(floating.seconds) + sum(integer.seconds))) + 1_000_000
    flow = networkx.DiGraph()

    def edge(start: object, end: object, seconds: float | None) -> None:
        """What it costs that `start` is on integers and `end` is not; None where it cannot be."""
        weight = most if seconds is None else round(1e9 * seconds)
        flow.add_edge(start, end, capacity=weight)

    edge(_INTEGER, _ENDS, 0.0)
    edge(_ENDS, _FLOAT, None)
    for name, seconds in float_cost.items():
        edge(_INTEGER, name, seconds)
        edge(name, _FLOAT, integer_cost.get(name, 0.0) if name in able else None)
    for tensor, producer, readers in _tensors(floating.lowered):
        seconds = _CLOCK + per_element * floating.lowered.model.main.tensors[tensor].elements
        edge(producer, ("dequantize", tensor), seconds)
        edge(("quantize", tensor), producer, seconds)
        for reader in readers:
            edge(("dequantize", tensor), reader, None)
            edge(reader, ("quantize", tensor), None)
    _, (_, in_float) = networkx.minimum_cut(flow, _INTEGER, _FLOAT)
    keep, eager = [], []
    for node, computed_by in _computed_by(master, float_cost.keys()):
        if computed_by not in able:
            continue
        if computed_by in in_float:
            keep.append(str(node.name))
        elif node.op_type in opportunistic:
            eager.append(str(node.name))
    return Split(tuple(keep), tuple(eager))


def _costs(timed: Timed) -> dict[str, float]:
    """Seconds of every node, conversions left out."""
    costs: dict[str, float] = defaultdict(float)
    lowered = timed.lowered
    for op, node, seconds in zip(
        lowered.model.main.operators, lowered.nodes, timed.seconds, strict=True
    ):
        if node is not None and op.code not in MOVING:
            costs[node] += seconds
    return dict(costs)


def _on_integers(lowered: Lowered) -> set[str]:
    """Nodes that an integer file computes on integers."""
    main = lowered.model.main
    return {
        node
        for op, node in zip(main.operators, lowered.nodes, strict=True)
        if node is not None
        and op.code not in MOVING
        and main.tensors[op.outputs[0]].quantization is not None
    }


def _conversion(timed: Timed) -> float:
    """Seconds per element of conversions of activations."""
    main = timed.lowered.model.main
    spent, elements = 0.0, 0
    for op, seconds in zip(main.operators, timed.seconds, strict=True):
        if op.code in MOVING and main.tensors[op.inputs[0]].data is None:
            spent += seconds
            elements += main.tensors[op.outputs[0]].elements
    return spent / max(elements, 1)


def _tensors(lowered: Lowered) -> Iterable[tuple[int, object, set[object]]]:
    """Computed tensors and inputs, with the nodes that write and read them."""
    main = lowered.model.main
    producer: dict[int, object] = dict.fromkeys(main.inputs, _ENDS)
    readers: dict[int, set[object]] = defaultdict(set)
    for op, node in zip(main.operators, lowered.nodes, strict=True):
        producer.update((output, node or _ENDS) for output in op.outputs)
        for tensor in op.inputs:
            if tensor != ABSENT and tensor in producer:
                readers[tensor].add(node or _ENDS)
    for tensor in main.outputs:
        readers[tensor].add(_ENDS)
    for tensor, writer in producer.items():
        others = readers[tensor] - {writer}
        if others:
            yield tensor, writer, others


def _computed_by(master: ir.Model, written: Collection[str]) -> Iterable[tuple[ir.Node, str]]:
    """Nodes with the one that the file names for them: what an operator absorbed (a bias, an
    activation, a view) belongs to the node that it follows."""
    known: dict[str, str] = {}
    for node in master.graph:
        name = str(node.name)
        if name in written:
            known[name] = name
        else:
            before = (v.producer() for v in node.inputs if v is not None)
            found = next((known[str(p.name)] for p in before if p and str(p.name) in known), None)
            if found is None:
                continue
            known[name] = found
        yield node, known[name]
