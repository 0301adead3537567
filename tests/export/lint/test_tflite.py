"""Checks against TFLite runtimes, whose tables list builtins and not ONNX operators."""

from __future__ import annotations

from typing import Any

import pytest

GELU = "g (float[1,4] x) => (float[1,4] y) { y = Gelu(x) }"
ERF = "g (float[1,4] x) => (float[1,4] y) { y = Erf(x) }"
RANK_FIVE = "g (float[1,2,2,2,2] x, float[2,1,2] c) => (float[1,2,2,2,2] y) { y = Add(x, c) }"
OPEN = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


def between_quantizers(op_type: str) -> str:
    return (
        "g (float[1,4] x) => (float[1,4] y) <float s = {0.1}, int8 z = {0}>"
        "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        f"  r = {op_type}(d)  p = QuantizeLinear(r, s, z)  y = DequantizeLinear(p, s, z) }}"
    )


LITERT = {"version": "2.3", "runtime": "litert", "opset": 20}
TFLM = {"version": "2026.8", "runtime": "tflm", "opset": 20}
C = {"version": "1", "runtime": "generic-c99", "opset": 20}


@pytest.mark.parametrize(
    ("body", "runtime", "codes"),
    [
        (GELU, LITERT, []),
        (GELU, TFLM, ["E101"]),
        (ERF, LITERT, ["E101"]),
        (RANK_FIVE, LITERT, []),
        (RANK_FIVE, TFLM, ["E103"]),
        (OPEN, TFLM, ["E106"]),
        (between_quantizers("Exp"), LITERT, []),
        (between_quantizers("Exp"), TFLM, []),
        (between_quantizers("LogSoftmax"), TFLM, []),
        (GELU, C, []),
        (ERF, C, ["E101"]),
        (between_quantizers("Relu"), C, []),
    ],
)
def test_findings(find: Any, body: str, runtime: dict[str, Any], codes: list[str]) -> None:
    assert [f.code for f in find(body, **runtime)] == codes


def test_messages_name_the_builtin_and_the_runtime(find: Any) -> None:
    (missing,) = find(GELU, **TFLM)
    assert "TensorFlow Lite Micro 2026.8 does not execute Gelu (as GELU)" in missing.message
