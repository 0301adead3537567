"""In which order the kernels of ONNX operators read and write, so far as it is known.

Images are channels-last in memory, whatever the graph says; other tensors lie as the graph says.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import constant
from edgec.profiles.memory import overlap
from edgec.profiles.memory.program import Buffer, Parameter, Step

POINTWISE = frozenset(
    "Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Tanh Gelu Erf Exp Log Sqrt Reciprocal "
    "Neg Abs Elu Selu Celu Softplus Softsign Mish Swish Add Sub Mul Div Pow Min Max Where Not "
    "Floor Ceil Round Sign Sin Cos BatchNormalization QuantizeLinear DequantizeLinear Equal Less "
    "Greater And Or LessOrEqual GreaterOrEqual Mod".split()
)
ROW_WISE = frozenset(
    "Softmax LogSoftmax LayerNormalization RMSNormalization LpNormalization".split()
)
POOLS = frozenset(["MaxPool", "AveragePool", "LpPool"])


def folded_pads(node: ir.Node) -> tuple[int, int] | None:
    """Rows and columns that a Pad puts before an image, where the windows that read it can do that
    themselves; None for any other Pad.

    They count what lies outside as zero (convolutions) or not at all (maxima).
    """
    x, out = node.inputs[0], node.outputs[0]
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if x is None or pads is None or axes is not None or len(shape_of(x)) != 4 or pads.size != 8:
        return None
    amounts = [int(n) for n in pads]
    if min(amounts) < 0 or any(amounts[axis] for axis in (0, 1, 4, 5)):
        return None
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    fill = np.zeros(1) if given is None else constant(given)
    if fill is None or fill.size != 1:
        return None
    kind = "Conv" if float(fill.reshape(-1)[0]) == 0 else "MaxPool"
    if kind == "MaxPool" and float(fill.reshape(-1)[0]) > np.finfo(np.float32).min:
        return None
    uses = out.uses()
    if out.is_graph_output() or not all(u.node.op_type == kind and u.idx == 0 for u in uses):
        return None
    return amounts[2], amounts[3]


def geometry(
    node: ir.Node, inputs: list[ir.Value], padded: tuple[ir.Value, tuple[int, int]] | None = None
) -> dict[str, Parameter]:
    """What `distance` has to know about a step that computes `node` from these activations.

    Args:
        padded: what is read in place of the first input, and `folded_pads` of it.
    """
    first, out = node.inputs[0], node.outputs[0]
    if first is None or first not in inputs:
        return {}
    kind, shape = node.op_type, shape_of(first)
    if kind in ROW_WISE:
        axis = node.attributes.get_int("axis", -1) % len(shape)
        # the channels of an image, or the last axis of anything else, are next to each other
        return {"in_place": axis == len(shape) - 1 or (len(shape) == 4 and axis == 1)}
    if kind in POINTWISE:
        return {"in_place": True}
    if len(inputs) != 1:
        return {}
    if (kind == "Conv" or kind in POOLS) and len(shape) == 4 and shape[0] == 1:
        if padded is not None:
            shape = shape_of(padded[0])
        return _window(node, shape, shape_of(out), (0, 0) if padded is None else padded[1])
    if kind in ("MatMul", "Gemm") and constant(node.inputs[1]) is not None:
        if kind == "Gemm" and node.attributes.get_int("transA", 0) == 1:
            return {}
        onto = shape_of(out)
        return {"rows": (shape[-1], onto[-1], math.prod(onto[:-1]))}
    return {}


def _window(
    node: ir.Node, shape: tuple[int, ...], out: tuple[int, ...], before: tuple[int, int]
) -> dict[str, Parameter]:
    if node.op_type == "Conv":
        kernel = shape_of(node.inputs[1])[2:]
        group = node.attributes.get_int("group", 1)
    else:
        kernel = tuple(node.attributes.get_ints("kernel_shape", (1, 1)))
        group = shape[1]
    padded = node.attributes.get_string("auto_pad", "NOTSET")
    if group not in (1, shape[1]) or padded not in ("NOTSET", "VALID"):
        return {}
    stride = tuple(node.attributes.get_ints("strides", (1, 1)))
    own = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    pads = own[0] + before[0], own[1] + before[1]
    dilation = tuple(node.attributes.get_ints("dilations", (1, 1)))
    sizes = (*shape[2:], *out[2:], shape[1], out[1])
    return {"window": (*sizes, *kernel, *stride, *pads, *dilation, int(group == shape[1]))}


def distance(step: Step, source: Buffer, out: Buffer, width: int) -> int | None:
    """Least address of an input over the output's, for elements of `width` bytes.

    None where the kernel reads in an order that is not known.
    """
    p = step.parameters
    if p.get("in_place"):
        return overlap.elementwise() if source.size == out.size else None
    window, rows = p.get("window"), p.get("rows")
    if isinstance(window, tuple):
        n = [int(v) for v in window]
        shape = overlap.Window(
            (n[0], n[1]),
            (n[2], n[3]),
            n[4],
            n[5],
            (n[6], n[7]),
            (n[8], n[9]),
            (n[10], n[11]),
            (n[12], n[13]),
            depthwise=bool(n[14]),
        )
        return overlap.window(shape, width)
    if isinstance(rows, tuple):
        into, onto, count = (int(v) for v in rows)
        return overlap.rows(into * width, onto * width, count)
    return None


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape.

    Raises:
        UnsupportedError: it is not known.
    """
    shape = value.shape if value is not None else None
    if shape is None or not shape.is_static():
        raise UnsupportedError(
            "EC350",
            "cannot plan the memory of a network whose shapes are not known",
            where=value.name if value is not None else None,
            why="its shape is " + ("unknown" if shape is None else str(shape)),
            fix="give static input shapes with --shape NAME=1,3,224,224",
        )
    return tuple(int(d) for d in shape.numpy())


def elements(value: ir.Value) -> int:
    """Number of elements of a static shape."""
    return math.prod(shape_of(value))
