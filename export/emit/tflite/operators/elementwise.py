"""Operators on single elements: unary builtins, arithmetic with broadcasting, comparisons."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node
from edgec.export.tflite.schema import tensor_type

UNARY = {
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "HardSwish": "HARD_SWISH",
    "Elu": "ELU",
    "Exp": "EXP",
    "Log": "LOG",
    "Sqrt": "SQRT",
    "Rsqrt": "RSQRT",
    "Abs": "ABS",
    "Neg": "NEG",
    "Sin": "SIN",
    "Cos": "COS",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Round": "ROUND",
    "Sign": "SIGN",
    "Not": "LOGICAL_NOT",
}
"""Operators that one builtin computes, without options."""

ARITHMETIC = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}
PLAIN_PAIRS = {
    "Max": "MAXIMUM",
    "Min": "MINIMUM",
    "Pow": "POW",
    "Equal": "EQUAL",
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
    "And": "LOGICAL_AND",
    "Or": "LOGICAL_OR",
}


def emit_unary(emitter: Emitter, node: Node) -> None:
    """One of `UNARY`."""
    emitter.op(UNARY[node.op], [emitter.input(0)], emitter.output())


def emit_arithmetic(emitter: Emitter, node: Node) -> None:
    """Add, Sub, Mul, Div with a fused activation."""
    # on int16 additions take scales that are no powers of two only if they are told so
    wide = node.op in ("Add", "Sub") and node.outputs[0].dtype == np.int16
    emitter.op(
        ARITHMETIC[node.op],
        [emitter.input(0), emitter.input(1)],
        emitter.output(),
        fused_activation_function=node.activation,
        **({"pot_scale_int16": False} if wide else {}),
    )


def emit_pair(emitter: Emitter, node: Node) -> None:
    """One of `PLAIN_PAIRS`."""
    emitter.op(PLAIN_PAIRS[node.op], [emitter.input(0), emitter.input(1)], emitter.output())


def elu_obstacle(node: Node) -> str:
    """ELU has no factor."""
    return "" if float(node.attrs.get("alpha", 1.0)) == 1.0 else "its alpha is not one"


def emit_leaky_relu(emitter: Emitter, node: Node) -> None:
    """LeakyRelu."""
    alpha = float(node.attrs.get("alpha", 0.01))
    emitter.op("LEAKY_RELU", [emitter.input(0)], emitter.output(), alpha=alpha)


def emit_gelu(emitter: Emitter, node: Node) -> None:
    """Gelu, exact or by tanh."""
    approximate = str(node.attrs.get("approximate", "none")) == "tanh"
    emitter.op("GELU", [emitter.input(0)], emitter.output(), approximate=approximate)


def emit_prelu(emitter: Emitter, node: Node) -> None:
    """PRelu: the slope broadcasts without the batch axis."""
    slope = emitter.input(1)
    emitter.op("PRELU", [emitter.input(0), slope], emitter.output())


def emit_clip(emitter: Emitter, node: Node) -> None:
    """Clip: a builtin activation if there is one with these limits, else MAXIMUM and MINIMUM."""
    low, high = limits(node)
    builtin = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
    code = builtin.get((low, high))
    source = emitter.input(0)
    if code is not None:
        emitter.op(code, [source], emitter.output())
        return
    steps = [("MAXIMUM", max(low, float(np.finfo(np.float32).min)))]
    if np.isfinite(high):
        steps = [*(steps if np.isfinite(low) else []), ("MINIMUM", high)]
    for number, (name, bound) in enumerate(steps, 1):
        last = number == len(steps)
        target = emitter.output() if last else emitter.temporary("clipped", emitter.shape(source))
        least = emitter.number(bound, "bound", len(emitter.shape(source)))
        source = emitter.op(name, [source, least], target)


def limits(node: Node) -> tuple[float, float]:
    """Lower and upper limit of a Clip."""
    low, high = node.attrs.get("min"), node.attrs.get("max")
    return (
        -np.inf if low is None else float(np.ravel(low)[0]),
        np.inf if high is None else float(np.ravel(high)[0]),
    )


def emit_hard_sigmoid(emitter: Emitter, node: Node) -> None:
    """HardSigmoid: min(max(αx + β, 0), 1); with α = 1/6, β = 1/2 it is relu6(x + 3) / 6."""
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    source, shape = emitter.input(0), emitter.shape(emitter.input(0))
    # relu6(x + b) · a has the limits 0 and 1 for b = β/α only if 6a = 1
    if np.isclose(alpha * 6, 1.0, rtol=1e-6):
        inner = emitter.op(
            "ADD",
            [source, emitter.number(beta / alpha, "offset", len(shape))],
            emitter.temporary("shifted", shape),
            fused_activation_function="RELU6",
        )
        slope = emitter.number(alpha, "slope", len(shape))
        emitter.op("MUL", [inner, slope], emitter.output())
        return
    scaled = emitter.op(
        "MUL",
        [source, emitter.number(alpha, "slope", len(shape))],
        emitter.temporary("scaled", shape),
    )
    shifted = emitter.op(
        "ADD",
        [scaled, emitter.number(beta, "offset", len(shape))],
        emitter.temporary("shifted", shape),
        fused_activation_function="RELU",
    )
    most = emitter.number(1.0, "bound", len(shape))
    emitter.op("MINIMUM", [shifted, most], emitter.output())


def emit_softplus(emitter: Emitter, node: Node) -> None:
    """Softplus: max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    source = emitter.input(0)
    shape = emitter.shape(source)

    def step(code: str, *inputs: int) -> int:
        return emitter.op(code, inputs, emitter.temporary(code.lower(), shape))

    tail = step("EXP", step("NEG", step("ABS", source)))
    tail = step("LOG", step("ADD", tail, emitter.number(1.0, "one", len(shape))))
    emitter.op("ADD", [step("RELU", source), tail], emitter.output())


def emit_reciprocal(emitter: Emitter, node: Node) -> None:
    """Reciprocal."""
    source = emitter.input(0)
    one = emitter.number(1.0, "one", len(emitter.shape(source)))
    emitter.op("DIV", [one, source], emitter.output())


def emit_pow(emitter: Emitter, node: Node) -> None:
    """Pow: squares and roots by their own operators, which delegates know."""
    exponent = node.inputs[1]
    value = None
    if exponent is not None and exponent.const is not None and exponent.elements == 1:
        value = float(exponent.const.reshape(()))
    source = emitter.input(0)
    if value == 2.0:
        emitter.op("MUL", [source, source], emitter.output())
    elif value == 0.5:
        emitter.op("SQRT", [source], emitter.output())
    else:
        emit_pair(emitter, node)


def emit_where(emitter: Emitter, node: Node) -> None:
    """Where."""
    emitter.op("SELECT_V2", [emitter.input(i) for i in range(3)], emitter.output())


def emit_cast(emitter: Emitter, node: Node) -> None:
    """Cast."""
    source, result = emitter.input(0), emitter.output()
    tensors = emitter.subgraph.tensors
    emitter.op(
        "CAST",
        [source],
        result,
        in_data_type=tensors[source].dtype,
        out_data_type=tensor_type(node.outputs[0].dtype),
    )


def emit_quantize(emitter: Emitter, node: Node) -> None:
    """Float or integers to integers on a grid."""
    emitter.op("QUANTIZE", [emitter.input(0)], emitter.output())


def emit_dequantize(emitter: Emitter, node: Node) -> None:
    """Integers to floats."""
    emitter.op("DEQUANTIZE", [emitter.input(0)], emitter.output())
