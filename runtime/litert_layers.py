"""Operators that LiteRT timed: which of the file's they are, in the names of the user's modules.

LiteRT numbers its own kernels by the file's operators. XNNPACK tells kinds and an order, which is
the file's, but fuses operators, leaves some away, and computes 1x1 convolutions as fully connected
layers. Convolutions and products of matrices it does one by one: where their sequence is that of
the file, they are known, and what lies between two of them is looked for there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgec.export.tflite import Model
from edgec.runtime.modules import ModuleNames

FileOperator = tuple[str, str, str | None]
"""Code, name of the first output, module."""

_NUMBER = re.compile(r"^\[(?P<outputs>.*)\]:(?P<number>\d+)$")
_PRODUCTS: tuple[tuple[str, frozenset[str]], ...] = (
    (r"^Convolution .*DWConv", frozenset({"DEPTHWISE_CONV_2D"})),
    (r"^Deconvolution", frozenset({"TRANSPOSE_CONV"})),
    (r"^Convolution", frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})),
    (r"^(Dynamic )?Fully Connected", frozenset({"FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL"})),
    (r"^Batch Matrix Multiply", frozenset({"BATCH_MATMUL", "FULLY_CONNECTED"})),
)
_OTHERS: tuple[tuple[str, frozenset[str]], ...] = (
    (r"^Add\b", frozenset({"ADD"})),
    (r"^Multiply\b", frozenset({"MUL"})),
    (r"^Subtract\b", frozenset({"SUB"})),
    (r"^Sigmoid\b", frozenset({"LOGISTIC"})),
    (r"^Soft[mM]ax\b", frozenset({"SOFTMAX"})),
    (r"^(Mean|Reduce|Global Average Pooling)\b", frozenset({"MEAN"})),
    (r"^Average Pooling\b", frozenset({"AVERAGE_POOL_2D"})),
    (r"^Max Pooling\b", frozenset({"MAX_POOL_2D"})),
    (r"^Resize Bilinear\b", frozenset({"RESIZE_BILINEAR"})),
    (r"^Transpose\b", frozenset({"TRANSPOSE"})),
    (r"^Constant Pad\b", frozenset({"PAD"})),
    (r"^Convert\b", frozenset({"QUANTIZE", "DEQUANTIZE"})),
)
"""XNNPACK's names (xnn_operator_type) → the file's operators that they may stand for."""
_MULTIPLY = frozenset().union(*(codes for _, codes in _PRODUCTS))
_COPIES = re.compile(r"^(Copy|Static Reshape)\b")
_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}


def file_operators(model: Model, modules: ModuleNames) -> list[FileOperator]:
    """Code, name of the first output, and module of each operator of the main subgraph."""
    main = model.main
    found = []
    for op in main.operators:
        value = main.tensors[op.outputs[0]].name if op.outputs else ""
        found.append((op.code, value, modules.of(value, op.code)))
    return found


def join_operators(
    rows: Sequence[Mapping[str, Any]], operators: Sequence[FileOperator]
) -> list[dict[str, Any]]:
    """`rows` with ``module``, the slowest first.

    Args:
        rows: ``name`` (``[outputs]:number`` of LiteRT's kernels, else XNNPACK's), ``operator``,
            ``ms``, in order of execution.
        operators: of the file (`file_operators`).

    Returns:
        The rows; ``module`` is None where it cannot be told, or where there is none.
    """
    known, rests = _matched(rows, operators)
    modules: dict[int, str | None] = {}
    for positions, rest in rests:
        found = {operators[n][2] for n in rest}
        if len(found) == 1:
            modules |= dict.fromkeys(positions, next(iter(found)))
    joined = []
    for position, told in enumerate(rows):
        if position in known:
            _, value, module = operators[known[position]]
            joined.append({**told, "name": f"{told['operator']} {value}", "module": module})
        else:
            joined.append({**told, "module": modules.get(position)})
    return sorted(joined, key=lambda row: (-row["ms"], row["name"]))


def operator_times(
    rows: Sequence[Mapping[str, Any]], operators: Sequence[FileOperator], elements: Sequence[int]
) -> list[float] | None:
    """Milliseconds of every operator of the file, as far as they can be told.

    What XNNPACK fused (``LOGISTIC`` and ``MUL`` of a SiLU, say) is divided between the operators
    that it lies among, by their outputs' elements.

    Args:
        rows, operators: as for `join_operators`.
        elements: of each operator's first output.

    Returns:
        None if the rows' products are not those of the file.
    """
    known, rests = _matched(rows, operators)
    products = {n for n, (code, _, _) in enumerate(operators) if code in _MULTIPLY}
    if not products <= set(known.values()):
        return None
    times = [0.0] * len(operators)
    for position, index in known.items():
        times[index] += rows[position]["ms"]
    for positions, rest in rests:
        spent = sum(rows[position]["ms"] for position in positions)
        total = sum(elements[n] for n in rest)
        for n in rest:
            times[n] += spent * elements[n] / total
    return times


def _matched(
    rows: Sequence[Mapping[str, Any]], operators: Sequence[FileOperator]
) -> tuple[dict[int, int], list[tuple[list[int], list[int]]]]:
    """Rows → operators where they are known, and rows with the operators that they lie among."""
    known = _numbered(rows, len(operators))
    known |= _products(rows, operators, known)
    rests = []
    positions = sorted(known)
    indices = [known[position] for position in positions]
    if all(one < other for one, other in pairwise(indices)):
        starts = [(-1, -1), *zip(positions, indices, strict=True)]
        for (row, index), (end, next_index) in pairwise([*starts, (len(rows), len(operators))]):
            gap = range(index + 1, next_index)
            rests.append(_between(rows, range(row + 1, end), operators, gap, known))
    return known, rests


def _numbered(rows: Sequence[Mapping[str, Any]], count: int) -> dict[int, int]:
    """Rows of LiteRT's own kernels → the file's operators."""
    found = {}
    for position, row in enumerate(rows):
        match = _NUMBER.match(row["name"])
        if match is not None and int(match["number"]) < count:
            found[position] = int(match["number"])
    return found


def _products(
    rows: Sequence[Mapping[str, Any]], operators: Sequence[FileOperator], known: Mapping[int, int]
) -> dict[int, int]:
    """XNNPACK's products → the file's, if all of them fit, one by one."""
    taken = set(known.values())
    theirs = [n for n, (code, _, _) in enumerate(operators) if code in _MULTIPLY and n not in taken]
    ours = [
        (n, codes)
        for n, row in enumerate(rows)
        if n not in known and (codes := _codes(row["operator"], _PRODUCTS))
    ]
    fits = len(ours) == len(theirs) and all(
        operators[index][0] in codes for (_, codes), index in zip(ours, theirs, strict=True)
    )
    return {n: index for (n, _), index in zip(ours, theirs, strict=True)} if fits else {}


def _between(
    rows: Sequence[Mapping[str, Any]],
    inside: range,
    operators: Sequence[FileOperator],
    gap: range,
    known: dict[int, int],
) -> tuple[list[int], list[int]]:
    """What lies between two known rows becomes known by its kind, if as many of it are in both.

    Returns:
        The other rows, and the other operators.
    """
    by_kind: dict[frozenset[str], list[int]] = defaultdict(list)
    for position in inside:
        if not _COPIES.match(rows[position]["operator"]):
            by_kind[_codes(rows[position]["operator"], _OTHERS)].append(position)
    # views are no work, and a PAD without a row of its own is in the convolution behind it
    pads = frozenset({"PAD"})
    rest = {n for n in gap if operators[n][0] not in (_VIEWS if pads in by_kind else _VIEWS | pads)}
    for codes, positions in list(by_kind.items()):
        same = sorted(n for n in rest if operators[n][0] in codes)
        if len(same) == len(positions):
            known |= dict(zip(positions, same, strict=True))
            rest -= set(same)
            del by_kind[codes]
    return sorted(n for positions in by_kind.values() for n in positions), sorted(rest)


def _codes(operator: str, table: Sequence[tuple[str, frozenset[str]]]) -> frozenset[str]:
    return next((codes for pattern, codes in table if re.search(pattern, operator)), frozenset())
