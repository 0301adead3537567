"""Regions of operators that become one table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgec.export.emit.c.lower import lower
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor


def net(operators: list[Operator], outputs: list[int], *shapes: tuple[int, ...]) -> Model:
    tensors = [
        Tensor(f"t{n}", shape, "INT8", None, Quantization.per_tensor(0.03 + 0.01 * n, n - 5))
        for n, shape in enumerate(shapes)
    ]
    return Model([Subgraph(tensors, [0], outputs, operators)])


SHAPE = (3, 50)
SIGMOID = Operator("LOGISTIC", [0], [1])


@pytest.mark.parametrize(
    ("operators", "outputs", "kernels"),
    [
        ([SIGMOID, Operator("MUL", [0, 1], [2])], [2], 1),
        ([SIGMOID, Operator("MUL", [0, 1], [2]), Operator("TANH", [2], [3])], [3], 1),
        ([SIGMOID, Operator("TANH", [0], [2]), Operator("ADD", [1, 2], [3])], [3], 3),
        ([SIGMOID, Operator("MUL", [0, 1], [2])], [1, 2], 2),
        ([Operator("MUL", [0, 0], [1]), Operator("GELU", [1], [2])], [2], 1),
    ],
    ids=["x sigmoid(x)", "of that", "two branches", "an inner result is an output", "x squared"],
)
def test_regions(
    operators: list[Operator], outputs: list[int], kernels: int, self_test: Callable[..., str]
) -> None:
    model = net(operators, outputs, SHAPE, SHAPE, SHAPE, SHAPE)
    assert len(lower(model).calls) == kernels
    every = np.resize(np.arange(-128, 128), SHAPE[0] * SHAPE[1] * 2).astype(np.int8)
    halves = [{"t0": half.reshape(SHAPE)} for half in (every[:150], every[150:], every[106:256])]
    assert self_test(model, samples=halves) == "edgec self-test: 3 samples agree\n"


def test_broadcast_operands_are_no_table() -> None:
    model = net([SIGMOID, Operator("MUL", [0, 1], [2])], [2], (1, 4), (1, 4), (3, 4))
    assert [call.kernel for call in lower(model).calls] == ["edgec_lookup_s8", "edgec_mul_s8"]
