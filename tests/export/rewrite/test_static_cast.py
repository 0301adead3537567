"""CastLike: what it casts to is known without the tensor it looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.export.rewrite.canonicalise.fold_constants import FoldConstants
from edgec.export.rewrite.canonicalise.static_cast import StaticCast
from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward


def test_default_scale_of_attention_is_constant(build: Any, run_passes: Any) -> None:
    """1 / √d, its root on queries and keys: all of it ends in the projections."""
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("wq", "wk")}
    model = build(
        """net (float[2, 5, 8] x, float[8, 8] wq, float[8, 8] wk) => (float[2, 5, 5] y)
        <int64[1] width = {8}, float[1] one = {1.0}>
        { q = MatMul(x, wq) k = MatMul(x, wk) d = CastLike(width, q) r = Sqrt(d) s = Div(one, r)
          a = Sqrt(s) b = Sqrt(s) qs = Mul(q, a) ks = Mul(k, b)
          kt = Transpose<perm=[0, 2, 1]>(ks) y = MatMul(qs, kt) }""",
        weights,
    )
    outcome = run_passes(model, [StaticCast, FoldConstants, FoldAffineBackward])
    assert outcome.after == {"MatMul": 3, "Transpose": 1}


@pytest.mark.parametrize("kind", ["float", "int32"])
def test_computed_tensor_is_cast(build: Any, run_passes: Any, kind: str) -> None:
    model = build(
        f"g (float[2, 3] x, {kind}[4] like) => ({kind}[2, 3] y) {{ y = CastLike(x, like) }}"
    )
    outcome = run_passes(model, [StaticCast])
    assert outcome.after == {"Cast": 1}
