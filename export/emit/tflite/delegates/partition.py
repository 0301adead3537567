"""Predicts how LiteRT divides a model between a delegate and its own kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgec.export.emit.tflite.delegates import edgetpu, gpu, xnnpack
from edgec.export.emit.tflite.delegates.call import Call
from edgec.export.tflite.model import ABSENT, Operator, Subgraph
from edgec.targets.operators.delegates import DelegateTable, delegate_table

_RULES: Mapping[str, Callable[[Call, DelegateTable], str]] = {
    "xnnpack": xnnpack.obstacle,
    "gpu": gpu.obstacle,
    "edgetpu": edgetpu.obstacle,
}
_FIRST_ONLY = frozenset({"edgetpu"})
"""Compilers that take one part and leave what is behind it to the host (coral.ai, "TensorFlow
models on the Edge TPU", Compiling)."""


@dataclass(frozen=True)
class Left:
    """An operator that stays with LiteRT's own kernels.

    Attributes:
        operator: its position in the main subgraph.
        output: name of its first output.
        why: what the delegate does not take about it.
        splits: it lies between operators that the delegate takes.
    """

    operator: int
    code: str
    output: str
    module: str | None
    why: str
    splits: bool

    @property
    def where(self) -> str:
        """Module, or the output's name where it is not known."""
        return self.module or self.output


@dataclass(frozen=True)
class Partitioning:
    """How a model is divided.

    Attributes:
        delegate: name of the table.
        title: of the delegate, for messages.
        operators: of the main subgraph.
        parts: positions of the operators that each part of the delegate replaces.
        left: the others, in order.
        first_only: the delegate takes one part, and everything behind it stays.
    """

    delegate: str
    title: str
    operators: int
    parts: tuple[tuple[int, ...], ...]
    left: tuple[Left, ...]
    first_only: bool = False

    @property
    def share(self) -> float:
        """Operators taken, in percent."""
        return 100 * sum(map(len, self.parts)) / max(1, self.operators)

    @property
    def breakers(self) -> tuple[Left, ...]:
        """Operators left that divide the delegate's parts."""
        return tuple(one for one in self.left if one.splits)

    def line(self) -> str:
        """``XNNPACK: 4 partitions, 98 % of operators; left: 6 L2_NORMALIZATION (stages.1)``."""
        count = len(self.parts)
        text = f"{self.title}: {count} partition{'s' * (count != 1)}, {_percent(self)} of operators"
        if self.left and self.first_only:
            taken = {position for part in self.parts for position in part}
            end = max(taken, default=-1)
            one = next((o for o in self.left if o.operator > end), self.left[-1])
            text += f", up to {one.code} ({one.where}): {one.why}"
        elif self.left:
            counts = Counter(one.code for one in self.left).most_common(3)
            named = [
                f"{number} {code} ({next(o.where for o in self.left if o.code == code)})"
                for code, number in counts
            ]
            text += f"; left: {', '.join(named)}"
        return text

    def to_json(self) -> dict[str, Any]:
        """For the manifest: counts, and every operator that is left with its reason."""
        return {
            "partitions": len(self.parts),
            "taken": sum(map(len, self.parts)),
            "operators": self.operators,
            "line": self.line(),
            "left": [
                {
                    "operator": one.code,
                    "where": one.where,
                    "why": one.why,
                    "splits": one.splits,
                }
                for one in self.left
            ],
        }


def _percent(found: Partitioning) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{int(found.share)} %"


def predict(
    graph: Subgraph, delegate: str, modules: Sequence[str | None] | None = None
) -> Partitioning:
    """Divide a subgraph as `delegate` would.

    Args:
        graph: operators in the order of execution.
        delegate: name of a table, one of `Target.delegates`.
        modules: source module of each operator.

    Raises:
        KeyError: there is no table of that name.
    """
    table = delegate_table(delegate)
    rule = _RULES[delegate]
    reasons = [rule(call, table) for call in calls(graph)]
    return divide(graph, table, reasons, modules, first_only=delegate in _FIRST_ONLY)


def calls(graph: Subgraph) -> list[Call]:
    """The operators with their tensors, in order."""
    folded = _folded(graph)
    return [Call.of(op, graph.tensors, folded) for op in graph.operators]


def divide(
    graph: Subgraph,
    table: DelegateTable,
    reasons: Sequence[str],
    modules: Sequence[str | None] | None = None,
    *,
    first_only: bool = False,
) -> Partitioning:
    """The partitioning that follows from which operators are taken.

    Args:
        reasons: why an operator is not taken, empty if it is.
        first_only: the delegate takes only the first part.
    """
    epochs = _epochs(graph, [not why for why in reasons])
    parts = [part for part, taken in epochs if taken]
    why = list(reasons)
    for part in parts[1:] if first_only else []:
        for position in part:
            why[position] = f"it comes behind operators that the {table.title} does not take"
    parts = parts[:1] if first_only else parts
    taken = {position for part in parts for position in part}
    splitting = _between(graph, taken)
    left = tuple(
        Left(
            position,
            op.code,
            graph.tensors[op.outputs[0]].name if op.outputs else op.code,
            None if modules is None else modules[position],
            why[position],
            position in splitting,
        )
        for position, op in enumerate(graph.operators)
        if position not in taken
    )
    return Partitioning(
        table.name, table.title, len(graph.operators), tuple(map(tuple, parts)), left, first_only
    )


def _folded(graph: Subgraph) -> set[int]:
    """Results of DEQUANTIZE on constants, which delegates see as constants."""
    return {
        op.outputs[0]
        for op in graph.operators
        if op.code == "DEQUANTIZE" and graph.tensors[op.inputs[0]].data is not None
    }


def _epochs(graph: Subgraph, taken: Sequence[bool]) -> list[tuple[list[int], bool]]:
    """Parts in the order of execution, each with whether the delegate has it.

    As ``PartitionGraphIntoIndependentNodeSubsets`` of tensorflow/lite/graph_info.cc: a part begins
    with the first operator whose inputs are there, and takes all operators of its kind that become
    ready, until none does.
    """
    computed = {o for op in graph.operators for o in op.outputs}
    waiting = list(range(len(graph.operators)))
    ready: set[int] = set()
    found: list[tuple[list[int], bool]] = []
    while waiting:
        part: list[int] = []
        kind: bool | None = None
        for position in waiting:  # in an order of execution: one pass finds all that get ready
            op = graph.operators[position]
            if not all(i in ready or i not in computed for i in op.inputs if i != ABSENT):
                continue
            kind = taken[position] if kind is None else kind
            if taken[position] == kind:
                part.append(position)
                ready.update(op.outputs)
        if kind is None:  # no order of execution computes what is left
            break
        waiting = [p for p in waiting if p not in set(part)]
        found.append((part, kind))
    return found


def _between(graph: Subgraph, taken: set[int]) -> set[int]:
    """Operators that are not taken, with taken ones both before and behind."""
    before = _reached(graph.operators, taken)
    behind = _reached(graph.operators[::-1], {len(graph.operators) - 1 - p for p in taken}, True)
    last = len(graph.operators) - 1
    return {p for p in before if last - p in behind and p not in taken}


def _reached(operators: Sequence[Operator], taken: set[int], backward: bool = False) -> set[int]:
    """Positions of operators that depend on a taken one, in the order given."""
    marked: set[int] = set()
    found: set[int] = set()
    for position, op in enumerate(operators):
        sources, results = (op.outputs, op.inputs) if backward else (op.inputs, op.outputs)
        if any(i in marked for i in sources):
            found.add(position)
        if position in taken or position in found:
            marked.update(i for i in results if i != ABSENT)
    return found
