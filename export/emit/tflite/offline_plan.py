"""Offsets in the arena that tflite-micro takes from the file instead of planning for itself.

The metadata entry ``OfflineMemoryAllocation`` (tflite-micro, "Memory Management") holds 32-bit
integers: the version 1, the subgraph, the number of offsets, and the offset of each tensor in
bytes, or -1 where the interpreter decides (constants). Inputs and outputs of an operator share no
bytes: the interpreter's kernels do not promise to allow it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgec.export.tflite.model import ABSENT, Model
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.program import Buffer, Kind, Program, Step

METADATA: Final = "OfflineMemoryAllocation"
ALIGNMENT: Final = 16
"""Of buffers in tflite-micro's arena, in bytes."""
TIME_LIMIT: Final = 5.0
"""Seconds for the search of a plan; networks need far less."""


def offline_allocation(model: Model) -> bytes | None:
    """The entry for the main subgraph of `model`; None for one that cannot be planned ahead.

    Not planned are networks with variables, whose content outlives an inference.
    """
    main = model.main
    if len(model.subgraphs) > 1 or any(tensor.is_variable for tensor in main.tensors):
        return None
    computed = {i for i, tensor in enumerate(main.tensors) if tensor.data is None}
    used = set(main.inputs) | set(main.outputs)
    for op in main.operators:
        used |= {index for index in (*op.inputs, *op.outputs) if index != ABSENT}
    buffers = []
    for index in sorted(computed & used):
        tensor = main.tensors[index]
        kind: Kind = (
            "input" if index in main.inputs else "output" if index in main.outputs else "activation"
        )
        size = tensor.elements * tensor.numpy_dtype.itemsize
        buffers.append(Buffer(str(index), max(size, 1), ALIGNMENT, kind, module=tensor.name))
    steps = [
        Step(
            op.code,
            tuple(str(i) for i in dict.fromkeys(op.inputs) if i in computed),
            tuple(str(i) for i in op.outputs if i != ABSENT),
        )
        for op in main.operators
    ]
    planned = plan(
        Program("tflite-micro", tuple(buffers), tuple(steps)), overlaps=False, time_limit=TIME_LIMIT
    )
    offsets = [
        planned.offset(str(index))[1] if index in computed & used else -1
        for index in range(len(main.tensors))
    ]
    return np.array([1, 0, len(offsets), *offsets], "<i4").tobytes()
