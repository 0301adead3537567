"""Consistency of a model: what neither a reader's nor a writer's caller should have to look at."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgec.export.errors import InputError
from edgec.export.tflite.model import ABSENT, Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.schema import CODES, DTYPES, OPAQUE

MAX_RANK = 16
MAX_ELEMENTS = 1 << 40
_INTEGERS = {
    "INT2": (-2, 1),
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    **{
        name: (int(np.iinfo(name.lower()).min), int(np.iinfo(name.lower()).max))
        for name in "INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64".split()
    },
}


def check(model: Model, where: str | None = None) -> None:
    """Check that indices, shapes, constants and quantization of a model fit together.

    Raises:
        InputError: an index refers to nothing (EC704), a constant has the wrong size (EC705),
            quantization parameters cannot be meant (EC706), or operators are not in the order of
            execution (EC707).
    """
    if not model.subgraphs:
        raise InputError("EC704", "the model has no subgraph", where=where)
    for number, subgraph in enumerate(model.subgraphs):
        place = f"{where or 'model'}, subgraph {number}"
        for index, tensor in enumerate(subgraph.tensors):
            _check_tensor(tensor, f"{place}, tensor {index} {tensor.name[:80]!r}")
        _check_indices("input", subgraph.inputs, subgraph, place)
        _check_indices("output", subgraph.outputs, subgraph, place)
        for index, operator in enumerate(subgraph.operators):
            _check_operator(operator, subgraph, f"{place}, operator {index} {operator.code}")
        _check_order(subgraph, place)
    for signature in model.signatures:
        place = f"{where or 'model'}, signature {signature.key[:80]!r}"
        if not 0 <= signature.subgraph < len(model.subgraphs):
            raise InputError("EC704", f"there is no subgraph {signature.subgraph}", where=place)
        subgraph = model.subgraphs[signature.subgraph]
        _check_indices("input", signature.inputs.values(), subgraph, place)
        _check_indices("output", signature.outputs.values(), subgraph, place)


def _check_indices(kind: str, indices: Iterable[int], subgraph: Subgraph, where: str) -> None:
    count = len(subgraph.tensors)
    for index in indices:
        if not 0 <= index < count:
            raise InputError(
                "EC704", f"{kind} {index} is not one of the {count} tensors", where=where
            )


def _check_operator(operator: Operator, subgraph: Subgraph, where: str) -> None:
    if operator.code not in CODES:
        raise InputError("EC703", f"there is no operator {operator.code!r}", where=where)
    present = [i for i in operator.inputs if i != ABSENT]
    _check_indices("input", present, subgraph, where)
    _check_indices("output", operator.outputs, subgraph, where)
    _check_indices(
        "intermediate", [i for i in operator.intermediates if i != ABSENT], subgraph, where
    )


def _check_order(subgraph: Subgraph, where: str) -> None:
    known = {
        i for i, t in enumerate(subgraph.tensors) if t.data is not None or t.is_variable
    } | set(subgraph.inputs)
    written: set[int] = set()
    for index, operator in enumerate(subgraph.operators):
        place = f"{where}, operator {index} {operator.code}"
        for i in operator.inputs:
            # an empty tensor needs no content to be a constant
            if i not in (ABSENT,) and i not in known and subgraph.tensors[i].elements:
                raise InputError("EC707", f"nothing before it computes input {i}", where=place)
        for i in operator.outputs:
            tensor = subgraph.tensors[i]
            if i in written or (i in known and not tensor.is_variable):
                raise InputError(
                    "EC707",
                    f"output {i} is already a constant, an input or another operator's output",
                    where=place,
                )
            written.add(i)
            known.add(i)
    for i in subgraph.outputs:
        if i not in known:
            raise InputError("EC707", f"nothing computes output {i}", where=where)


def _check_tensor(tensor: Tensor, where: str) -> None:
    if len(tensor.shape) > MAX_RANK or any(d < 0 for d in tensor.shape):
        raise InputError("EC705", f"the shape {list(tensor.shape)[:20]} cannot be", where=where)
    if tensor.elements > MAX_ELEMENTS:
        raise InputError("EC705", f"the shape {list(tensor.shape)} is too large", where=where)
    signature = tensor.shape_signature
    if signature is not None and (
        len(signature) != len(tensor.shape)
        or any(s not in (-1, d) for s, d in zip(signature, tensor.shape, strict=True))
    ):
        raise InputError(
            "EC705",
            f"the shape {list(tensor.shape)} is no case of the signature {list(signature)[:20]}",
            where=where,
        )
    data = tensor.data
    if (
        data is not None
        and tensor.dtype not in OPAQUE
        and (data.shape != tensor.shape or data.dtype != DTYPES[tensor.dtype])
    ):
        raise InputError(
            "EC705",
            f"the content is {data.dtype}{list(data.shape)}",
            where=where,
            why=f"the tensor is {tensor.dtype}{list(tensor.shape)}",
        )
    if tensor.quantization is not None:
        _check_quantization(tensor.quantization, tensor, where)


def _check_quantization(quantization: Quantization, tensor: Tensor, where: str) -> None:
    scale, zero, axis = quantization.scale, quantization.zero_point, quantization.axis
    problem = None
    if scale.ndim != 1 or scale.shape != zero.shape or not scale.size:
        problem = f"{scale.size} scales and {zero.size} zero points"
    elif not np.all(np.isfinite(scale)) or np.any(scale < 0):
        problem = "scales that are negative or not numbers"
    elif scale.size > 1 and not 0 <= axis < len(tensor.shape):
        problem = f"one scale per index of axis {axis} of {len(tensor.shape)} axes"
    elif scale.size > 1 and tensor.shape[axis] != scale.size:
        problem = f"{scale.size} scales for an axis of {tensor.shape[axis]}"
    elif tensor.dtype in _INTEGERS:
        low, high = _INTEGERS[tensor.dtype]
        if np.any(zero < low) or np.any(zero > high):
            problem = f"a zero point that {tensor.dtype} cannot hold"
    if problem is not None:
        raise InputError("EC706", f"the quantization has {problem}", where=where)
