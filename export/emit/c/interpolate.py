"""Functions of one int16 as one operator each: `CODE`, a custom one with a table.

What int8 networks have as a table of 256 results (`edgec.export.emit.c.lookup`) would have 65,536
here. So operators that together compute one int16 from one int16, with a curve among them, become
513 values with straight lines between them (`edgec.export.tflite.reference.interpolated`). They are
evaluated as one real function in double precision: x · sigmoid(x) is rounded once, at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import erf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.regions import region_from
from edgec.export.tflite.model import Operator, Subgraph, Tensor
from edgec.export.tflite.reference.fixed_point import parameters, scale_of
from edgec.export.tflite.reference.interpolated import look_up, table

CODE: Final = "Interpolated"
"""Custom operator: input, and the values of its table."""
Reals = NDArray[Any]
_LOW, _HIGH = -(1 << 15), (1 << 15) - 1


def _logistic(x: Reals) -> Reals:
    # the negative half is a power that cannot overflow
    power = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, power) / (1.0 + power))


def _gelu(options: Mapping[str, Any], x: Reals) -> Reals:
    if options["approximate"]:
        part = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    else:
        part = _erf(x * np.sqrt(0.5))
    return np.asarray(0.5 * x * (1.0 + part))


def _erf(x: Reals) -> Reals:
    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x))


CURVES: Final[Mapping[str, Callable[[Mapping[str, Any], Reals], Reals]]] = {
    "LOGISTIC": lambda options, x: _logistic(x),
    "TANH": lambda options, x: np.tanh(x),
    "GELU": _gelu,
    "HARD_SWISH": lambda options, x: x * np.clip(x + 3, 0, 6) / 6,
}
"""Functions that make a table worth while: others are sums, products and limits."""
_STRAIGHT: Final[Mapping[str, Callable[..., Reals]]] = {
    "QUANTIZE": lambda x: x,
    "DEQUANTIZE": lambda x: x,
    "NEG": lambda x: -x,
    "RELU": lambda x: np.maximum(x, 0),
    "RELU6": lambda x: np.clip(x, 0, 6),
    "ADD": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "MUL": lambda a, b: a * b,
    "SQUARED_DIFFERENCE": lambda a, b: (a - b) ** 2,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
}
_CLAMPS: Final = {
    "NONE": (-np.inf, np.inf),
    "RELU": (0, np.inf),
    "RELU6": (0, 6),
    "RELU_N1_TO_1": (-1, 1),
}


def interpolated(graph: Subgraph) -> Subgraph:
    """The same network with such operators; the graph is not modified, its tensors keep their
    indices."""
    consumers: dict[int, list[int]] = {}
    for position, op in enumerate(graph.operators):
        for index in op.inputs:
            consumers.setdefault(index, []).append(position)
    tensors = list(graph.tensors)
    changed: dict[int, Operator | None] = {}
    for position in range(len(graph.operators)):
        if position in changed:
            continue
        members = region_from(graph, position, consumers, "INT16")
        region = [graph.operators[n] for n in members]
        if not _worth_a_table(graph, region):
            continue
        result = graph.tensors[region[-1].outputs[0]]
        values = values_of(graph, region)
        tensors.append(Tensor(f"{result.name}/table", values.shape, "INT16", values))
        changed |= dict.fromkeys(members)
        # where the last one was: readers of its result come later
        changed[members[-1]] = Operator(
            "CUSTOM",
            [source_of(graph, region), len(tensors) - 1],
            [region[-1].outputs[0]],
            custom_code=CODE,
        )
    operators = [changed.get(n, op) for n, op in enumerate(graph.operators)]
    return replace(graph, tensors=tensors, operators=[op for op in operators if op is not None])


def source_of(graph: Subgraph, region: Sequence[Operator]) -> int:
    """The tensor that a region is a function of."""
    return next(i for i in region[0].inputs if i >= 0 and graph.tensors[i].data is None)


def values_of(graph: Subgraph, region: Sequence[Operator]) -> NDArray[np.int16]:
    """The table of a region."""
    step = float(scale_of(graph.tensors[source_of(graph, region)]))
    result = graph.tensors[region[-1].outputs[0]]
    # pieces of 128 integers: the last one ends at 32768 (TFLite's are a little shorter)
    ends = (_LOW * step, -_LOW * step)
    return table(lambda x: real(graph, region, x), *ends, float(scale_of(result)))


def worst_error(graph: Subgraph, region: Sequence[Operator]) -> float:
    """Most that the table of a region is off the real function, over all inputs, in steps of the
    output."""
    x = np.arange(_LOW, _HIGH + 1)
    source, result = (
        float(scale_of(graph.tensors[i])) for i in (source_of(graph, region), region[-1].outputs[0])
    )
    wanted = real(graph, region, x * source) / result
    return float(np.abs(look_up(values_of(graph, region), x) - wanted).max())


def real(graph: Subgraph, region: Sequence[Operator], x: Reals) -> Reals:
    """The function of a region without rounding, within the range of each integer tensor."""
    known: dict[int, Reals] = {source_of(graph, region): x}
    for op in region:
        operands = [
            known[i] if i in known else _constant(graph.tensors[i]) for i in op.inputs if i >= 0
        ]
        if op.code in CURVES:
            found = CURVES[op.code](op.options, operands[0])
        else:
            found = _STRAIGHT[op.code](*operands)
        found = np.clip(found, *_CLAMPS[op.options.get("fused_activation_function", "NONE")])
        tensor = graph.tensors[op.outputs[0]]
        if tensor.dtype == "INT16":
            step = float(scale_of(tensor))
            found = np.clip(found, _LOW * step, _HIGH * step)
        known[op.outputs[0]] = found
    return found


def _constant(tensor: Tensor) -> Reals:
    data = np.asarray(tensor.data).reshape(-1)
    if data.dtype.kind == "f":
        return data.astype(np.float64)
    grid = parameters(tensor)
    return np.asarray((data.astype(np.float64) - grid.zero_point) * grid.scale)


def _worth_a_table(graph: Subgraph, region: Sequence[Operator]) -> bool:
    if not any(op.code in CURVES for op in region):
        return False
    # results on other integers are rounded on the way
    return all(
        (op.code in CURVES or op.code in _STRAIGHT)
        and graph.tensors[op.outputs[0]].dtype in ("INT16", "FLOAT32")
        for op in region
    )
