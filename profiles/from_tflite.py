"""The layers of a .tflite file: its operators in their order, fused as the file says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgec.export.tflite.decode import load
from edgec.export.tflite.model import ABSENT, Operator, Subgraph, Tensor
from edgec.profiles.layers import EXPONENTIAL, Kind, Layer, StaticProfile, window_kind

VIEWS = frozenset(["RESHAPE", "SQUEEZE", "EXPAND_DIMS"])
CONVOLUTIONS = frozenset(["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"])
PRODUCTS = frozenset(["FULLY_CONNECTED", "BATCH_MATMUL"])
KIND: dict[str, Kind] = {
    **dict.fromkeys(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"),
        "pool",
    ),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX"), "softmax"),
    "L2_NORMALIZATION": "norm",
    "LOCAL_RESPONSE_NORMALIZATION": "norm",
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), "resize"),
    **dict.fromkeys(
        (
            *("CONCATENATION", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "PAD"),
            *("PADV2", "GATHER", "TILE", "PACK", "UNPACK", "MIRROR_PAD", "BROADCAST_TO"),
            *("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
        ),
        "move",
    ),
    **dict.fromkeys(("CUSTOM", "WHILE", "IF", "CALL_ONCE"), "other"),
}


def profile_tflite(path: Path) -> StaticProfile:
    """Static profile of a file's first subgraph.

    Raises:
        InputError: the file is broken.
        UnsupportedError: it uses what the reader does not know.
    """
    graph = load(path).subgraphs[0]
    layers = tuple(
        _layer(graph, operator, index)
        for index, operator in enumerate(graph.operators)
        if operator.code not in VIEWS
    )
    return StaticProfile(
        path.stem, layers, live_peak(graph), "live tensors in file order", _precision(graph)
    )


def live_peak(graph: Subgraph) -> int:
    """Most bytes of activations that are live at once when operators run in their order.

    No tensor shares memory with another, as in an arena of TensorFlow Lite Micro; what the kernels
    need besides is not counted.
    """
    end = len(graph.operators)
    born: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    dies: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for step, operator in enumerate(graph.operators):
        for index in operator.inputs:
            if index != ABSENT and graph.tensors[index].data is None:
                dies[index] = step
        for index in operator.outputs:
            born.setdefault(index, step)
            dies.setdefault(index, step)
    dies.update(dict.fromkeys(graph.outputs, end))
    change = [0] * (end + 2)
    for index, step in born.items():
        size = _bytes(graph.tensors[index])
        change[step] += size
        change[dies.get(index, step) + 1] -= size
    live = peak = 0
    for step in range(end + 1):
        live += change[step]
        peak = max(peak, live)
    return peak


def _layer(graph: Subgraph, operator: Operator, index: int) -> Layer:
    inputs = [graph.tensors[i] for i in operator.inputs if i != ABSENT]
    outputs = [graph.tensors[i] for i in operator.outputs]
    activations = [t for t in inputs if t.data is None]
    # axes, shapes and pads are int32 vectors; biases are int32 as well but belong to products
    weighted = operator.code in CONVOLUTIONS | PRODUCTS
    constants = [t for t in inputs if t.data is not None and (weighted or t.dtype != "INT32")]
    out = outputs[0]
    name = out.name or f"{operator.code}_{index}"
    facts: dict[str, Any] = {
        "name": name,
        "operator": operator.custom_code or operator.code,
        "module": name.split(";")[0].rpartition("/")[0],
        "parameters": sum(t.elements for t in constants),
        "weight_bytes": sum(_bytes(t) for t in constants),
        "in_elems": sum(t.elements for t in activations),
        "out_elems": sum(t.elements for t in outputs),
        "in_bytes": sum(_bytes(t) for t in activations),
        "out_bytes": sum(_bytes(t) for t in outputs),
        "nodes": (name,),
    }
    if operator.code in CONVOLUTIONS:
        return Layer(**facts, **_window(graph, operator, out))
    if operator.code in PRODUCTS:
        return Layer(**facts, **_product(graph, operator, out))
    if operator.code == "CONCATENATION" and operator.options["axis"] in (3, -1):
        maps = [t.shape for t in activations if len(t.shape) == 4]
        facts["in_ch"] = math.gcd(*(shape[-1] for shape in maps))
    if operator.code.lower() in EXPONENTIAL:
        facts["functions"] = out.elements
    return Layer(**facts, kind=KIND.get(operator.code, "elementwise"))


def _window(graph: Subgraph, operator: Operator, out: Tensor) -> dict[str, Any]:
    transposed = operator.code == "TRANSPOSE_CONV"  # inputs: shape, weights, activation
    weight = graph.tensors[operator.inputs[1]]
    source = graph.tensors[operator.inputs[2 if transposed else 0]]
    first, height, width, last = weight.shape  # OHWI, or 1HWC of a depthwise one
    in_ch, out_ch = source.shape[-1], out.shape[-1]
    depthwise = operator.code == "DEPTHWISE_CONV_2D"
    groups = in_ch if depthwise else max(in_ch // max(last, 1), 1)
    kind: Kind = "depthwise" if depthwise else window_kind((height, width), groups, in_ch, out_ch)
    taps = height * width * (1 if depthwise else last)
    if transposed:  # every input pixel is spread by the kernel
        taps = height * width * first
    return {
        "kind": kind,
        "macs": (source if transposed else out).elements * taps,
        "weights": weight.elements,
        "kernel": max(height, width),
        "stride": max(operator.options["stride_h"], operator.options["stride_w"]),
        "in_ch": in_ch,
        "out_ch": out_ch,
        "out_hw": math.prod(out.shape[1:-1]),
        "groups": groups,
    }


def _product(graph: Subgraph, operator: Operator, out: Tensor) -> dict[str, Any]:
    left, right = (graph.tensors[i] for i in operator.inputs[:2])
    transposed = bool(operator.options.get("adj_x"))
    inner = left.shape[-2 if transposed else -1]
    if operator.code == "FULLY_CONNECTED":
        inner = right.shape[-1]
    rows = out.elements // max(out.shape[-1], 1)
    constant = right.data is not None
    kind: Kind = "matmul" if not constant else "linear" if rows == 1 else "1x1"
    return {
        "kind": kind,
        "macs": out.elements * inner,
        "weights": right.elements if constant else 0,
        "kernel": int(kind == "1x1"),
        "stride": int(kind == "1x1"),
        "in_ch": inner,
        "out_ch": out.shape[-1],
        "out_hw": rows,
    }


def _bytes(tensor: Tensor) -> int:
    bits = 4 if tensor.dtype == "INT4" else 8 * tensor.numpy_dtype.itemsize
    return (tensor.elements * bits + 7) // 8


def _precision(graph: Subgraph) -> str:
    names = {
        "FLOAT32": "fp32",
        "FLOAT16": "fp16",
        "INT8": "int8",
        "UINT8": "int8",
        "INT16": "int16",
    }
    seen = [
        graph.tensors[i].dtype
        for operator in graph.operators
        if operator.code in CONVOLUTIONS | PRODUCTS
        for i in operator.outputs
    ]
    seen = seen or [graph.tensors[i].dtype for i in graph.outputs]
    most = max(dict.fromkeys(seen), key=seen.count)
    return names.get(most, most.lower())
