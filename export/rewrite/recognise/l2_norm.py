"""x / max(‖x‖₂, ε), as torch.nn.functional.normalize exports it, becomes LpNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase

from edgec.export.rewrite.base import PatternPass
from edgec.export.rewrite.graph import int_attr, reduce_axes, scalar, shape_of

MAX_EPSILON = 1e-6
"""LpNormalization has no ε (a zero vector gives 0, as x / ε does); a larger one would count."""


class _L2Norm(RewriteRuleClassBase):
    def __init__(self, clamp: str, expand: bool) -> None:
        super().__init__(f"l2_norm_{clamp}{'_expand' if expand else ''}")
        self.clamp = clamp
        self.expand = expand

    def pattern(self, op: Any, x: Any, axes: Any, epsilon: Any, shape: Any) -> Any:
        norm = op.ReduceL2(x, axes, _allow_other_attributes=True, _outputs=["norm"])
        if self.clamp == "Clip":
            norm = op.Clip(norm, epsilon)
        elif self.clamp == "ClipBoth":
            norm = op.Clip(norm, epsilon, None)
        else:
            norm = op.Max(norm, epsilon)
        return op.Div(x, op.Expand(norm, shape) if self.expand else norm)

    def check(
        self, op: Any, x: ir.Value, norm: ir.Value, epsilon: ir.Value, **_: Any
    ) -> MatchResult:
        result = MatchResult()
        node = norm.producer()
        number = scalar(epsilon)
        if node is None or not int_attr(node, "keepdims", 1):
            return result.fail("the reduced axis is dropped", norm)
        axes = reduce_axes(node)
        if axes is None or len(axes) != 1:
            return result.fail("not exactly one axis is reduced", norm)
        if number is None or not 0 <= number <= MAX_EPSILON:
            return result.fail("ε is not constant or too large to leave out", epsilon)
        if shape_of(x) is None:
            return result.fail("the shape is not static", x)
        return result

    def rewrite(self, op: Any, x: ir.Value, norm: ir.Value, **_: Any) -> Any:
        node = norm.producer()
        axes = reduce_axes(node) if node is not None else None
        assert axes
        rank = len(shape_of(x) or ())
        axis = -1 if axes[0] == rank - 1 else axes[0]
        return op.LpNormalization(x, axis=axis, p=2)


class RecogniseL2Norm(PatternPass):
    """With and without Expand, clamped by Clip or Max."""

    name = "recognise-l2-norm"
    change = "x / Expand(Clip(ReduceL2(x), ε)) → LpNormalization"
    anchors = ("ReduceL2",)

    @staticmethod
    def rules() -> Sequence[RewriteRule]:
        return [_L2Norm.rule(c, e) for c in ("Clip", "ClipBoth", "Max") for e in (True, False)]
