"""Group normalization (Wu and He, 2018) of a single group gets its cheapest exact form.

Exporters spell it Reshape, InstanceNormalization, Reshape. With one group that is
LayerNormalization over everything but the batch: one node instead of three at the same speed, and
one constant scale of ones for all norms of a shape, unless that is large. γ and β stay per channel
behind it, where the convolution that follows can take them in. Several groups keep their spelling
and get a mark: the operator for them (GroupNormalization) exists from opset 21 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Builder,
    constant,
    float_attr,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.recognise.layer_norm import shared_ones
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of

MAX_ONES = 1 << 16
"""Elements of a scale of ones that two Reshapes less are worth (256 KiB in float32)."""


@dataclass(frozen=True)
class _Spelled:
    """Reshape to (N, groups, rest), InstanceNormalization, Reshape back."""

    first: ir.Node
    normalizer: ir.Node
    last: ir.Node
    groups: int


class RecogniseGroupNorm(MarkingPass):
    """Reshape → InstanceNormalization → Reshape, and LayerNormalization over all but the batch.

    More than `MAX_ONES` elements keep their spelling as well.

    Refuses groups that do not consist of whole channels, and a normalised tensor with a second
    reader before it is reshaped back.
    """

    name = "recognise-group-norm"
    change = "Reshape, InstanceNormalization, Reshape → LayerNormalization(axis = 1) for one group"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if "group_norm" in kinds_of(node):
                continue
            if is_op(node, "LayerNormalization"):
                count += self._layer_norm(node)
            elif is_op(node, "InstanceNormalization"):
                count += self._instance_norm(node)
        return count

    def _layer_norm(self, node: ir.Node) -> int:
        """Over all axes but the first with a uniform scale: the scale becomes the shared one."""
        shape, scale = shape_of(node.inputs[0]), constant(node.inputs[1])
        if shape is None or len(shape) < 3 or int_attr(node, "axis", -1) % len(shape) != 1:
            return 0
        if scale is None or not (scale == 1).all() or any(o.uses() for o in node.outputs[1:]):
            self.refuse(node, "the scale differs between elements, or the statistics are read")
            return 0
        graph = node.graph
        assert graph is not None
        node.replace_input_with(1, shared_ones(graph, shape[1:], node.inputs[0].dtype))  # type: ignore[union-attr]
        offset = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if offset is not None and not offset.any():
            node.resize_inputs(2)
        self.marker.mark("group_norm", (node,))
        return 1

    def _instance_norm(self, node: ir.Node) -> int:
        spelled = _spelled(node)
        if isinstance(spelled, str):
            self.refuse(node, spelled)
            return 0
        elements = math.prod((shape_of(spelled.first.inputs[0]) or ())[1:])
        if spelled.groups > 1 or elements > MAX_ONES:
            self.marker.mark("group_norm", (spelled.first, node, spelled.last))
        else:
            normalizer = _single_group(spelled)
            self.marker.mark("group_norm", (normalizer,))
        return 1


def _spelled(node: ir.Node) -> _Spelled | str:
    """The three nodes around an InstanceNormalization, or why they are not group normalization."""
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    last = sole_user(node.outputs[0])
    if first is None or not is_op(first, "Reshape") or last is None or not is_op(last, "Reshape"):
        return "it does not stand between two Reshapes"
    shape, flat = shape_of(first.inputs[0]), shape_of(node.inputs[0])
    if shape is None or flat is None or shape != shape_of(last.outputs[0]):
        return "the second Reshape does not undo the first"
    if len(shape) < 3 or flat[0] != shape[0] or shape[1] % flat[1]:
        return "the groups are not whole channels of one image"
    if any(constant(v) is None for v in node.inputs[1:3]):
        return "scale or bias are computed"
    if last.graph is not node.graph or first.graph is not node.graph:
        return "the pattern crosses a subgraph"
    return _Spelled(first, node, last, flat[1])


def _single_group(spelled: _Spelled) -> ir.Node:
    node, output = spelled.normalizer, spelled.last.outputs[0]
    x, shape = spelled.first.inputs[0], shape_of(output)
    assert x is not None
    assert shape is not None
    scale, bias = (constant(v) for v in node.inputs[1:3])
    assert scale is not None
    assert bias is not None
    builder = Builder(spelled.last, node)
    result = builder.op(
        "LayerNormalization",
        [x, shared_ones(builder.graph, shape[1:], x.dtype)],
        shape=shape,
        dtype=output.dtype,
        axis=1,
        epsilon=float_attr(node, "epsilon", 1e-5),
    )
    normalizer = result.producer()
    assert normalizer is not None
    for op_type, array, neutral in (("Mul", scale, 1), ("Add", bias, 0)):
        if array[0] != neutral:
            number = builder.constant(np.asarray(array[0]), op_type.lower())
            result = builder.op(op_type, [result, number], shape=shape, dtype=output.dtype)
    replace_value(output, result)
    remove_dead([spelled.last])
    return normalizer
