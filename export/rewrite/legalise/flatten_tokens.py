"""Token-wise operators work on matrices, one row per token.

ONNX Runtime turns MatMul + Add with constant weights into Gemm, which takes matrices only: on
tensors of higher rank each one gets a Reshape before and one after it, and those around an
activation stay. Where a whole chain of layers treats tokens one by one, its tensors can be matrices
from the start; what reshapes tokens at its ends (windows, attention heads) does so already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from edgec.export.rewrite.base import Options, ViewPass
from edgec.export.rewrite.fold.compose_views import view_chain
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.layout import View, plan
from edgec.export.rewrite.linear import match_linear
from edgec.export.rewrite.view_nodes import as_view, extend
from edgec.targets.schema import Runtime

_UNARY = frozenset(
    "Abs Cast Celu Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg "
    "Reciprocal Relu Selu Sigmoid Softplus Softsign Sqrt Tanh ThresholdedRelu".split()
)
_BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"))


def wants_matrices(runtime: Runtime) -> bool:
    """Whether linear layers of graphs for `runtime` run best on matrices."""
    return runtime.name == "onnxruntime"


class FlattenTokens(ViewPass):
    """Compute regions of token-wise operators on (tokens, channels) instead of (…, channels).

    A region is grown from MatMuls with constant weights over element-wise operators and
    LayerNormalization of the last axis, among tensors of the same leading dimensions. Refuses
    regions where the Reshapes at the ends would cost more than the matrices save.

    Attributes:
        per_reshape: linear layers with a bias that one more Reshape has to pay for; each saves the
            runtime two.
    """

    name = "flatten-tokens"
    change = "MatMul + Add, LayerNorm, … on (N, L, C) → on (N·L, C) (ONNX Runtime)"
    per_reshape = 4
    matrices: bool = Options.matrices

    def configure(self, options: Options) -> None:
        """Take the rank limit of the run, and whether its runtime wants matrices at all."""
        super().configure(options)
        self.matrices = options.matrices

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        if not self.matrices:
            return count
        for region in _regions(graph):
            inside = frozenset(region)
            added = sum(self._reshapes(value, inside) for value in _boundary(region))
            layers = sum(_has_bias(node) for node in region)
            if layers < 1 or layers < self.per_reshape * added:
                self.refuse(region[0], f"{added} Reshapes for {layers} layers with bias")
                continue
            _flatten(region)
            count += 1
        return count

    def _reshapes(self, value: ir.Value, inside: frozenset[ir.Node]) -> int:
        """Nodes more that the graph has if `value` crosses the edge of a region flat."""
        shape = shape_of(value) or ()
        flat = _flat(shape)
        if value.producer() not in inside:
            before, count = _views_before(value)
            if before is None or any(u.node not in inside for u in value.uses()):
                return 1
            return self._printed(before.reshape(flat)) - count
        outside = [u.node for u in value.uses() if u.node not in inside]
        if value.is_graph_output() or any(as_view(node) is None for node in outside):
            return 1
        back = View.identity(flat).reshape(shape)
        added = 0
        for node in outside:
            chain, view = view_chain(node)
            added += self._printed(back.then(view) if back is not None else None) - len(chain)
        return added

    def _printed(self, view: View | None) -> int:
        """Nodes that `view` takes; many for none."""
        return 100 if view is None else len(plan(view, self.max_rank))


def _views_before(value: ir.Value) -> tuple[View | None, int]:
    """The chain of views, read by nothing else, that ends in `value`; and its nodes."""
    chain: list[ir.Node] = []
    at = value
    while (node := at.producer()) is not None and as_view(node) is not None:
        if chain and sole_user(at) is not chain[-1]:
            break
        chain.append(node)
        source = node.inputs[0]
        if source is None:
            break
        at = source
    while chain:
        view = as_view(chain[-1])
        for node in reversed(chain[:-1]):
            view = extend(view, node) if view is not None else None
        if view is not None:
            return view, len(chain)
        chain.pop()
    return None, 0


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


def _lead(value: ir.Value | None) -> tuple[int, ...] | None:
    """Leading dimensions of a tensor of at least three; None for others."""
    shape = shape_of(value)
    return shape[:-1] if shape is not None and len(shape) > 2 and 0 not in shape else None


def _tokens(node: ir.Node) -> list[ir.Value] | None:
    """The inputs of a token-wise operator that hold tokens; None if it is not one."""
    if len(node.outputs) != 1 or _lead(node.outputs[0]) is None:
        return None
    if is_op(node, *_UNARY):
        found = [node.inputs[0]]
    elif is_op(node, *_BINARY):
        found = [v for v in node.inputs if constant(v) is None]
        fixed = [array for v in node.inputs if (array := constant(v)) is not None]
        shape = shape_of(node.outputs[0]) or ()
        if len(node.inputs) != 2 or any(not _per_channel(a, shape) for a in fixed):
            return None
    elif is_op(node, "MatMul"):
        weight = constant(node.inputs[1])
        if weight is None or weight.ndim != 2:
            return None
        found = [node.inputs[0]]
    elif is_op(node, "LayerNormalization"):
        rank = len(shape_of(node.outputs[0]) or ())
        if int_attr(node, "axis", -1) not in (-1, rank - 1):
            return None
        found = [node.inputs[0]]
    else:
        return None
    lead = _lead(node.outputs[0])
    values = [v for v in found if v is not None]
    return values if values and all(_lead(v) == lead for v in values) else None


def _per_channel(array: Array, shape: Sequence[int]) -> bool:
    """Whether a constant operand says the same of every token, or has a row for each."""
    return array.size == 1 or (
        array.shape[-1] == shape[-1] and array.size in (shape[-1], math.prod(shape))
    )


def _regions(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Token-wise operators that share tensors, with a MatMul among them; in graph order."""
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        parent.setdefault(value, value)
        while parent[value] is not value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    members = []
    for node in graph:
        tokens = _tokens(node)
        if tokens is None:
            continue
        members.append(node)
        for value in tokens:
            parent[root(value)] = root(node.outputs[0])
    regions: dict[ir.Value, list[ir.Node]] = {}
    for node in members:
        regions.setdefault(root(node.outputs[0]), []).append(node)
    for region in regions.values():
        if any(is_op(node, "MatMul") for node in region):
            yield region


def _boundary(region: Sequence[ir.Node]) -> list[ir.Value]:
    """Values that enter or leave the region, each once."""
    inside = set(region)
    found: dict[ir.Value, None] = {}
    for node in region:
        for value in _tokens(node) or ():
            if value.producer() not in inside:
                found[value] = None
        out = node.outputs[0]
        if out.is_graph_output() or any(u.node not in inside for u in out.uses()):
            found[out] = None
    return list(found)


def _has_bias(node: ir.Node) -> bool:
    linear = match_linear(node) if is_op(node, "MatMul") else None
    return linear is not None and linear.bias is not None


def _flatten(region: Sequence[ir.Node]) -> None:
    """Emit every node of the region once more, on matrices; Reshapes where it begins and ends."""
    inside = set(region)
    flat: dict[ir.Value, ir.Value] = {}
    for node in region:
        builder = Builder(node)
        tokens = _tokens(node) or []
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            if value is not None and value in tokens:
                if value not in flat:
                    flat[value] = builder.reshape(value, _flat(shape_of(value) or ()))
                inputs.append(flat[value])
            elif value is not None and is_op(node, *_BINARY):
                inputs.append(_flat_constant(builder, value))
            else:
                inputs.append(value)
        old = node.outputs[0]
        shape = shape_of(old) or ()
        attributes = {name: a.value for name, a in node.attributes.items()}
        if node.op_type == "LayerNormalization":
            attributes["axis"] = -1
        new = builder.op(node.op_type, inputs, shape=_flat(shape), dtype=old.dtype, **attributes)
        flat[old] = new
        if old.is_graph_output() or any(user.node not in inside for user in old.uses()):
            back = builder.reshape(new, shape)
            flat[back] = new
            replace_value(old, back)
    remove_dead(reversed(region))


def _flat_constant(builder: Builder, value: ir.Value) -> ir.Value:
    """A constant operand with at most two dimensions."""
    array = constant(value)
    if array is None or array.ndim < 2:
        return value
    columns = array.shape[-1]
    return builder.constant(array.reshape(-1, columns), value.name or "constant")
