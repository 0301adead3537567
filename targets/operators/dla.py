"""Reads the tables of NVIDIA's DLA: which ONNX operators run there, within which limits.

The Deep Learning Accelerator is a fixed-function core beside the GPU of a Jetson Xavier or Orin. It
takes what its tables list, in float16 or int8; TensorRT runs the rest on the GPU, if it may fall
back. The TOML files in ``dla/`` cite the documents that their facts were read from.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

Range = tuple[int, int]
"""Smallest and largest allowed value."""


@dataclass(frozen=True)
class DlaLimits:
    """Calls of an operator that the DLA takes; a limit of None does not exist.

    Attributes:
        layer: TensorRT layer that the limits are documented under.
        rank: of the first input.
        constant: inputs that have to be constants.
        kernel, padding, stride, dilation: ranges of each spatial dimension.
        padding_below_kernel: each padding is smaller than the kernel's dimension.
        groups, inputs, outputs: ranges of the groups and of the channels read and written.
        dimension: range of each dimension but the batch.
        clip: range of the upper bound of a Clip, whose lower one is 0.
        sizes: of an LRN.
        axes: dimensions that a Concat, Softmax, Slice, Split or reduction may work along.
        least_inputs: of a Concat.
        scales: mode of a Resize → range of its whole factors along the spatial dimensions.
        keeps_batch: Reshape and Transpose leave the first dimension of four alone.
        softmax: length of the axis, where other dimensions than the batch are larger than 1.
        broadcast: an operand may be smaller than the other one only as NC11 or N111.
    """

    layer: str
    rank: int
    constant: tuple[int, ...] = ()
    kernel: Range | None = None
    padding: Range | None = None
    stride: Range | None = None
    dilation: Range | None = None
    padding_below_kernel: bool = False
    groups: Range | None = None
    inputs: Range | None = None
    outputs: Range | None = None
    dimension: Range | None = None
    clip: Range | None = None
    sizes: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    least_inputs: int = 1
    scales: dict[str, Range] = field(default_factory=dict)
    keeps_batch: bool = False
    softmax: int | None = None
    broadcast: bool = False


@dataclass(frozen=True)
class DlaTable:
    """What one generation of the DLA takes under some versions of TensorRT.

    Attributes:
        title: for messages.
        gpu_sm: compute capability of the GPU on the same chip.
        since, until: first and last TensorRT version that it holds for.
        source: documents and their versions.
        max_batch: product of all dimensions in front of channels, rows and columns.
        max_dimension: of all other dimensions of all operators; None where none is documented.
        convolution_banks: of the cache that weights and data of a convolution share.
        loadables: parts of networks that a core holds at a time.
        operators: ONNX operator → limits.
        left: operator → why it stays on the GPU, where there is more to say than that it does.
    """

    title: str
    gpu_sm: int
    since: str
    until: str
    source: str
    max_batch: int
    max_dimension: int | None
    convolution_banks: int
    loadables: int
    operators: dict[str, DlaLimits]
    left: dict[str, str]


def dla_table(gpu_sm: int, tensorrt: str) -> DlaTable | None:
    """The table for a chip and TensorRT version; None where that version drives no DLA there."""
    version = _key(tensorrt)
    for table in dla_tables():
        if table.gpu_sm == gpu_sm and _key(table.since) <= version <= _key(table.until):
            return table
    return None


@cache
def dla_tables() -> tuple[DlaTable, ...]:
    """All tables, by chip and version."""
    folder = resources.files("edgec.targets").joinpath("operators", "dla")
    found = [
        parse_dla(tomllib.loads(file.read_text("utf-8")))
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    ]
    return tuple(sorted(found, key=lambda table: (table.gpu_sm, _key(table.since))))


def parse_dla(data: dict[str, Any]) -> DlaTable:
    """Build a table from parsed TOML.

    Raises:
        KeyError, TypeError: a field is missing or unknown.
    """
    rows: dict[str, dict[str, Any]] = data.pop("operators")
    return DlaTable(
        **{"max_dimension": None, **data},
        operators={name: DlaLimits(**_tuples(row)) for name, row in rows.items()},
    )


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found[key] = _tuples(value)
        else:
            found[key] = tuple(value) if isinstance(value, list) else value
    return found


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
