"""Writes ``delegates/xnnpack-litert-VERSION.toml`` from the installed ai-edge-litert.

Usage, with ``ai-edge-litert`` installed::

    PYTHONPATH=.src python targets/operators/make_xnnpack.py

The interpreter is handed models of one operator each, with its default delegate, and says whether
the delegate took the operator. Each property of a call (rank, constant or computed operand, fused
activation, reduced axes, scales, …) is varied on its own from a call that the delegate takes; what
is refused becomes a limit of the table.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.emit.tflite.versions import version
from edgec.export.errors import EdgecError
from edgec.export.tflite import Model, decode
from edgec.export.tflite.model import Quantization, Tensor
from edgec.runtime.litert_runner import LiteRTRunner
from edgec.targets.operators import make_tflite as probes

LICENCE = "Apache-2.0"
TYPES = ("float", "int8", "uint8", "int16")
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
REDUCING = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
HALVES = ("DEQUANTIZE",)
ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH")
RANKS = range(1, 9)
EXPONENTS = range(-20, 21)
AXES = [a for n in (1, 2, 3) for a in itertools.combinations(range(4), n)]


def taken(model: Model) -> bool:
    """Whether the default delegate takes the one operator; False if the model does not load.

    Asked in a child process, because some kernels abort on what they do not take.
    """
    return _asked(lambda: LiteRTRunner(model).partitions() == [[0]])


def _asked(question: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if question() else 1)
        except EdgecError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def call(name: str, dtype: str, rank: int | None = None) -> Model:
    """The probe of an operator, with the version that its types need."""
    model = decode(probes.model(name, 1, dtype, rank))
    _renumber(model)
    return model


def _renumber(model: Model) -> None:
    operator = model.main.operators[0]
    operator.version = version(operator, model.main.tensors)


def changed(model: Model, change: Callable[[Model], None]) -> Model:
    """A changed copy."""
    other = copy.deepcopy(model)
    change(other)
    _renumber(other)
    return other


def operand(model: Model, position: int) -> Tensor:
    """An input of the one operator."""
    return model.main.tensors[model.main.operators[0].inputs[position]]


def bases() -> Iterator[tuple[str, str, Model]]:
    """(operator, form, call) of everything that the delegate takes in some form."""
    for name in probes.PROBES:
        for dtype in TYPES:
            for change in (_plain, _constant, _keeping):
                model = changed(call(name, dtype), change)
                if taken(model):
                    yield name, dtype, model
                    break
        if name in WEIGHTED:
            model = changed(call(name, "float"), _integer_weights)
            if taken(model):
                yield name, "int8 weights", model
    for name in HALVES:
        model = changed(call(name, "float16"), _constant_first)
        if taken(model):
            yield name, "float16", model


def _plain(model: Model) -> None:
    pass


def _constant(model: Model) -> None:
    operator = model.main.operators[0]
    if len(operator.inputs) > 1 and operand(model, 1).data is None:
        tensor = operand(model, 1)
        tensor.data = np.ones(tensor.shape, tensor.numpy_dtype)
        model.main.inputs.remove(operator.inputs[1])


def _constant_first(model: Model) -> None:
    operator = model.main.operators[0]
    tensor = operand(model, 0)
    tensor.data = np.ones(tensor.shape, tensor.numpy_dtype)
    model.main.inputs.remove(operator.inputs[0])


def _computed(model: Model) -> None:
    operator = model.main.operators[0]
    if len(operator.inputs) > 1 and operand(model, 1).data is not None:
        operand(model, 1).data = None
        model.main.inputs.append(operator.inputs[1])


def _keeping(model: Model) -> None:
    operator = model.main.operators[0]
    if operator.code in REDUCING:
        _reduce(model, (1, 2), True)


def _integer_weights(model: Model) -> None:
    tensor = operand(model, 1)
    axis = 3 if model.main.operators[0].code == "DEPTHWISE_CONV_2D" else 0
    count = tensor.shape[axis]
    tensor.dtype, tensor.data = "INT8", np.ones(tensor.shape, np.int8)
    tensor.quantization = Quantization(
        np.full(count, 0.1, np.float32), np.zeros(count, np.int64), axis
    )


def _reduce(model: Model, axes: tuple[int, ...], keep: bool) -> None:
    operator = model.main.operators[0]
    operator.options["keep_dims"] = keep
    tensor = operand(model, 1)
    tensor.shape, tensor.data = (len(axes),), np.asarray(axes, np.int32)
    shape = operand(model, 0).shape
    result = model.main.tensors[operator.outputs[0]]
    result.shape = tuple(
        1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes
    )


def limits(name: str, form: str, base: Model) -> dict[str, Any]:
    """What restricts the calls of one form; empty where nothing that was tried does."""
    found: dict[str, Any] = {}
    probe = probes.PROBES[name]
    if form in TYPES and probe.ranked:
        _restrict(found, "ranks", RANKS, lambda r: _ranked(name, form, r, base))
    operator = base.main.operators[0]
    if len(operator.inputs) > 1 and (probe.inputs[1].dtype in (None, "weight")):
        states = {"constant": _constant, "computed": _computed}
        _restrict(found, "operand", states, lambda s: changed(base, states[s]))
    if "fused_activation_function" in operator.options:
        _restrict(found, "activations", ACTIVATIONS, lambda a: _with(base, activation=a))
    if name in REDUCING:
        calls = {f"{list(a)}": a for a in AXES}
        _restrict(found, "axes", calls, lambda a: _reduced(base, calls[a]))
        _restrict(found, "keep_dims", (True, False), lambda k: _reduced(base, (1, 2), k))
    if name == "STRIDED_SLICE" and not taken(changed(base, _by_twos)):
        found["unit_strides"] = True
    if name == "TRANSPOSE_CONV" and not taken(changed(base, _gapped)):
        found["covered"] = True
    if name == "CONCATENATION":
        counts = [n for n in range(2, 33) if taken(changed(base, lambda m, n=n: _joined(m, n)))]  # type: ignore[misc]
        if max(counts) < 32:
            found["most_inputs"] = max(counts)
    if form in ("int8", "uint8"):
        found |= _grids(base)
    if "beta" in operator.options:
        _restrict(found, "beta", (1.0, 2.0), lambda b: _with(base, beta=b))
    return found


def _gapped(model: Model) -> None:
    """Stride 4 with a kernel of 3 and SAME padding: outputs that no input reaches."""
    operator = model.main.operators[0]
    operator.options |= {"padding": "SAME", "stride_w": 4, "stride_h": 4}
    shape = (1, 16, 16, 3)
    operand(model, 0).data = np.array(shape, np.int32)
    model.main.tensors[operator.outputs[0]].shape = shape


def _joined(model: Model, count: int) -> None:
    """The first operand, so many times."""
    operator = model.main.operators[0]
    operator.inputs = operator.inputs[:1] * count
    shape = list(operand(model, 0).shape)
    shape[operator.options["axis"]] *= count
    model.main.tensors[operator.outputs[0]].shape = tuple(shape)


def _by_twos(model: Model) -> None:
    """Take every other element of the last dimension."""
    operand(model, 3).data = np.array([1, 1, 1, 2], np.int32)
    result = model.main.tensors[model.main.operators[0].outputs[0]]
    result.shape = (*result.shape[:-1], result.shape[-1] // 2)


def _restrict(
    found: dict[str, Any], key: str, values: Iterable[Any], make: Callable[[Any], Model | None]
) -> None:
    """Note the values taken, unless it is all of them or none could be tried."""
    said = {}
    for value in values:
        model = make(value)
        if model is not None:
            said[value] = taken(model)
    if said and not all(said.values()):
        found[key] = [value for value, yes in said.items() if yes]


def _ranked(name: str, form: str, rank: int, base: Model) -> Model | None:
    """The probe at a rank, with a constant operand if only that is taken; None: LiteRT itself
    refuses it."""
    model = call(name, form, rank)
    if name in WEIGHTED or (name in ("PRELU",)):
        return None
    constant = len(base.main.operators[0].inputs) > 1 and operand(base, 1).data is not None
    model = changed(model, _constant if constant else _plain)
    loads = _asked(lambda: LiteRTRunner(model, kernels="builtin") is not None)
    return model if loads else None


def _reduced(base: Model, axes: tuple[int, ...], keep: bool = True) -> Model:
    return changed(base, lambda model: _reduce(model, axes, keep))


def _with(base: Model, activation: str | None = None, beta: float | None = None) -> Model:
    def change(model: Model) -> None:
        options = model.main.operators[0].options
        if activation is not None:
            options["fused_activation_function"] = activation
        if beta is not None:
            options["beta"] = beta

    return changed(base, change)


def _grids(base: Model) -> dict[str, Any]:
    """Bounds on scales and zero points.

    ``ratio``: input over output scale, of every quantized operand; ``product``: the product of two
    input scales over the output's. Both as [lowest, first refused one above] powers of two.
    ``same_grid``: input and output have one grid. ``symmetric``: the operand whose zero point is 0.
    """
    found: dict[str, Any] = {}
    operator = base.main.operators[0]
    quantized = [i for i in range(len(operator.inputs)) if _scaled(operand(base, i))]
    output = base.main.tensors[operator.outputs[0]]
    if not quantized or not _scaled(output) or operator.code in probes.GRIDS:
        return found

    def scaled(exponent: int, both: bool) -> Model:
        def change(model: Model) -> None:
            chosen = quantized if both else quantized[:1]
            for i in chosen:
                _set(operand(model, i), scale=2.0**exponent if i == chosen[0] else 1.0)
            _set(model.main.tensors[operator.outputs[0]], scale=1.0)
            if operator.code in WEIGHTED:
                _set(operand(model, 2), scale=2.0**exponent)

        return changed(base, change)

    exponents = [e for e in EXPONENTS if taken(scaled(e, True))]
    whole = [min(exponents), max(exponents) + 1] if exponents else []
    if whole == [0, 1]:
        return {"same_grid": True}
    if whole and (whole[0] > min(EXPONENTS) or whole[1] <= max(EXPONENTS)):
        product = operator.code in ("MUL", "BATCH_MATMUL", *WEIGHTED)
        found["product" if product else "ratio"] = whole
    for i in quantized[1:2]:
        shifted = changed(base, lambda model, i=i: _set(operand(model, i), zero=3))  # type: ignore[misc]
        if operator.code not in WEIGHTED and not taken(shifted):
            found["symmetric"] = i
    return found


def _scaled(tensor: Tensor) -> bool:
    return tensor.quantization is not None and tensor.dtype in ("INT8", "UINT8")


def _set(tensor: Tensor, *, scale: float | None = None, zero: int | None = None) -> None:
    grid = tensor.quantization
    assert grid is not None
    tensor.quantization = Quantization(
        grid.scale if scale is None else np.full_like(grid.scale, scale),
        grid.zero_point if zero is None else np.full_like(grid.zero_point, zero),
        grid.axis,
    )


def main() -> None:
    """Write the table."""
    full = metadata.version("ai-edge-litert")
    short = ".".join(full.split(".")[:2])
    lines = [
        "# Generated by make_xnnpack.py; do not edit.",
        'delegate = "xnnpack"',
        'title = "XNNPACK"',
        f'version = "{short}"',
        f'source = "ai-edge-litert {full} ({LICENCE}), one operator at a time with the default '
        'delegate"',
        "",
        "[operators]",
    ]
    forms: dict[str, dict[str, dict[str, Any]]] = {}
    for name, form, base in bases():
        forms.setdefault(name, {})[form] = limits(name, form, base)
        print(name, form, forms[name][form], flush=True)
    for name in sorted(forms):
        inner = ", ".join(f'"{form}" = {_inline(row)}' for form, row in forms[name].items())
        lines.append(f"{name} = {{ {inner} }}")
    folder = Path(__file__).parent / "delegates"
    folder.mkdir(exist_ok=True)
    (folder / f"xnnpack-litert-{short}.toml").write_text("\n".join(lines) + "\n", "utf-8")


def _inline(row: dict[str, Any]) -> str:
    if not row:
        return "{}"
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in row.items()) + " }"


if __name__ == "__main__":
    main()
