"""Base classes of the rewrite passes.

A pass is one idea: a graph fragment before, the fragment after, and the reasons to refuse. Where a
pattern expresses it, the pass is a `PatternPass` over onnxscript's pattern rewriter; otherwise it
is a `RewritePass` that walks the graph.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from edgec.export.rewrite.graph import is_op


@dataclass(frozen=True)
class Options:
    """What the passes of a run need to know.

    Attributes:
        target_opset: opset of the result.
        max_rank: highest tensor rank that views may keep where an equal form of lower rank exists.
        lacking: operators of the target's opset that its runtime does not execute all the same.
        matrices: whether linear layers run best on matrices, one row per token.
    """

    target_opset: int
    max_rank: int = 5
    lacking: frozenset[str] = frozenset()
    matrices: bool = False


class RewritePass(ir.passes.InPlacePass):
    """A pass that reports how often it matched.

    Class attributes:
        name: stable identifier, what `--skip-pass` takes.
        change: one line "before → after".
        annotates: only node metadata changes, so there are no numbers to check.

    Attributes:
        matches: number of places the last run changed.
        note: what else a log should say about the last run.
        refusals: (node name, why not) of what looked like the pattern and was left alone.
    """

    name: ClassVar[str]
    change: ClassVar[str]
    annotates: ClassVar[bool] = False
    matches: int = 0
    note: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[tuple[str, str]] = []

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Note why `node`, which starts like the pattern, is left alone."""
        self.refusals.append((node.name or node.op_type, reason))

    def configure(self, options: Options) -> None:
        """Take what the pass needs from the options of the run; most need nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to the main graph and to every subgraph of control-flow operators."""
        self.matches = sum(self.rewrite(graph) for graph in list(model.graphs()))
        return ir.passes.PassResult(model, modified=self.matches > 0)

    @abc.abstractmethod
    def rewrite(self, graph: ir.Graph) -> int:
        """Rewrite `graph` itself (not its subgraphs); returns the number of matches."""


class ViewPass(RewritePass):
    """A pass that prints views, and so needs the rank they may have."""

    max_rank: int = Options.max_rank

    def configure(self, options: Options) -> None:
        """Take the rank limit of the run."""
        self.max_rank = options.max_rank


class PatternPass(RewritePass):
    """A pass made of onnxscript pattern rules, tried with Add and Mul commuted as well.

    Class attributes:
        anchors: the rules need one of these operators; graphs without any are not searched.
    """

    anchors: ClassVar[tuple[str, ...]]

    @staticmethod
    @abc.abstractmethod
    def rules() -> Sequence[RewriteRule]:
        """The rules, tried in this order at every node."""

    def rewrite(self, graph: ir.Graph) -> int:
        raise NotImplementedError("patterns are applied to the whole model")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules everywhere; onnxscript merges the metadata of the matched nodes."""
        self.matches = 0
        if any(is_op(node, *self.anchors) for node in model.graph.all_nodes()):
            rule_set = RewriteRuleSet(list(type(self).rules()), commute=True)
            self.matches = rule_set.apply_to_model(model)
        return ir.passes.PassResult(model, modified=self.matches > 0)
