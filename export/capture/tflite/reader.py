"""A .tflite file as a graph at the master opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgec.export.capture import OPSET
from edgec.export.capture.onnx_checks import check_values
from edgec.export.capture.tflite.context import (
    TO_FIRST,
    TO_LAST,
    Context,
    Entry,
    Form,
    is_quantized,
    scales,
)
from edgec.export.capture.tflite.elementwise import onnx_type
from edgec.export.capture.tflite.operators import KEEPING, ONE_SCALE, OPERATORS, SPATIAL
from edgec.export.errors import InputError, UnsupportedError
from edgec.export.rewrite.graph import shape_of
from edgec.export.rewrite.legalise.opset import WIDE_MASTER
from edgec.export.rewrite.stages import tidy
from edgec.export.tflite import ABSENT, Model, Operator, load
from edgec.export.tflite.check import check
from edgec.export.tflite.marks import mark, own_entry
from edgec.export.tflite.names import input_names, output_names

MAX_ELEMENTS = 1 << 31


def from_tflite(
    source: str | Path | Model,
    *,
    where: str | None = None,
    integers: bool = False,
    channels_first: bool = True,
) -> ir.Model:
    """Read a .tflite file into the master graph.

    Quantized tensors become real numbers behind QuantizeLinear and DequantizeLinear with the scale
    and zero point of the file, so that every back end sees what the file computes. Weights of a
    file that quantizes activations at run time ("dynamic range") are dequantized; the activations
    stay float.

    Args:
        source: path or decoded file.
        where: name of a decoded file, for messages.
        integers: inputs and outputs that are quantized in the file hold its integers; otherwise
            they are float32.
        channels_first: images that spatial operators read are NCHW inputs, and outputs that
            spatial operators compute NCHW outputs; otherwise both are NHWC as in the file.

    Returns:
        The graph at opset 20 (21 with 16-bit activations), static shapes, the module path in the
        names of the file and the operator's position on every node.

    Raises:
        InputError: the file is broken (`edgec.export.tflite.load`), or its operators contradict
            themselves (EC709).
        UnsupportedError: operators, or forms of them, that are not translated (EC304, EC305).
    """
    if isinstance(source, Model):
        model, name = source, where or "model"
        check(model, where)
    else:
        model, name = load(Path(source)), str(source)
    _check_operators(model, name)
    ctx = Context(
        model, name, marked=channels_first and not integers and own_entry(model) is not None
    )
    ctx.position = -1
    inputs = _inputs(ctx, integers=integers, channels_first=channels_first)
    for position, operator in enumerate(model.main.operators):
        ctx.position, ctx.operator = position, operator
        _check_scales(ctx, operator)
        try:
            OPERATORS[operator.code](ctx, operator)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise InputError(
                "EC709",
                "the operator's inputs, outputs and options do not fit together",
                where=ctx.place,
                why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from error
    ctx.operator, ctx.position = None, len(model.main.operators)
    outputs = _outputs(ctx, integers=integers, channels_first=channels_first)
    wide = any(t.dtype == "INT16" and is_quantized(t) for t in model.main.tensors)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=ctx.nodes,
        initializers=tuple(ctx.initializers.values()),
        opset_imports={"": WIDE_MASTER if wide else OPSET},
        name=model.main.name or "main",
    )
    found = ir.Model(graph, ir_version=10, producer_name="edgec")
    _finish(found, ctx)
    return found


def _check_operators(model: Model, where: str) -> None:
    unknown: dict[str, int] = {}
    for operator in model.main.operators:
        if operator.code not in OPERATORS:
            name = operator.custom_code or "CUSTOM" if operator.code == "CUSTOM" else operator.code
            unknown[name] = unknown.get(name, 0) + 1
        if not operator.outputs:
            raise InputError("EC709", f"{operator.code} has no output", where=where)
    if unknown:
        raise UnsupportedError(
            "EC304",
            f"operators that edgec does not read: {', '.join(unknown)}",
            where=where,
            why=f"{sum(unknown.values())} of {len(model.main.operators)} operators",
            fix="give the network itself (torch, ONNX), or convert it without these operators",
        )
    for tensor in model.main.tensors:
        if tensor.elements > MAX_ELEMENTS:
            raise UnsupportedError(
                "EC305",
                f"the tensor {tensor.name[:80]!r} has {tensor.elements:,} elements",
                where=where,
            )


def _check_scales(ctx: Context, operator: Operator) -> None:
    if operator.code not in ONE_SCALE:
        return
    tensors = [ctx.tensor(i) for i in (*operator.inputs, *operator.outputs) if i != ABSENT]
    found = [scales(t) for t in tensors if is_quantized(t) and not scales(t).per_channel]
    for other in found[1:]:
        if not np.isclose(found[0].scale[0], other.scale[0], rtol=1e-5, atol=0) or (
            found[0].zero_point[0] != other.zero_point[0]
        ):
            raise ctx.unsupported("inputs and outputs have different scales, which kernels ignore")


def _inputs(ctx: Context, *, integers: bool, channels_first: bool) -> list[ir.Value]:
    found = []
    images = _images(ctx) if channels_first else set()
    ctx.reserve(output_names(ctx.model))
    for name, index in zip(input_names(ctx.model), ctx.model.main.inputs, strict=True):
        tensor = ctx.tensor(index)
        if tensor.data is not None or index in ctx.entries:
            raise InputError("EC709", f"the input {name!r} is no input", where=ctx.where)
        first = index in images
        shape = [tensor.shape[p] for p in TO_FIRST] if first else list(tensor.shape)
        quantized = is_quantized(tensor)
        dtype = onnx_type(ctx, tensor.dtype)
        if quantized and not integers:
            dtype = ir.DataType.FLOAT
        value = ir.Value(name=ctx.name(name), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        found.append(value)
        if quantized and integers:
            form = ctx.dequantized(value, tensor)
            ctx.call(form.real, f"{name}_real")
            ctx.entries[index] = Entry(first=form) if first else Entry(last=form)
        elif quantized:
            ctx.write(index, value, first=first)
        else:
            ctx.entries[index] = Entry(first=Form(value)) if first else Entry(last=Form(value))
        order = TO_LAST if first else range(len(shape))
        if ctx.marked:
            mark(value, tensor.name or name, order)
    return found


def _images(ctx: Context) -> set[int]:
    """Inputs that a spatial operator reads, at most behind operators that keep the layout.

    In files of our own they are all that have four axes.
    """
    model = ctx.model
    if ctx.marked:
        return {i for i in model.main.inputs if len(ctx.shape(i)) == 4}
    source = {index: index for index in model.main.inputs}
    found = set()
    for operator in model.main.operators:
        place = 2 if operator.code == "TRANSPOSE_CONV" else 0  # behind its shape and weights
        begin = source.get(operator.inputs[place]) if len(operator.inputs) > place else None
        if begin is None or len(model.main.tensors[begin].shape) != 4:
            continue
        if operator.code in SPATIAL or operator.code == "TRANSPOSE_CONV":
            found.add(begin)
        elif operator.code in KEEPING:
            source[operator.outputs[0]] = begin
    return found


def _outputs(ctx: Context, *, integers: bool, channels_first: bool) -> list[ir.Value]:
    found: list[ir.Value] = []
    taken: set[ir.Value] = set()
    for name, index in zip(output_names(ctx.model), ctx.model.main.outputs, strict=True):
        first = channels_first and (ctx.first(index) or (ctx.marked and len(ctx.shape(index)) == 4))
        form = ctx.form(index, first=first)
        value = form.stored if integers and form.stored is not None else form.real
        stored = value is form.stored
        if value.producer() is None or value in taken:
            value = ctx.emit("Identity", [value])
        value.name = name
        taken.add(value)
        tensor = ctx.tensor(index)
        real = is_quantized(tensor) and not stored
        value.type = ir.TensorType(ir.DataType.FLOAT if real else onnx_type(ctx, tensor.dtype))
        value.shape = ir.Shape([tensor.shape[p] for p in TO_FIRST] if first else tensor.shape)
        found.append(value)
    return found


def _finish(model: ir.Model, ctx: Context) -> None:
    """Infer all shapes, and check them against the file's.

    Raises:
        InputError: the graph contradicts itself or the file (EC709).
    """
    path = Path(ctx.where)
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        raise InputError(
            "EC709",
            "the operators of the TFLite file contradict each other",
            where=ctx.where,
            why=next((line for line in str(error).splitlines() if line.strip()), None),
        ) from error
    forms: list[tuple[ir.Value, tuple[int, ...], str]] = []
    for index, entry in ctx.entries.items():
        tensor = ctx.tensor(index)
        if entry.last is not None:
            forms.append((entry.last.real, tensor.shape, tensor.name))
        if entry.first is not None:
            shape = tuple(tensor.shape[p] for p in TO_FIRST)
            forms.append((entry.first.real, shape, tensor.name))
    tidy(model)
    for value, shape, tensor_name in forms:
        inferred = shape_of(value)
        if value.graph is not None and inferred != shape:
            raise InputError(
                "EC709",
                f"the tensor {tensor_name[:80]!r} has the shape {list(shape)} in the file",
                where=ctx.where,
                why=f"its operator computes {list(inferred) if inferred else 'another one'}",
            )
    check_values(model, path)
