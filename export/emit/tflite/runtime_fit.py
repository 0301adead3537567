"""Whether a runtime version executes the operators of a lowered model."""

from __future__ import annotations

from edgec.export.emit.tflite.lower import Lowered
from edgec.export.errors import UnsupportedError
from edgec.export.tflite.model import ABSENT, Operator, Tensor
from edgec.targets.operators.table import OperatorTable

_TYPES = {"FLOAT32": "float", "FLOAT16": "float16"}
_FIRST = {"SPLIT": 1, "TRANSPOSE_CONV": 2, "SELECT_V2": 1}
"""Input whose type names the kernel, where it is not the first one."""


def require_executable(lowered: Lowered, table: OperatorTable) -> None:
    """Refuse operators, versions and types that the runtime of `table` has no kernel for.

    Raises:
        UnsupportedError: EC394, naming the first one and its module.
    """
    main = lowered.model.main
    for operator, module in zip(main.operators, lowered.modules, strict=True):
        why = obstacle(operator, main.tensors, table)
        if why:
            tensor = main.tensors[operator.outputs[0]]
            raise UnsupportedError(
                "EC394",
                f"{table.runtime} {table.version} does not execute {operator.code}",
                where=f"{tensor.name}" + (f" (module {module})" if module else ""),
                why=why,
                fix="choose a target with a newer runtime, or change the module",
            )


def obstacle(operator: Operator, tensors: list[Tensor], table: OperatorTable) -> str:
    """Why the runtime cannot execute `operator`; empty if it can, or the table does not tell."""
    row = table.builtins.get(operator.code)
    if row is None or not row.supported:
        return "it has no such operator"
    newest = [k.until for k in row.kernels if k.until is not None]
    if newest and operator.version > max(newest):
        return f"the file needs version {operator.version} of it, the runtime has {max(newest)}"
    index = operator.inputs[_FIRST.get(operator.code, 0)]
    if index == ABSENT:
        return ""
    dtype = tensors[index].dtype
    name = _TYPES.get(dtype, dtype.lower())
    known = set(row.types).union(*(k.types for k in row.kernels))
    if known and name not in known:
        return f"it has no kernel for {dtype}"
    return ""
