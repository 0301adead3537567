"""A TFLite model as plain data: what the file says, without offsets and index tables.

One tensor list per subgraph; operators refer to tensors by their index in it. Layout is the file's:
images are NHWC, convolution weights OHWI, depthwise ones 1HWC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.schema import CODES, DTYPES, VERSION, default_options

ABSENT = -1
"""Index of an optional input that is not there."""


@dataclass(eq=False)
class Quantization:
    """``real = scale * (integer - zero_point)``.

    Attributes:
        scale: float32, shape (1,) or (channels,).
        zero_point: int64, of the same shape.
        axis: the channels' axis, ``quantized_dimension`` of the schema; 0 for one scale.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0

    def __post_init__(self) -> None:
        self.scale = np.asarray(self.scale, np.float32)
        self.zero_point = np.asarray(self.zero_point, np.int64)

    @property
    def per_channel(self) -> bool:
        """More than one scale."""
        return self.scale.size > 1

    @staticmethod
    def per_tensor(scale: float, zero_point: int = 0) -> Quantization:
        """One scale and zero point."""
        return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))


@dataclass(eq=False)
class Tensor:
    """A value of a subgraph.

    Attributes:
        shape: static shape; dimensions that may change hold the value of the file, usually 1.
        dtype: name in the schema, e.g. ``"INT8"``; `numpy_dtype` holds its elements.
        data: constant content of shape `shape` (`schema.DTYPES` tells how types that numpy lacks
            are held), None for values that are computed.
        shape_signature: shape with −1 for dimensions that may change, None where none may.
        is_variable: keeps its content between inferences.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: NDArray[Any] | None = None
    quantization: Quantization | None = None
    shape_signature: tuple[int, ...] | None = None
    is_variable: bool = False

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """dtype of `data`, little-endian."""
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(eq=False)
class Operator:
    """One operator call.

    Attributes:
        code: builtin operator, e.g. ``"CONV_2D"``; ``"CUSTOM"`` with `custom_code`.
        inputs: tensor indices, `ABSENT` for optional ones left out.
        options: by the schema's field names; enumerations as names (``padding: "SAME"``,
            ``fused_activation_function: "RELU6"``), vectors as lists, absent vectors None. Fields
            that are not given get the schema's defaults.
        version: of the operator's kernel, as the runtime's registration counts them.
        intermediates: tensor indices that hold quantization of inner values (LSTM).
        mutating_variable_inputs: as in the schema; None where the file has no such list.
    """

    code: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    custom_code: str | None = None
    custom_options: bytes = b""
    intermediates: list[int] = field(default_factory=list)
    mutating_variable_inputs: list[bool] | None = None

    def __post_init__(self) -> None:
        if self.code in CODES:
            self.options = default_options(self.code) | self.options


@dataclass(eq=False)
class Subgraph:
    """Tensors and the operators that compute them, in the order of execution."""

    tensors: list[Tensor]
    inputs: list[int]
    outputs: list[int]
    operators: list[Operator]
    name: str = ""


@dataclass(eq=False)
class Signature:
    """Names by which a program calls a subgraph.

    Attributes:
        key: e.g. ``"serving_default"``.
        inputs: tensor index by name.
        outputs: tensor index by name.
        subgraph: index of the subgraph.
    """

    key: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    subgraph: int = 0


@dataclass(eq=False)
class Model:
    """A file.

    Attributes:
        subgraphs: the first one is the network; others are bodies of control flow.
        metadata: named byte strings, e.g. ``min_runtime_version``, ``OfflineMemoryAllocation``.
    """

    subgraphs: list[Subgraph]
    description: str = ""
    metadata: dict[str, bytes] = field(default_factory=dict)
    signatures: list[Signature] = field(default_factory=list)
    version: int = VERSION

    @property
    def main(self) -> Subgraph:
        """The subgraph that inference runs."""
        return self.subgraphs[0]
