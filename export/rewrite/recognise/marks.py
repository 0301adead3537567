"""Marks on nodes: which recognised pattern a node is part of.

Some patterns have no ONNX operator (SiLU, attention, squeeze-excite, …), and some have one that
older opsets lack. Either way quantizers, emitters and reports want to know where they are, so each
of their nodes carries ``kind#number`` under `PATTERN_KEY`. A node in several patterns (the SiLU
inside a squeeze-excite) carries several marks, separated by a space. Rewrites copy node metadata to
the nodes that replace others, so marks last; `patterns.patterns` reads them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass

PATTERN_KEY = "edgec.pattern"
"""Node metadata key of the marks, e.g. ``silu#4 squeeze_excite#0``."""

KINDS: Mapping[str, str] = {
    "attention": "attention",
    "window_attention": "window attention",
    "cross_covariance_attention": "cross-covariance attention",
    "separable_attention": "separable attention",
    "squeeze_excite": "squeeze-excite",
    "dynamic_relu": "DyReLU",
    "unfold": "unfold",
    "fold": "fold",
    "pixel_shuffle": "pixel shuffle",
    "pixel_unshuffle": "pixel unshuffle",
    "gelu": "GELU",
    "silu": "SiLU",
    "hard_swish": "HardSwish",
    "hard_sigmoid": "HardSigmoid",
    "layer_norm": "LayerNorm",
    "group_norm": "GroupNorm",
    "instance_norm": "InstanceNorm",
    "rms_norm": "RMSNorm",
    "l2_norm": "L2 norm",
}
"""The vocabulary: kind → what reports call it, in the order of reports."""


def marks_of(node: ir.Node) -> tuple[str, ...]:
    """The marks ``kind#number`` of a node."""
    return tuple(node.metadata_props.get(PATTERN_KEY, "").split())


def kinds_of(node: ir.Node) -> tuple[str, ...]:
    """The kinds of the patterns that a node is part of."""
    return tuple(mark.partition("#")[0] for mark in marks_of(node))


def add_mark(node: ir.Node, mark: str) -> None:
    """Add one mark to those of `node`."""
    node.metadata_props[PATTERN_KEY] = " ".join(dict.fromkeys((*marks_of(node), mark)))


def merge_marks(kept: ir.Node, dropped: ir.Node) -> None:
    """`kept` now also stands for `dropped`."""
    for mark in marks_of(dropped):
        add_mark(kept, mark)


class Marker:
    """Numbers the patterns of a model, going on from the marks it has."""

    def __init__(self, model: ir.Model) -> None:
        self._next = dict.fromkeys(KINDS, 0)
        for node in model.graph.all_nodes():
            for mark in marks_of(node):
                kind, _, number = mark.partition("#")
                if kind in self._next and number.isdecimal():
                    self._next[kind] = max(self._next[kind], int(number) + 1)

    def mark(self, kind: str, nodes: Iterable[ir.Node]) -> None:
        """Mark `nodes` as one more pattern of `kind`.

        Raises:
            KeyError: `kind` is not in `KINDS`.
        """
        number = self._next[kind]
        self._next[kind] = number + 1
        for node in nodes:
            add_mark(node, f"{kind}#{number}")


class MarkingPass(RewritePass):
    """A pass that marks what it recognises; `marker` numbers the patterns of the model."""

    marker: Marker

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to all graphs with one numbering."""
        self.marker = Marker(model)
        return super().call(model)
