"""From an ONNX graph to the bytes of a .tflite file in one of its precisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx_ir as ir

from edgec.export.emit.tflite import offline_plan
from edgec.export.emit.tflite.boundary import integer_ends
from edgec.export.emit.tflite.flavour import LITERT, Flavour
from edgec.export.emit.tflite.lower import Lowered, emit, prepare
from edgec.export.emit.tflite.numbering import number_tensors
from edgec.export.emit.tflite.precision import half_weights, integer_weights, stored_integers
from edgec.export.emit.tflite.runtime_fit import require_executable
from edgec.export.errors import UnsupportedError
from edgec.export.tflite.encode import encode
from edgec.export.tflite.marks import METADATA, SCHEMA
from edgec.targets.operators.table import OperatorTable

TflitePrecision = Literal["fp32", "fp16", "dyn8", "int8", "int16x8"]
LARGEST = (1 << 31) - 1
"""Bytes of a flatbuffer, whose offsets have 31 bits."""


@dataclass(frozen=True)
class TfliteFile:
    """A finished file.

    Attributes:
        content: its bytes; equal graphs and metadata give equal ones.
        lowered: the model that they encode, with counts for the report.
    """

    content: bytes
    lowered: Lowered


def convert(
    graph: ir.Model,
    *,
    precision: TflitePrecision = "fp32",
    ends: Literal["float", "integer"] = "float",
    flavour: Flavour = LITERT,
    table: OperatorTable | None = None,
    metadata: Mapping[str, Any] | None = None,
    offline: bool = False,
) -> TfliteFile:
    """Write `graph` as a .tflite file.

    Args:
        graph: float32 for fp32, fp16 and dyn8; Q/DQ for int8 and int16x8. Not modified.
        precision: fp16 and dyn8 change the stored weights only.
        ends: whether inputs and outputs of an int8 network are float32 or its integers.
        flavour: who runs the file.
        table: builtins of the runtime, to refuse what it does not execute.
        metadata: JSON-ready content of the entry ``edgec``.
        offline: also write where tensors lie in the arena, for tflite-micro.

    Raises:
        UnsupportedError: EC390, EC391, see `lower`; EC392 more than 2 GiB; EC394 the runtime of
            `table` lacks an operator.
    """
    size = sum(v.const_value.nbytes for v in graph.graph.initializers.values() if v.const_value)
    if size > LARGEST:
        raise _too_large(size)
    read = prepare(graph, flavour)
    if ends == "integer":
        integer_ends(read)
    lowered = emit(read, flavour)
    heads = 0
    if precision == "fp16":
        heads = half_weights(lowered.model)
    elif precision == "dyn8":
        heads = integer_weights(lowered.model, channel_linear=flavour.channel_linear)
    elif precision == "int8" and flavour.folds_dequantize:
        heads = stored_integers(lowered.model, lowered.integers)
    ahead = (None,) * heads
    lowered = replace(lowered, modules=(*ahead, *lowered.modules), nodes=(*ahead, *lowered.nodes))
    number_tensors(lowered.model)
    if table is not None:
        require_executable(lowered, table)
    entry = {"schema": SCHEMA, "precision": precision, "layout": "NHWC"}
    text = json.dumps({**entry, **(metadata or {})}, sort_keys=True, ensure_ascii=False)
    lowered.model.metadata[METADATA] = text.encode()
    allocation = offline_plan.offline_allocation(lowered.model) if offline else None
    if allocation is not None:
        lowered.model.metadata[offline_plan.METADATA] = allocation
    lowered.model.description = str((metadata or {}).get("producer", "edgec"))
    content = encode(lowered.model)
    if len(content) > LARGEST:
        raise _too_large(len(content))
    counts: dict[str, int] = {}
    for operator in lowered.model.main.operators:
        counts[operator.code] = counts.get(operator.code, 0) + 1
    return TfliteFile(content, replace(lowered, operators=dict(sorted(counts.items()))))


def _too_large(size: int) -> UnsupportedError:
    return UnsupportedError(
        "EC392",
        f"the network needs {size / 2**30:.1f} GiB",
        why="a flatbuffer, which a .tflite file is, holds 2 GiB",
        fix="edgec is for networks of edge devices; reduce or split the network",
    )
