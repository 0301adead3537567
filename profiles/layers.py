"""What a network computes, layer by layer: the static facts that tables and predictions start from.

A layer here is a kernel as a runtime would execute it: an operator that computes, together with the
functions of single elements that join it (activation, quantizers, scaling). Views cost nothing and
are part of the layer they view.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "3x3",
    "1x1",
    "conv",
    "depthwise",
    "grouped",
    "linear",
    "matmul",
    "elementwise",
    "pool",
    "norm",
    "softmax",
    "resize",
    "move",
    "other",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""``conv`` is a convolution of another size than 3x3 and 1x1, ``linear`` a product of one row with
constant weights, ``1x1`` also one of several rows, ``matmul`` a product of two activations,
``move`` what only copies (Concat, Transpose, Slice, Pad, Gather)."""


EXPONENTIAL = frozenset(
    "sigmoid logistic tanh gelu erf exp elu selu celu silu swish mish softplus".split()
)
"""Functions of single elements with exponentials, by operator in lower case."""


@dataclass(frozen=True)
class Layer:
    """One kernel.

    Attributes:
        name: of the node or operator that computes.
        operator: its type.
        kind: see `KINDS`.
        module: path of the source module, ``""`` where it is not known.
        macs: multiply-accumulates.
        parameters: constants that it reads, biases included.
        weights: constants that are multiplied (kernel, matrix).
        weight_bytes: bytes of `parameters` as they are stored.
        in_elems, out_elems: elements of the activations that it reads and writes.
        in_bytes, out_bytes: the same in bytes as they are stored.
        kernel, stride: larger side of a window; 0 where there is none.
        in_ch, out_ch: channels, 0 where there are none. in_ch of channels put together: what those
            of every input are a multiple of.
        out_hw: pixels (rows) of the output.
        groups: of a convolution.
        functions: elements of which it or what joined it computes a function with exponentials
            (`EXPONENTIAL`).
        joined: elements that the functions of single elements which joined it would read and write
            in a pass of their own, as compilers without fused convolutions run them.
        nodes: names of all nodes that it stands for.
    """

    name: str
    operator: str
    kind: Kind
    module: str = ""
    macs: int = 0
    parameters: int = 0
    weights: int = 0
    weight_bytes: int = 0
    in_elems: int = 0
    out_elems: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    kernel: int = 0
    stride: int = 0
    in_ch: int = 0
    out_ch: int = 0
    out_hw: int = 0
    groups: int = 1
    functions: int = 0
    joined: int = 0
    nodes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes that the kernel moves at least: inputs, outputs and weights, once each."""
        return self.in_bytes + self.out_bytes + self.weight_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, MACs per byte."""
        return self.macs / self.bytes if self.bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields with `bytes` and `intensity`, JSON-ready."""
        return {**asdict(self), "bytes": self.bytes, "intensity": round(self.intensity, 4)}


@dataclass(frozen=True)
class StaticProfile:
    """The layers of a network in their order, and what they sum up to.

    Attributes:
        name: of the network or file.
        layers: in execution order.
        peak_bytes: most activation bytes that are live at once.
        peak_basis: how `peak_bytes` was found.
        precision: of activations, e.g. ``"int8"``; the widest where they differ.
    """

    name: str
    layers: tuple[Layer, ...]
    peak_bytes: int
    peak_basis: str
    precision: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Constants that the layers read."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants as they are stored."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written, summed over the layers."""
        return sum(layer.in_bytes + layer.out_bytes for layer in self.layers)

    def macs_by_kind(self) -> dict[str, int]:
        """MACs of each kind that has some, most first."""
        return _sums((layer.kind, layer.macs) for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Totals and layers, JSON-ready."""
        return {
            "name": self.name,
            "precision": self.precision,
            "macs": self.macs,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_basis": self.peak_basis,
            "macs_by_kind": self.macs_by_kind(),
            "layers": [layer.to_json() for layer in self.layers],
        }


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return {k: v for k, v in sorted(sums.items(), key=lambda item: (-item[1], item[0])) if v}


def window_kind(kernel: tuple[int, ...], groups: int, in_ch: int, out_ch: int) -> Kind:
    """Kind of a convolution by its window (spatial sides) and channels."""
    if groups > 1:
        return "depthwise" if groups == in_ch and out_ch % in_ch == 0 else "grouped"
    if all(side == 1 for side in kernel):
        return "1x1"
    return "3x3" if all(side == 3 for side in kernel) else "conv"
