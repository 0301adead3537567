"""GELU, spelled out with Erf or Tanh (Hendrycks and Gimpel, 2016), becomes Gelu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase

from edgec.export.rewrite.base import PatternPass
from edgec.export.rewrite.graph import scalar


def _near(value: ir.Value, target: float) -> bool:
    number = scalar(value)
    return number is not None and bool(np.isclose(number, target, rtol=1e-3))


def _product_with_half(op: Any, x: Any, total: Any, half: Any, association: int) -> Any:
    """0.5·x·total in the three associations; the rule set adds the commuted forms."""
    if association == 0:
        return op.Mul(op.Mul(x, total), half)
    if association == 1:
        return op.Mul(op.Mul(x, half), total)
    return op.Mul(x, op.Mul(total, half))


class _ErfGelu(RewriteRuleClassBase):
    """0.5·x·(1 + erf(x/√2)), the argument written as a division or as a product."""

    def __init__(self, association: int, divides: bool) -> None:
        super().__init__(f"erf_gelu_{association}_{'div' if divides else 'mul'}")
        self.association = association
        self.divides = divides

    def pattern(self, op: Any, x: Any, root: Any, one: Any, half: Any) -> Any:
        argument = op.Div(x, root) if self.divides else op.Mul(x, root)
        total = op.Add(op.Erf(argument), one)
        return _product_with_half(op, x, total, half, self.association)

    def check(
        self, op: Any, x: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value
    ) -> MatchResult:
        result = MatchResult()
        if not _near(root, 2**0.5 if self.divides else 2**-0.5):
            return result.fail("the argument of Erf is not x/√2", root)
        if scalar(one) != 1.0 or scalar(half) != 0.5:
            return result.fail("the constants are not 1 and 0.5")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Gelu(x)


class _TanhGelu(RewriteRuleClassBase):
    """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), the cube as a power or as products."""

    def __init__(self, association: int, power: bool) -> None:
        super().__init__(f"tanh_gelu_{association}_{'pow' if power else 'mul'}")
        self.association = association
        self.power = power

    def pattern(self, op: Any, x: Any, three: Any, c: Any, root: Any, one: Any, half: Any) -> Any:
        cube = op.Pow(x, three) if self.power else op.Mul(x, op.Mul(x, x))
        inner = op.Mul(op.Add(x, op.Mul(cube, c)), root)
        total = op.Add(op.Tanh(inner), one)
        return _product_with_half(op, x, total, half, self.association)

    def check(
        self,
        op: Any,
        c: ir.Value,
        root: ir.Value,
        one: ir.Value,
        half: ir.Value,
        three: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        result = MatchResult()
        if three is not None and scalar(three) != 3.0:
            return result.fail("the power is not 3", three)
        if not _near(c, 0.044715) or not _near(root, (2 / np.pi) ** 0.5):
            return result.fail("the constants are not those of the tanh approximation")
        if scalar(one) != 1.0 or scalar(half) != 0.5:
            return result.fail("the constants are not 1 and 0.5")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Gelu(x, approximate="tanh")


class RecogniseGelu(PatternPass):
    """Every association and order of operands of the erf and tanh forms."""

    name = "recognise-gelu"
    change = "0.5·x·(1 + Erf(x/√2)) or its tanh form → Gelu"
    anchors = ("Erf", "Tanh")

    @staticmethod
    def rules() -> Sequence[RewriteRule]:
        forms = [(a, b) for a in range(3) for b in (False, True)]
        return [*(_ErfGelu.rule(*f) for f in forms), *(_TanhGelu.rule(*f) for f in forms)]
