"""Which kernels ONNX Runtime really executes: integer or float."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgec.export.errors import InputError
from edgec.export.quantize.graph import in_memory

_INTEGER = frozenset(
    {
        "QGemm",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FLOAT_TWINS = {
    "Conv": ("QLinearConv", "ConvInteger"),
    "MatMul": ("QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    "Gemm": ("QGemm",),
}


def emulation_options(threads: int = 1) -> ort.SessionOptions:
    """Session options that run a Q/DQ graph as written: integers rounded, arithmetic in float.

    Use them to judge a graph made for another machine. With its integer kernels ONNX Runtime
    would show the faults of *this* CPU instead (8-bit saturation on x86 without VNNI).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def count_integer_kernels(model: ir.Model) -> dict[str, Any]:
    """Count operators of a graph after ONNX Runtime's CPU optimization.

    Kernels for signed activations are counted as on Arm, where ONNX Runtime always uses them.

    Returns:
        ``integer``: integer operator type → count; ``float``: every other operator type → count
        (Q/DQ apart); ``qdq``: Q/DQ nodes that remain; ``weighted``: for Conv, MatMul and Gemm
        the pair ``{"integer": n, "float": m}``.

    Raises:
        InputError: EC763, ONNX Runtime does not load the graph.
    """
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        # EXTENDED has every QDQ fusion; ALL would only add CPU-specific memory layouts
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        data = ir.to_proto(in_memory(model)).SerializeToString()
        try:
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(
                "EC763", "ONNX Runtime cannot load the quantized network", why=str(error)
            ) from error
        counts = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    integer = {op: n for op, n in sorted(counts.items()) if _is_integer(op)}
    return {
        "integer": integer,
        "float": {
            op: n for op, n in sorted(counts.items()) if op not in integer and op not in _QDQ
        },
        "qdq": sum(counts[op] for op in _QDQ),
        "weighted": {
            op: {
                "integer": sum(counts[name] for name in names),
                "float": sum(counts[name] for name in (op, f"Fused{op}")),
            }
            for op, names in _FLOAT_TWINS.items()
        },
    }


def _is_integer(op_type: str) -> bool:
    return op_type.startswith("QLinear") or op_type in _INTEGER
