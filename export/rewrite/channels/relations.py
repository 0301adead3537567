"""How the channels of an operator's tensors hang together.

The same idea as the dependency graph of structural pruning (Fang et al., DepGraph, CVPR 2023,
arXiv:2301.12900), for exact removal: a relation says which channels must stay because others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.rewrite.channels.constants import Constant, Floats, Reals
from edgec.export.rewrite.channels.interval import Interval

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Channels:
    """What is known about one tensor.

    Attributes:
        axis: its channel axis; None where no axis has channels that could be told apart.
        bounds: per channel, or one pair where `axis` is None.
    """

    axis: int | None
    bounds: Interval


@dataclass(frozen=True)
class Tie:
    """Tensors with the same channels: channel i stays in all of them or in none.

    Attributes:
        node: the operator.
        values: its tensors.
        constants: (input, axis) of constant operands with one entry per channel.
        literal: (input, index) of a constant shape that names the number of channels.
    """

    node: ir.Node
    values: tuple[ir.Value, ...]
    constants: tuple[tuple[int, int], ...] = ()
    literal: tuple[int, int] | None = None


@dataclass(frozen=True)
class Join:
    """Concat along the channel axis."""

    node: ir.Node
    parts: tuple[ir.Value, ...]
    output: ir.Value


@dataclass(frozen=True)
class Linear:
    """Conv, ConvTranspose, Gemm or MatMul with constant weights.

    Attributes:
        node: the operator.
        x: its input; None where the input has no channel axis that fits.
        output: its result.
        weight: its weights as (groups, outputs, inputs, taps), real numbers.
        axes: axes of output and input channels in the stored weight.
        groups: convolution groups; outputs and inputs of a group stay or go together.
        fold: per input channel, whether it is constant and its contribution can move to the bias.
        constant: its value there.
        stored: the weight as stored.
    """

    node: ir.Node
    x: ir.Value | None
    output: ir.Value
    weight: Reals
    axes: tuple[int, int]
    groups: int
    fold: Mask
    constant: Floats
    stored: Constant


@dataclass(frozen=True)
class Whole:
    """An operator that needs all channels of these tensors."""

    values: tuple[ir.Value, ...]


Relation = Tie | Join | Linear | Whole


@dataclass
class Analysis:
    """What the forward walk found.

    Attributes:
        graph: the graph.
        channels: by tensor.
        relations: in graph order.
    """

    graph: ir.Graph
    channels: dict[ir.Value, Channels] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)


Rule = Callable[[ir.Node, Analysis], bool]
"""Adds what an operator does to an analysis; False if it has to be taken as a whole."""
