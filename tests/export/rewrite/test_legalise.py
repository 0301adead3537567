"""Every target opset: valid there, same numbers; what cannot go there is named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.base import Options
from edgec.export.rewrite.legalise.adapters import ADAPTERS, SAME_MEANING
from edgec.export.rewrite.legalise.decompose import DECOMPOSITIONS
from edgec.export.rewrite.legalise.lacking import operators_lacking
from edgec.export.rewrite.legalise.opset import ConvertOpset
from edgec.targets import get_target, list_targets
from edgec.targets.schema import Runtime

OPSETS = (13, 14, 15, 16, 17, 18, 19, 21)


def vector(n: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


WEIGHTS = {"g": vector(6, 1), "b": vector(6, 2)}

BODIES = {
    "gelu": "y = Gelu(x)",
    "gelu tanh": 'y = Gelu<approximate="tanh">(x)',
    "hard swish": "y = HardSwish(x)",
    "mish": "y = Mish(x)",
    "layer norm": "t = Transpose<perm=[0, 2, 3, 1]>(x) y = LayerNormalization<axis=-1>(t, g, b)",
    "layer norm, no bias": "t = Transpose<perm=[0, 2, 3, 1]>(x) y = LayerNormalization(t, g)",
    "reduce mean": "y = ReduceMean<keepdims=0>(x, last)",
    "reduce max over all": "y = ReduceMax(x)",
    "reduce l2": "y = ReduceL2(x, last)",
    "reduce sum": "y = ReduceSum(x, last)",
    "split": "a, y = Split<axis=1, num_outputs=2>(x)",
    "pad with axes": "y = Pad(x, two, , last)",
    "resize": 'y = Resize<mode="linear">(x, , scales)',
    "average pool": "y = AveragePool<kernel_shape=[2, 2], dilations=[1, 1]>(x)",
    "cast": "h = Cast<to=10, saturate=1>(x) y = Cast<to=1>(h)",
    "reshape": "y = Reshape<allowzero=0>(x, flat)",
    "batch norm": "s = Sigmoid(g) y = BatchNormalization<training_mode=0>(x, g, b, g, s)",
    "space to depth": "s = Slice(x, zero, four, last) y = SpaceToDepth<blocksize=2>(s)",
}
CONSTANTS = """<int64[1] last = {3}, int64[2] two = {1, 2}, float[4] scales = {1.0, 1.0, 2.0, 2.0},
    int64[2] flat = {6, 20}, int64[1] zero = {0}, int64[1] four = {4}>"""


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_same_numbers_at_every_opset(build: Any, run_passes: Any, body: str, opset: int) -> None:
    model = build(
        f"""net (float[1, 6, 4, 5] x, float[6] g, float[6] b)
             => (y) {CONSTANTS} {{ {body} }}""",
        WEIGHTS,
    )
    outcome = run_passes(model, [ConvertOpset], target_opset=opset)
    assert outcome.model.opset_imports[""] == opset
    assert outcome.model.ir_version <= onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", opset)]
    )
    for node in outcome.model.graph:
        onnx.defs.get_schema(node.op_type, opset, "")


@pytest.mark.parametrize("opset", [17, 20, 21])
@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = Gelu(x)", "Gelu"),
        ("y = HardSwish(x)", "HardSwish"),
        ("t = Transpose<perm=[0, 2, 3, 1]>(x) y = LayerNormalization(t, g, b)",
         "LayerNormalization"),
    ],
)  # fmt: skip
def test_what_the_runtime_lacks_is_spelled_out(
    build: Any, run_passes: Any, body: str, operator: str, opset: int
) -> None:
    model = build(f"net (float[1, 6, 4, 6] x, float[6] g, float[6] b) => (y) {{ {body} }}", WEIGHTS)
    outcome = run_passes(model, [ConvertOpset], target_opset=opset, lacking=[operator])
    assert operator in outcome.before
    assert operator not in outcome.after


def test_a_replacement_that_is_lacking_itself_is_replaced(build: Any, run_passes: Any) -> None:
    model = build("net (float[1, 6, 4, 6] x) => (y) { y = Gelu(x) }", {})
    outcome = run_passes(model, [ConvertOpset], lacking=["Gelu", "Erf"])
    assert not {"Gelu", "Erf"} & set(outcome.after)


def test_erf_by_series_is_erf_to_float_precision(build: Any) -> None:
    model = build("net (float[8001] x) => (y) { y = Erf(x) }", {})
    rewrite = ConvertOpset()
    rewrite.configure(Options(target_opset=20, lacking=frozenset({"Erf"})))
    rewrite(model)
    x = np.linspace(-6, 6, 8001, dtype=np.float32)  # zero is the middle one
    (y,) = numerics.run(numerics.serialize(model), [{"x": x}])
    want = np.array([math.erf(value) for value in x])
    # 1.5e-7 by the series, and a few roundings of numbers below one
    assert np.abs(y - want).max() < 1.5e-7 + 4 * 2.0**-23
    assert y[4000] == 0


def test_what_each_runtime_lacks_comes_from_its_table() -> None:
    lacking = {name: operators_lacking(get_target(name).runtime) for name in list_targets()}
    assert lacking["jetson-xavier-nx-jp5.1"] == {"LayerNormalization"}
    assert lacking["jetson-nano-jp4.6"] == set()  # opset 13 has none of those to lack
    assert lacking["generic-x86-64"] == set()
    assert lacking["cortex-m-tflm"] >= {"Gelu", "Erf"}
    nobody = Runtime(name="nobody", version="1.0", opset=20, source="a made-up runtime")
    assert operators_lacking(nobody) == set()


@pytest.mark.parametrize(
    ("body", "opset", "operator"),
    [
        ("y = GridSample(x, grid)", 13, "GridSample"),
        ("y = BitwiseNot(i)", 17, "BitwiseNot"),
        ('y = Pad<mode="wrap">(x, pads)', 18, "Pad"),
        ("y = AveragePool<kernel_shape=[2, 2], dilations=[2, 2]>(x)", 18, "AveragePool"),
        ("y = Trilu(x)", 13, "Trilu"),
        ("y = ReduceMean(x, axes)", 17, "ReduceMean"),
    ],
)
def test_what_an_opset_lacks_is_named(build: Any, body: str, opset: int, operator: str) -> None:
    model = build(
        f"""net (float[1, 2, 4, 5] x, float[1, 3, 3, 2] grid, int32[2] i, int64[1] axes) => (y)
        <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}> {{ {body} }}"""
    )
    convert = ConvertOpset()
    convert.configure(Options(target_opset=opset))
    with pytest.raises(UnsupportedError) as caught:
        convert.call(model)
    assert caught.value.code == "EC342"
    assert operator in caught.value.what
    assert str(opset) in caught.value.what


def test_large_values_keep_their_variance(build: Any) -> None:
    """x - mean before the square: E[x²] - E[x]² would lose everything at mean 10⁴."""
    model = build(
        "net (float[1, 6] x, float[6] g, float[6] b) => (y) { y = LayerNormalization(x, g, b) }",
        WEIGHTS,
    )
    convert = ConvertOpset()
    convert.configure(Options(target_opset=13))
    x = (1e4 + vector(6, 9)).reshape(1, 6)
    from edgec.export.rewrite import numerics

    want = numerics.run(numerics.serialize(model), [{"x": x}])
    convert.call(model)
    got = numerics.run(numerics.serialize(model), [{"x": x}])
    np.testing.assert_allclose(got[0], want[0], rtol=2e-3, atol=2e-3)


def test_half_precision_layer_norm_computes_in_float32(build: Any) -> None:
    model = build(
        "net (float16[1, 6] x, float16[6] g) => (y) { y = LayerNormalization(x, g) }",
        {"g": WEIGHTS["g"].astype(np.float16)},
    )
    convert = ConvertOpset()
    convert.configure(Options(target_opset=16))
    convert.call(model)
    kinds = {n.op_type: n.outputs[0].dtype for n in model.graph}
    assert kinds["Sqrt"] == ir.DataType.FLOAT
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT16


def test_tables_cover_every_change_between_the_opsets() -> None:
    """An operator whose definition changed is adapted, decomposed, known to mean the same, or
    refused by name; nothing passes by default."""

    def since(name: str, opset: int) -> int | None:
        try:
            return int(onnx.defs.get_schema(name, opset, "").since_version)
        except onnx.defs.SchemaError:
            return None

    known = set(ADAPTERS) | set(DECOMPOSITIONS) | SAME_MEANING
    for name in known:
        assert since(name, 20) is not None, f"{name} is no operator of opset 20"
    for name, (version, _) in DECOMPOSITIONS.items():
        assert since(name, version) == version
        before = since(name, version - 1)
        assert before is None or onnx.defs.get_schema(name, version - 1, "").deprecated
    for name, (version, _) in ADAPTERS.items():
        assert since(name, version - 1) != since(name, version), f"{name} at {version}"
    for name in SAME_MEANING:
        a, b = (set(onnx.defs.get_schema(name, v, "").attributes) for v in (13, 20))
        assert since(name, 13) is not None
        assert b <= a, f"{name} has new attributes {b - a}"
