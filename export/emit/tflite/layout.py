"""Chooses the order of axes in which each value is stored, so that as little as possible moves.

Every operator says in which orders it can compute (`layouts`); between two operators that disagree
stands a TRANSPOSE, or a RESHAPE if only dimensions of one change places. The cheapest assignment is
found by dynamic programming along the order of execution: a state is the set of live values with
the orders in which each is there, so that copies are shared by later readers. Convolutional
networks keep few values alive at a time, which makes this exact for them; the number of states kept
is bounded all the same (a beam).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.emit.tflite.layouts import Choices, Config, Rule
from edgec.export.emit.tflite.perms import CHANNELS_LAST, Perm, distinct, identity, move_cost

BEAM = 48
_WANTED = 4

Layout = dict[Node, Config]
_State = tuple[tuple[int, tuple[Perm, ...]], ...]


@dataclass(frozen=True)
class _Entry:
    """A state's cost and how it came about."""

    cost: float
    before: _Entry | None
    config: Config | None


def boundary(value: Value) -> Perm:
    """Order of network inputs and outputs: images are NHWC in a .tflite file."""
    return CHANNELS_LAST if len(value.shape) == 4 else identity(len(value.shape))


def assign(graph: Graph, rules: dict[str, Rule]) -> Layout:
    """A config for each node.

    Args:
        graph: normalised; every node's operator has a rule.
        rules: configs by operator.
    """
    return _Search(graph, rules).run()


class _Search:
    def __init__(self, graph: Graph, rules: dict[str, Rule]) -> None:
        self.graph = graph
        self.rules = rules
        values = [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]
        self.number = {value: i for i, value in enumerate(values)}
        self.values = values
        self.last: dict[int, int] = {}
        for index, node in enumerate(graph.nodes):
            for value in node.operands:
                if value in self.number:
                    self.last[self.number[value]] = index
        for value in graph.outputs:
            self.last[self.number[value]] = len(graph.nodes)
        self.wanted = self._wanted()

    def _wanted(self) -> dict[int, tuple[Perm, ...]]:
        """Orders that readers would like, found from the outputs backwards."""
        wanted: dict[int, tuple[Perm, ...]] = {
            self.number[v]: (boundary(v),) for v in self.graph.outputs if v in self.number
        }
        for node in reversed(self.graph.nodes):
            nothing: tuple[tuple[Perm, ...], ...] = tuple(() for _ in node.inputs)
            for config in self.rules[node.op](node, Choices(nothing, self._wants(node, wanted))):
                for value, perm in zip(node.inputs, config.inputs, strict=True):
                    if value in self.number:
                        key = self.number[value]
                        known = wanted.get(key, ())
                        if len(known) < _WANTED:
                            wanted[key] = distinct([*known, perm])
        return wanted

    def _wants(
        self, node: Node, wanted: dict[int, tuple[Perm, ...]]
    ) -> tuple[tuple[Perm, ...], ...]:
        return tuple(wanted.get(self.number[v], ()) for v in node.outputs)

    def run(self) -> Layout:
        start = tuple(
            (self.number[v], (boundary(v),))
            for v in self.graph.inputs
            if self.number[v] in self.last
        )
        beam: dict[_State, _Entry] = {start: _Entry(0.0, None, None)}
        for index, node in enumerate(self.graph.nodes):
            beam = self._step(index, node, beam)
        best = min(
            (self._finish(state, entry) for state, entry in beam.items()), key=lambda e: e.cost
        )
        configs: list[Config] = []
        entry: _Entry | None = best
        while entry is not None and entry.config is not None:
            configs.append(entry.config)
            entry = entry.before
        return dict(zip(self.graph.nodes, reversed(configs), strict=True))

    def _step(self, index: int, node: Node, beam: dict[_State, _Entry]) -> dict[_State, _Entry]:
        numbers = [self.number.get(v) if v is not None else None for v in node.inputs]
        wanted = self._wants(node, self.wanted)
        known: dict[tuple[tuple[Perm, ...], ...], list[Config]] = {}
        result: dict[_State, _Entry] = {}
        for state, entry in beam.items():
            there = dict(state)
            offered = tuple(() if n is None else there[n] for n in numbers)
            if offered not in known:
                known[offered] = list(self.rules[node.op](node, Choices(offered, wanted)))
            for config in known[offered]:
                cost, after = self._apply(index, node, config, there, numbers)
                cost += entry.cost + config.cost
                old = result.get(after)
                if old is None or cost < old.cost:
                    result[after] = _Entry(cost, entry, config)
        if len(result) > BEAM:
            kept = sorted(result.items(), key=lambda item: item[1].cost)[:BEAM]
            result = dict(kept)
        return result

    def _apply(
        self,
        index: int,
        node: Node,
        config: Config,
        there: dict[int, tuple[Perm, ...]],
        numbers: list[int | None],
    ) -> tuple[float, _State]:
        cost, after = 0.0, dict(there)
        for number, perm in zip(numbers, config.inputs, strict=True):
            if number is None or perm in after[number]:
                continue
            cost += self._move(number, after[number], perm)
            after[number] = tuple(sorted((*after[number], perm)))
        for number in numbers:
            if number is not None and self.last[number] == index:
                after.pop(number, None)
        for value, perm in zip(node.outputs, config.outputs, strict=True):
            number = self.number[value]
            if number in self.last:
                after[number] = (perm,)
        return cost, tuple(sorted(after.items()))

    def _move(self, number: int, there: tuple[Perm, ...], perm: Perm) -> float:
        value = self.values[number]
        wide = value.dtype.itemsize / 4
        return wide * min(move_cost(value.shape, known, perm) for known in there)

    def _finish(self, state: _State, entry: _Entry) -> _Entry:
        there = dict(state)
        cost = entry.cost
        for value in self.graph.outputs:
            number = self.number[value]
            perm = boundary(value)
            if perm not in there[number]:
                cost += self._move(number, there[number], perm)
        return _Entry(cost, entry.before, entry.config)
