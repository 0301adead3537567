"""Delegates of TFLite runtimes: into how many parts would the .tflite file of the graph fall?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.emit.tflite.delegates.edgetpu import obstacle as edgetpu_obstacle
from edgec.export.emit.tflite.delegates.partition import (
    Left,
    Partitioning,
    calls,
    divide,
    predict,
)
from edgec.export.lint.base import QUANTIZE, Context, Hit
from edgec.export.rewrite.graph import module_of
from edgec.export.tflite.model import Subgraph
from edgec.targets.operators.delegates import delegate_table
from edgec.targets.operators.table import tflite_mapping

EDGETPU = "edgetpu"


def split_by_delegate(context: Context) -> Iterator[Hit]:
    """W501: operators between parts of a delegate, which hands over to LiteRT and back."""
    for found in _partitionings(context):
        count = len(found.parts)
        for left, number in _grouped(found.breakers):
            yield Hit(
                _node(context, left),
                f"{found.title} does not take {number} {left.code} here: {left.why}; with all that "
                f"it does not take, the graph falls into {count} partitions",
                "change the operator, or measure with `edgec bench` whether the detour matters",
            )


def left_by_delegate(context: Context) -> Iterator[Hit]:
    """I502: operators that a delegate leaves to LiteRT without being divided by them."""
    for found in _partitionings(context):
        others = [left for left in found.left if not left.splits]
        for left, number in _grouped(others):
            yield Hit(
                _node(context, left),
                f"{found.title} does not take {number} {left.code} here: {left.why}",
                "nothing is needed if the operator is cheap: it runs in LiteRT's own kernel",
            )


def left_to_host(context: Context) -> Iterator[Hit]:
    """W503: operators that the Edge TPU does not take; the host runs them and all behind them."""
    graph = _lowered(context) if EDGETPU in context.target.delegates else None
    if graph is None:
        return
    main, modules = graph
    table = delegate_table(EDGETPU)
    quantized = any(context.of_type(QUANTIZE))
    reasons = [edgetpu_obstacle(call, table, typed=quantized) for call in calls(main)]
    found = divide(main, table, reasons, modules)
    share = divide(main, table, reasons, modules, first_only=True).share
    for left, number in _grouped(found.left):
        yield Hit(
            _node(context, left),
            f"the Edge TPU does not take {number} {left.code} here: {left.why}; it computes "
            f"{int(share)} % of the operators, those in front of the first such one",
            "change the operator, or move it to the end of the network",
        )


def over_cache(context: Context) -> Iterator[Hit]:
    """I504: more weights than the Edge TPU keeps on chip, which are sent for each inference."""
    cache = context.target.fact("parameter_cache_bytes")
    graph = _lowered(context) if EDGETPU in context.target.delegates else None
    if graph is None or not isinstance(cache, int):
        return
    constants = [t for t in graph[0].tensors if t.data is not None]
    size = sum(t.elements for t in constants)
    if size > cache:
        yield Hit(
            None,
            f"{size / 2**20:.1f} MiB of 8-bit weights, the Edge TPU keeps {cache / 2**20:.1f} MiB",
            "take a smaller network: weights beyond the cache are sent over USB or PCIe each time",
        )


def _partitionings(context: Context) -> list[Partitioning]:
    """Of the delegates that may be called any number of times."""
    wanted = [d for d in context.target.delegates if d != EDGETPU]
    graph = _lowered(context) if wanted else None
    return [] if graph is None else [predict(graph[0], d, graph[1]) for d in wanted]


def _lowered(context: Context) -> tuple[Subgraph, tuple[str | None, ...]] | None:
    """What the graph becomes; None where another rule says why it becomes nothing, and for graphs
    that no .tflite file is made from: of half precision, or quantized for another runtime."""
    other = context.target.runtime.name == "onnxruntime" and any(context.of_type(QUANTIZE))
    half = any(value.dtype == ir.DataType.FLOAT16 for value in context.values)
    found = None if other or half else context.lowered
    return None if found is None else (found.model.main, found.modules)


def _grouped(left: list[Left] | tuple[Left, ...]) -> list[tuple[Left, int]]:
    """The first of all with the same operator, module and reason, and their number."""
    keys = [(one.code, one.where, one.why) for one in left]
    counts = Counter(keys)
    return [(left[keys.index(key)], counts[key]) for key in dict.fromkeys(keys)]


def _node(context: Context, left: Left) -> ir.Node | None:
    """The node that the operator was made for, as far as names tell, else one of its module."""
    named = [n for n in context.nodes if _made(n, left.output)]
    inside = [n for n in context.nodes if left.module and module_of(n) == left.module]
    mapping = tflite_mapping()
    exact = [n for n in inside if left.code in mapping.get(n.op_type, ())]
    return next(iter([*named, *exact, *inside]), None)


def _made(node: ir.Node, tensor: str) -> bool:
    """Whether a tensor has the name of the node's output or of a step inside the node."""
    inner = bool(node.name) and tensor.startswith(f"{node.name}/")
    return inner or any(tensor == value.name for value in node.outputs)
