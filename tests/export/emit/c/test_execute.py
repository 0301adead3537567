"""Every kernel call executed in its arena, against the integer reference; wrong plans are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.c import execute
from edgec.export.emit.c.call import SOURCES
from edgec.export.emit.c.float_reference import FROM_LIBRARY
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.reference import reference
from edgec.export.errors import InternalError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.profiles.memory.plan import plan


def test_there_is_one_for_every_kernel() -> None:
    from_library = {f"edgec_{name.lower()}_f32" for name in FROM_LIBRARY}
    assert set(execute.KERNELS) == set(SOURCES) - from_library


def act(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "INT8", None, Quantization.per_tensor(0.05, -3))


def two_convolutions() -> Model:
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"padding": "SAME", "stride_w": 1, "stride_h": 1}

    def weight(name: str, *shape: int) -> Tensor:
        data = rng.integers(-127, 128, shape, dtype=np.int8)
        return Tensor(name, shape, "INT8", data, Quantization.per_tensor(0.02, 0))

    tensors = [
        act("x", 1, 6, 7, 4),
        weight("v", 5, 3, 3, 4),
        act("h", 1, 6, 7, 5),
        weight("w", 3, 1, 1, 5),
        act("y", 1, 6, 7, 3),
    ]
    operators = [
        Operator("CONV_2D", [0, 1, -1], [2], options),
        Operator("CONV_2D", [2, 3, -1], [4], options),
    ]
    return Model([Subgraph(tensors, [0], [4], operators)])


def golden(model: Model) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    feeds = {"x": np.random.default_rng(1).integers(-128, 128, (1, 6, 7, 4), dtype=np.int8)}
    return [(feeds, reference(model, feeds))]


def test_a_planned_network_is_executed() -> None:
    model = two_convolutions()
    lowered = lower(model)
    execute.check(model, lowered, plan(lowered.program), golden(model))


def test_a_wrong_output_is_noticed() -> None:
    model = two_convolutions()
    lowered = lower(model)
    pairs = golden(model)
    pairs[0][1]["y"][0, 5, 6, 2] ^= 1
    with pytest.raises(InternalError, match="byte 125 is not as expected"):
        execute.check(model, lowered, plan(lowered.program), pairs)


@pytest.mark.parametrize("moved", ["t2", "t4"])
def test_an_offset_that_is_too_low_is_noticed(moved: str) -> None:
    """Outputs that come too close to their inputs overwrite rows that are still needed."""
    model = two_convolutions()
    lowered = lower(model)
    planned = plan(lowered.program)
    source = {"t2": "t0", "t4": "t2"}[moved]
    place = next(b.offset for b in planned.buffers if b.id == source)
    # just above the beginning of the input: its first rows go first
    buffers = tuple(replace(b, offset=place + 20) if b.id == moved else b for b in planned.buffers)
    with pytest.raises(InternalError):
        execute.check(model, lowered, replace(planned, buffers=buffers), golden(model))


def test_a_wrong_constant_is_noticed() -> None:
    model = two_convolutions()
    lowered = lower(model)
    call = lowered.calls[0]
    wrong = replace(call, parameters={**call.parameters, "out_zero": -4})
    broken = replace(lowered, calls=(wrong, lowered.calls[1]))
    with pytest.raises(InternalError):
        execute.check(model, broken, plan(lowered.program), golden(model))
