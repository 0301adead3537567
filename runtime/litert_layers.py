"""Operators that LiteRT timed, in the names of the user's modules.

LiteRT numbers its own kernels by the file's operators. XNNPACK tells kinds and an order, which is
the file's, with operators that it fused or left away missing: the n-th of a kind is the file's n-th
of that kind, provided that there are as many.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from edgec.export.tflite import Model
from edgec.runtime.modules import ModuleNames

_NUMBER = re.compile(r"^\[(?P<outputs>.*)\]:(?P<number>\d+)$")
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^Convolution .*DWConv", ("DEPTHWISE_CONV_2D",)),
    (r"^Deconvolution", ("TRANSPOSE_CONV",)),
    (r"^Convolution", ("CONV_2D",)),
    (r"^(Dynamic )?Fully Connected", ("FULLY_CONNECTED",)),
    (r"^Batch Matrix Multiply", ("BATCH_MATMUL",)),
    (r"^Add\b", ("ADD",)),
    (r"^Multiply\b", ("MUL",)),
    (r"^Subtract\b", ("SUB",)),
    (r"^Sigmoid\b", ("LOGISTIC",)),
    (r"^Softmax\b", ("SOFTMAX",)),
    (r"^(Mean|Reduce Mean|Global Average Pooling)\b", ("MEAN",)),
    (r"^Average Pooling\b", ("AVERAGE_POOL_2D",)),
    (r"^Max Pooling\b", ("MAX_POOL_2D",)),
    (r"^(Resize Bilinear)\b", ("RESIZE_BILINEAR",)),
    (r"^Transpose\b", ("TRANSPOSE",)),
    (r"^HardSwish\b", ("HARD_SWISH",)),
    (r"^Convert\b", ("QUANTIZE", "DEQUANTIZE")),
)
"""XNNPACK's names (src/operators, xnn_operator_type) → the file's operators."""


def file_operators(model: Model, modules: ModuleNames) -> list[tuple[str, str, str | None]]:
    """Code, name of the first output, and module of each operator of the main subgraph."""
    main = model.main
    found = []
    for op in main.operators:
        value = main.tensors[op.outputs[0]].name if op.outputs else ""
        found.append((op.code, value, modules.of(value, op.code)))
    return found


def join_operators(
    rows: Sequence[Mapping[str, Any]], operators: Sequence[tuple[str, str, str | None]]
) -> list[dict[str, Any]]:
    """`rows` with ``module``, the slowest first.

    Args:
        rows: ``name`` (``[outputs]:number`` of LiteRT's kernels, else XNNPACK's), ``operator``,
            ``ms``, in order of execution.
        operators: of the file (`file_operators`).

    Returns:
        The rows; ``module`` is None where it cannot be told, or where there is none.
    """
    numbered: dict[int, int] = {}
    for position, row in enumerate(rows):
        match = _NUMBER.match(row["name"])
        if match is not None and int(match["number"]) < len(operators):
            numbered[position] = int(match["number"])
    taken = set(numbered.values())
    free: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, (code, _, _) in enumerate(operators):
        if number not in taken:
            for kinds in {kinds for _, kinds in _KINDS if code in kinds}:
                free[kinds].append(number)
    kinds_of = {p: _kinds(row["operator"]) for p, row in enumerate(rows) if p not in numbered}
    counts = Counter(kinds_of.values())
    used: Counter[tuple[str, ...]] = Counter()
    joined = []
    for position, row in enumerate(rows):
        index: int | None = numbered.get(position)
        kinds = kinds_of.get(position, ())
        if index is None and kinds and counts[kinds] == len(free[kinds]):
            index = free[kinds][used[kinds]]
            used[kinds] += 1
        known = None if index is None else operators[index]
        joined.append(
            {
                **row,
                "name": row["name"] if known is None else f"{row['operator']} {known[1]}",
                "module": None if known is None else known[2],
            }
        )
    return sorted(joined, key=lambda row: (-row["ms"], row["name"]))


def _kinds(operator: str) -> tuple[str, ...]:
    return next((kinds for pattern, kinds in _KINDS if re.search(pattern, operator)), ())
