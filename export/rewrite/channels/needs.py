"""Backward walk: which channels of each tensor does anything read?"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.rewrite.channels.relations import (
    Analysis,
    Join,
    Linear,
    Mask,
    Relation,
    Tie,
    Whole,
)


def needed(analysis: Analysis) -> dict[ir.Value, Mask]:
    """The least set of channels that may stay, per tensor with a channel axis.

    Graph inputs and outputs keep all of theirs, and every tensor keeps at least one.
    """
    masks = {
        value: np.zeros(len(known.bounds.low), bool)
        for value, known in analysis.channels.items()
        if known.axis is not None
    }
    readers: dict[ir.Value, list[Relation]] = defaultdict(list)
    for relation in analysis.relations:
        for value in _values(relation):
            readers[value].append(relation)
    fixpoint = _Fixpoint(masks, readers)
    for value in (*analysis.graph.inputs, *analysis.graph.outputs):
        fixpoint.add(value, np.ones(1, bool))
    fixpoint.run(analysis.relations)
    for value in reversed(masks):  # an operator on nothing is no operator; readers choose first
        if not masks[value].any():
            first = np.zeros(len(masks[value]), bool)
            first[0] = True
            fixpoint.add(value, first)
            fixpoint.run(())
    return masks


def _values(relation: Relation) -> tuple[ir.Value, ...]:
    if isinstance(relation, Linear):
        return (relation.output,) if relation.x is None else (relation.x, relation.output)
    if isinstance(relation, Join):
        return (*relation.parts, relation.output)
    return relation.values


class _Fixpoint:
    """Masks only ever grow, so that the order of the visits does not matter."""

    def __init__(
        self, masks: dict[ir.Value, Mask], readers: dict[ir.Value, list[Relation]]
    ) -> None:
        self.masks = masks
        self.readers = readers
        self.pending: deque[Relation] = deque()
        self.queued: set[int] = set()
        self.patterns: dict[ir.Node, NDArray[np.bool_]] = {}

    def add(self, value: ir.Value | None, mask: Mask) -> None:
        """These channels of `value` stay, too."""
        if value is None or value not in self.masks:
            return
        before = self.masks[value]
        after = before | mask
        if (after != before).any():
            self.masks[value] = after
            for relation in self.readers[value]:
                self._push(relation)

    def run(self, start: tuple[Relation, ...] | list[Relation]) -> None:
        """Visit until nothing changes."""
        for relation in reversed(start):
            self._push(relation)
        while self.pending:
            relation = self.pending.popleft()
            self.queued.discard(id(relation))
            self._visit(relation)

    def _push(self, relation: Relation) -> None:
        if id(relation) not in self.queued:
            self.queued.add(id(relation))
            self.pending.append(relation)

    def _visit(self, relation: Relation) -> None:
        if isinstance(relation, Whole):
            for value in relation.values:
                self.add(value, np.ones(1, bool))
        elif isinstance(relation, Tie):
            union = np.any([self.masks[v] for v in relation.values if v in self.masks], axis=0)
            for value in relation.values:
                self.add(value, union)
        elif isinstance(relation, Join):
            self._join(relation)
        else:
            self._linear(relation)

    def _join(self, relation: Join) -> None:
        at = 0
        for part in relation.parts:
            size = len(self.masks[part])
            self.add(part, self.masks[relation.output][at : at + size])
            at += size
        self.add(relation.output, np.concatenate([self.masks[part] for part in relation.parts]))

    def _linear(self, relation: Linear) -> None:
        out = self.masks[relation.output]
        if relation.groups == 1:
            if relation.x is not None:
                reads = self._pattern(relation)[out].any(axis=0)
                self.add(relation.x, reads & ~relation.fold)
            return
        if relation.x is None:
            self.add(relation.output, np.ones(1, bool))
            return
        sides = [self.masks[v].reshape(relation.groups, -1) for v in (relation.x, relation.output)]
        stays = sides[0].any(axis=1) | sides[1].any(axis=1)
        for value, side in zip((relation.x, relation.output), sides, strict=True):
            self.add(value, np.repeat(stays, side.shape[1]))

    def _pattern(self, relation: Linear) -> NDArray[np.bool_]:
        """(outputs, inputs): which weights are not all zero."""
        if relation.node not in self.patterns:
            self.patterns[relation.node] = (relation.weight[0] != 0).any(axis=-1)
        return self.patterns[relation.node]
