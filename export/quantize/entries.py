"""What a `QuantPlan` consists of: plain data (names and indices), separate from the ranges and from
the graph surgery, so that a search can read it, change it, and ask for its ranges per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgec.export.quantize.scheme import QuantScheme

Edge = tuple[str, int]
"""A consumer: node name and input index."""


@dataclass(frozen=True)
class Quantizer:
    """An activation that is quantized, and who reads the quantized value.

    Attributes:
        tensor: name of the float value that enters QuantizeLinear.
        range_of: tensor whose calibrated range is used (differs for same-scale operators).
        readers: edges redirected to the DequantizeLinear.
        output: the tensor is a graph output and leaves the graph through the DequantizeLinear.
        bounds: limits that the range is cut to.
        fixed: prescribed range, instead of the calibrated one.
        wide: the grid is that of the scheme's `wide` rules.
        converts: what enters is the quantized value, on the grid of the other width.
    """

    tensor: str
    range_of: str
    readers: tuple[Edge, ...]
    output: bool = False
    bounds: tuple[float, float] | None = None
    fixed: tuple[float, float] | None = None
    wide: bool = False
    converts: bool = False

    @property
    def name(self) -> str:
        """What the nodes and values of this quantizer are called after."""
        if self.wide:
            return f"{self.tensor}_wide"
        return f"{self.tensor}_narrow" if self.converts else self.tensor


@dataclass(frozen=True)
class Weight:
    """A constant that becomes integers: int8 with `axis` scales, or (axis None) one scale.

    `operand` marks constants of the activation's kind (integer type of activations), `wide` such
    of a node with the scheme's `wide` rules;
    `pair_safe` is the scheme's, except where the kernel needs no care.
    """

    node: str
    index: int
    tensor: str
    axis: int | None
    operand: bool = False
    pair_safe: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Bias:
    """A float bias that becomes int32 with scale s_x·s_w; `wide` says which s_x of `activation`."""

    node: str
    index: int
    activation: str
    weight: str
    axis: int | None
    wide: bool = False


@dataclass(frozen=True)
class QuantPlan:
    """Everything that becomes integer, in graph order.

    `left_float` says for each node that has an integer kernel in the scheme, but does not use
    it, why not.
    """

    scheme: QuantScheme
    quantizers: tuple[Quantizer, ...]
    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    integer_nodes: tuple[str, ...]
    left_float: dict[str, str] = field(default_factory=dict)
