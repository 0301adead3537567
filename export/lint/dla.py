"""NVIDIA's DLA, the accelerator beside the GPU of some Jetsons: how much of a graph would it take?

The answer is read from NVIDIA's tables of layers and limits. The DLA's own compiler, which only the
device has, knows more: the memory of a whole part, and how layers combine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.lint.base import DEQUANTIZE, QUANTIZE, Context, Hit, input_at
from edgec.export.rewrite.graph import (
    constant,
    int_attr,
    ints,
    reduce_axes,
    scalar,
    shape_of,
    str_attr,
)
from edgec.profiles.macs import node_macs
from edgec.targets.operators.dla import DlaLimits, DlaTable, Range, dla_table
from edgec.targets.operators.table import DEFAULT_DOMAINS

BANK_BYTES = 32768
"""Of the convolution cache; 256 entries of 128 bytes."""


@dataclass(frozen=True)
class Division:
    """A graph between DLA and GPU.

    Attributes:
        table: by which it is divided.
        taken: operators that the DLA takes.
        left: operator → why it stays on the GPU, in graph order.
        parts: runs of operators on the DLA with the GPU between them.
        share: of the multiplications that the DLA does; None where shapes are open.
    """

    table: DlaTable
    taken: tuple[ir.Node, ...]
    left: dict[ir.Node, str]
    parts: int
    share: float | None


def share_on_dla(context: Context) -> Iterator[Hit]:
    """I601: what part of a float network the DLA would do."""
    found = divide(context)
    if found is None:
        return
    total = len(found.taken) + len(found.left)
    work = "" if found.share is None else f"{found.share:.0%} of the multiplications, "
    message = f"{found.table.title} takes {work}{len(found.taken)} of {total} operators"
    if found.left and found.taken:
        message += f", in {found.parts} part{'s' * (found.parts > 1)} with the GPU between"
        if found.parts > found.table.loadables:
            message += f" (a core holds {found.table.loadables} at a time)"
    yield Hit(
        None,
        message,
        "it is worth a try where it does nearly all: trtexec --useDLACore=0 --allowGPUFallback; "
        "I602 says what stays on the GPU",
    )


def left_to_gpu(context: Context) -> Iterator[Hit]:
    """I602: operators that fall back to the GPU."""
    found = divide(context)
    if found is None or not found.taken:
        return
    reasons = Counter((node.op_type, why) for node, why in found.left.items())
    first: dict[tuple[str, str], ir.Node] = {}
    for node, why in found.left.items():
        first.setdefault((node.op_type, why), node)
    for (op_type, why), node in first.items():
        yield Hit(
            node,
            f"{found.table.title} does not take {reasons[op_type, why]} {op_type}: {why}",
            "nothing is needed on the GPU; for the DLA, replace it by an operator within its "
            "limits: each change between the two copies tensors",
        )


def quantized_for_dla(context: Context) -> Iterator[Hit]:
    """I603: a graph with Q/DQ, which the DLA does not take in int8."""
    if _table(context) is not None and any(context.of_type(QUANTIZE, DEQUANTIZE)):
        yield Hit(
            None,
            "the DLA takes int8 from a calibration cache alone, not from Q/DQ in the graph",
            "build the float16 graph for the DLA, or turn Q/DQ into a cache with NVIDIA's "
            "qdq-translator (NVIDIA/Deep-Learning-Accelerator-SW)",
        )


def divide(context: Context) -> Division | None:
    """What the DLA takes of a graph; None where there is none, and for graphs with Q/DQ."""
    table = _table(context)
    if table is None or any(context.of_type(QUANTIZE, DEQUANTIZE)):
        return None
    half = any(value.dtype == ir.DataType.FLOAT16 for value in context.values)
    nodes = [node for node in context.model.graph if _computes(context, node)]
    reasons = {node: obstacle(context, node, table, half=half) for node in nodes}
    taken = tuple(node for node in nodes if reasons[node] is None)
    try:
        work = {node: node_macs(node) for node in nodes}
    except UnsupportedError:
        share = None
    else:
        total = sum(work.values())
        share = sum(work[node] for node in taken) / total if total else None
    left = {node: why for node, why in reasons.items() if why is not None}
    return Division(table, taken, left, _parts(nodes, set(taken)), share)


def obstacle(context: Context, node: ir.Node, table: DlaTable, *, half: bool) -> str | None:
    """Why an operator stays on the GPU; None if the DLA takes it.

    Args:
        context: its graph.
        node: the operator.
        table: of the DLA.
        half: float16 is written into the graph, float32 means what it says.
    """
    limits = table.operators.get(node.op_type) if node.domain in DEFAULT_DOMAINS else None
    if limits is None:
        return table.left.get(node.op_type, "no such layer")
    types = {value.dtype for value in node.outputs if value.dtype is not None}
    allowed = {ir.DataType.FLOAT16} if half else {ir.DataType.FLOAT16, ir.DataType.FLOAT}
    if types - allowed:
        return f"it computes in {min(str(kind).lower() for kind in types - allowed)}"
    for index in limits.constant:
        value = input_at(node, index)
        if value is not None and not context.is_constant(value):
            return "its second operand is computed" if index == 1 else "its parameters are computed"
    first = shape_of(_data(context, node))
    if first is None:
        return "its shape is open"
    if len(first) != limits.rank:
        return f"its input has rank {len(first)}, not {limits.rank}"
    if first[0] > table.max_batch:
        return f"the batch is {first[0]}, above {table.max_batch}"
    size = limits.dimension or (table.max_dimension and (1, table.max_dimension)) or None
    if size and not _within(first[1:], size):
        return f"a dimension of {max(first[1:])}, above {size[1]}"
    checks = (_window, _channels, _axes, _bounds, _moved, _operands)
    why = next((why for check in checks if (why := check(context, node, limits, first))), None)
    return why or _cache(node, table, first)


def _window(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Kernel, stride, padding and dilation."""
    if limits.kernel is None:
        return None
    kernel = _kernel(node)
    pads = ints(node, "pads") or (0,) * 2 * len(kernel)
    if len(pads) != 2 * len(kernel):
        return "its shape is open"
    checked = (
        ("kernel", kernel, limits.kernel),
        ("stride", ints(node, "strides") or (1,), limits.stride),
        ("padding", pads, limits.padding),
        ("dilation", ints(node, "dilations") or (1,), limits.dilation),
    )
    for name, values, allowed in checked:
        if allowed is not None and not _within(values, allowed):
            return f"{name} {_times(values)}, allowed are {allowed[0]} to {allowed[1]}"
    if limits.padding_below_kernel and any(
        pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=True)
    ):
        return "padding as large as the kernel"
    return None


def _channels(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Groups and channels."""
    written = shape_of(node.outputs[0])
    counts = (
        ("groups", int_attr(node, "group", 1), limits.groups),
        ("input channels", first[1], limits.inputs),
        ("output channels", written[1] if written and len(written) > 1 else 1, limits.outputs),
    )
    for name, count, allowed in counts:
        if allowed is not None and not _within((count,), allowed):
            return f"{count} {name}, allowed are {allowed[0]} to {allowed[1]}"
    return None


def _axes(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Dimensions that it works along."""
    if not limits.axes:
        return None
    if node.op_type == "Slice":
        given = constant(input_at(node, 3))
        starts = constant(input_at(node, 1))
        count = 0 if starts is None else starts.size
        along = tuple(range(count)) if given is None else tuple(int(a) for a in given.ravel())
    elif node.op_type.startswith("Reduce"):
        along = reduce_axes(node) or tuple(range(len(first)))
    else:
        along = (int_attr(node, "axis", {"Softmax": -1}.get(node.op_type, 0)),)
    along = tuple(axis % len(first) for axis in along)
    if set(along) - set(limits.axes):
        return f"it works along dimension {min(set(along) - set(limits.axes))}"
    if len(node.inputs) < limits.least_inputs:
        return "it has a single input"
    if limits.softmax is not None:
        others = [n for i, n in enumerate(first) if i and i not in along]
        if max(others) > 1 and first[along[0]] > limits.softmax:
            return f"the axis has {first[along[0]]} elements, above {limits.softmax}"
    return None


def _bounds(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Bounds of a Clip, window of an LRN, factors of a Resize."""
    if limits.clip is not None:
        low, high = (scalar(input_at(node, index)) for index in (1, 2))
        if low != 0 or high is None or not limits.clip[0] <= high <= limits.clip[1]:
            return f"a clipped ReLU ends at {limits.clip[0]} to {limits.clip[1]}"
    if limits.sizes and int_attr(node, "size", 0) not in limits.sizes:
        return f"its window is none of {', '.join(map(str, limits.sizes))}"
    if limits.scales:
        mode = str_attr(node, "mode", "nearest")
        allowed = limits.scales.get(mode)
        if allowed is None:
            return f"its mode is {mode}"
        written = shape_of(node.outputs[0])
        if written is None or len(written) != len(first) or written[:2] != first[:2]:
            return "it changes batch or channels"
        factors = [new / old for new, old in zip(written[2:], first[2:], strict=True)]
        if any(f != int(f) or not _within((int(f),), allowed) for f in factors):
            return f"its factors are not whole numbers from {allowed[0]} to {allowed[1]}"
    return None


def _moved(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Reshape and Transpose: four dimensions, the first one left alone."""
    if not limits.keeps_batch:
        return None
    written = shape_of(node.outputs[0])
    if written is None or len(written) != limits.rank:
        rank = "unknown rank" if written is None else f"rank {len(written)}"
        return f"its output has {rank}, not {limits.rank}"
    order = ints(node, "perm") or (0,) * (node.op_type == "Reshape")
    if written[0] != first[0] or order[:1] != (0,):
        return "it moves the batch"
    return None


def _operands(context: Context, node: ir.Node, limits: DlaLimits, first: _Shape) -> str | None:
    """Shapes of two operands: equal, or one of them a scalar or one number per channel."""
    if limits.layer != "ElementWise" or len(node.inputs) != 2:
        return None
    whole = shape_of(node.outputs[0])
    if whole is None:
        return "its shape is open"
    for value in node.inputs:
        shape = shape_of(value)
        if shape is None:
            return "its shape is open"
        fixed = context.is_constant(value)
        if not fixed and not limits.broadcast:
            continue  # which computed operands may be smaller is not documented
        padded = (1,) * (len(whole) - len(shape)) + shape
        if fixed and padded[0] == 1:
            padded = (whole[0], *padded[1:])
        channels = (*whole[:2], *(1,) * (len(whole) - 2))
        if padded not in (whole, channels, (whole[0], *(1,) * (len(whole) - 1))):
            kind = "a constant" if fixed else "an operand"
            return f"{kind} of shape {_times(shape)} is stretched to {_times(whole)}"
    return None


def _cache(node: ir.Node, table: DlaTable, first: _Shape) -> str | None:
    """Banks of the convolution cache that one kernel and its rows of float16 data fill."""
    kernel = _kernel(node)
    if node.op_type != "Conv" or int_attr(node, "group", 1) != 1 or len(kernel) != 2:
        return None
    rows, columns = kernel
    _, channels, _, width = first
    dilation = (ints(node, "dilations") or (1, 1))[0]
    kernel_bytes = math.ceil(channels * rows * columns * 2 / 128) * 128
    weights = math.ceil(kernel_bytes / BANK_BYTES)
    entries = math.ceil(math.ceil(channels * 2 / 32) * width / 4)
    data = math.ceil(entries * ((rows - 1) * dilation + 1) / 256)
    if weights + data > table.convolution_banks:
        return f"weights and rows need {weights + data} banks of {table.convolution_banks}"
    return None


_Shape = tuple[int, ...]


def _table(context: Context) -> DlaTable | None:
    sm = context.target.fact("gpu_sm")
    cores = context.target.fact("dla_cores")
    if not isinstance(sm, int) or not cores:
        return None
    return dla_table(sm, context.target.runtime.version)


def _computes(context: Context, node: ir.Node) -> bool:
    """Whether it is left when constants are folded; casts are written where the devices change."""
    return node.op_type != "Cast" and not any(context.is_constant(v) for v in node.outputs)


def _data(context: Context, node: ir.Node) -> ir.Value | None:
    """The first input that is no constant."""
    return next((v for v in node.inputs if v is not None and not context.is_constant(v)), None)


def _parts(nodes: list[ir.Node], taken: set[ir.Node]) -> int:
    """Runs of operators on the DLA: connected, and entered only once between two of the GPU."""
    phase: dict[ir.Node, int] = {}
    root: dict[ir.Node, ir.Node] = {}

    def find(node: ir.Node) -> ir.Node:
        while root[node] is not node:
            node = root[node]
        return node

    for node in nodes:
        before = [p for p in node.predecessors() if p in phase]
        phase[node] = max((phase[p] + ((p in taken) != (node in taken)) for p in before), default=0)
        if node in taken:
            root[node] = node
            for other in before:
                if other in taken and phase[other] == phase[node]:
                    root[find(other)] = node
    return len({find(node) for node in root})


def _kernel(node: ir.Node) -> tuple[int, ...]:
    given = ints(node, "kernel_shape")
    if given is not None:
        return given
    weight = shape_of(input_at(node, 1))
    return weight[2:] if weight else ()


def _within(values: tuple[int, ...], allowed: Range) -> bool:
    return all(allowed[0] <= value <= allowed[1] for value in values)


def _times(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values)) or "scalar"
