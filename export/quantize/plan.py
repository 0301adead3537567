"""Where quantizers go: from a float graph and a `QuantScheme` to a `QuantPlan`.

The rules, in the order in which they are applied:

1. A node is *integer* if the scheme has a kernel for it and its operands have a legal form.
2. A tensor written by an integer kernel is quantized at its source and all consumers read the
   quantized value: the float value does not exist at run time. An absorbed activation (ReLU
   after Conv) moves this point behind itself.
   Kernels that can write either type write integers if one of their readers is integer.
3. A tensor written by a float operator is quantized only on the edges that an integer node
   reads; other consumers keep the exact value.
4. A same-scale operator between quantized input and integer consumer passes the parameters on.
5. Each node has the rules of its own width (`QuantScheme.of`); what is written in one width and
   read in the other is requantized in between, once for all its readers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from edgec.export.quantize.entries import Bias, Edge, Quantizer, QuantPlan, Weight
from edgec.export.quantize.graph import constant_of, consumers, is_excluded
from edgec.export.quantize.operands import is_depthwise, weight_axis
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.rewrite.graph import float_attr, int_attr

_ELEMENTWISE = frozenset({"Add", "Mul", "Sub", "Div"})
_BIASED = frozenset({"Conv", "Gemm"})
_STACK = "product with a stack of matrices"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def plan_quantization(
    model: ir.Model, scheme: QuantScheme, exclude: Collection[str] = ()
) -> QuantPlan:
    """Apply the scheme's rules to a graph; `model` is not modified.

    Args:
        model: float32 graph with unique node and value names.
        scheme: target rules.
        exclude: node names, operator types or module paths (with everything below) to leave
            float.
    """
    return _Planner(model, scheme, exclude).plan()


class _Planner:
    def __init__(self, model: ir.Model, scheme: QuantScheme, exclude: Collection[str]) -> None:
        self.model = model
        self.scheme = scheme
        self.exclude = exclude
        self.nodes = list(model.graph)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.left_float: dict[str, str] = {}
        # source: quantized where it is written, with the tensor that lends its range
        self.source: dict[ir.Value, ir.Value] = {}
        # of those tensors the ones with a wide grid
        self.wide: set[ir.Value] = set()
        # float tensors that integer nodes read, by whether their grid is wide
        self.wanted: dict[tuple[ir.Value, bool], list[Edge]] = {}
        # sources that are read in the other width
        self.converted: dict[ir.Value, list[Edge]] = {}

    def plan(self) -> QuantPlan:
        integer = [node for node in self.nodes if self._is_integer(node)]
        members = set(integer)
        for node in integer:
            if node.op_type in self._rules(node).kernels:
                self._write(node)
        # Each of the two steps can enable the other, and both only add.
        while self._write_for_integer_readers(members) or self._join(members):
            pass
        needed = self._needed(members)
        for node in self.nodes:
            self._pass_on(node, needed)
        if self.scheme.shared_concat:
            for node in reversed(self.nodes):
                if node in members and node.op_type == "Concat":
                    self._share_grid(node)
        for node in self.nodes:
            if node in members:
                for index in self._activation_inputs(node):
                    self._want(node, index)
            elif node.op_type == "Add" and self.scheme.residual_arms != "none":
                for index in self._residual_arms(node):
                    self._want(node, index)
        ordered = [node for node in self.nodes if node in members]
        stored = members | {node for node in self.nodes if self._only_weights(node)}
        weights = [w for node in self.nodes if node in stored for w in self._weights(node)]
        return QuantPlan(
            scheme=self.scheme,
            quantizers=tuple(self._quantizers()),
            weights=tuple(weights),
            biases=tuple(b for node in ordered for b in self._biases(node)),
            integer_nodes=tuple(str(node.name) for node in ordered),
            left_float=self.left_float,
        )

    # --- which nodes -----------------------------------------------------------------------

    def _rules(self, node: ir.Node) -> QuantScheme:
        return self.scheme.of(str(node.name))

    def _is_wide(self, node: ir.Node) -> bool:
        return self._rules(node) is not self.scheme

    def _has_kernel(self, node: ir.Node) -> bool:
        rules = self._rules(node)
        return node.domain == "" and node.op_type in rules.kernels | rules.float_output

    def _is_opportunistic(self, node: ir.Node) -> bool:
        rules = self._rules(node)
        return node.op_type in rules.opportunistic and str(node.name) not in rules.eager

    def _is_integer(self, node: ir.Node) -> bool:
        if not self._has_kernel(node) or self._is_opportunistic(node):
            return False
        reason = self._obstacle(node)
        if reason:
            self.left_float[str(node.name)] = reason
        return not reason

    def _may_join(self, node: ir.Node) -> bool:
        if not self._has_kernel(node) or not self._is_opportunistic(node):
            return False
        reason = self._obstacle(node)
        if not reason and not any(self._effective_source(v) for v in node.inputs):
            reason = "no input is quantized"
        if reason:
            self.left_float[str(node.name)] = reason
        else:
            self.left_float.pop(str(node.name), None)
        return not reason

    def _effective_source(self, value: ir.Value | None) -> bool:
        """Whether a value is written by an integer kernel, seen through data movement."""
        while value is not None and value not in self.source:
            producer = value.producer()
            if producer is None or producer.op_type not in self._rules(producer).same_scale:
                return False
            value = producer.inputs[0]
        return value is not None

    def _obstacle(self, node: ir.Node) -> str:
        """Why a node with an integer kernel cannot use it; empty if it can."""
        if is_excluded(node, self.exclude):
            return "excluded"
        if any(v.dtype != ir.DataType.FLOAT for v in node.outputs):
            return "not float32"
        rules = self._rules(node)
        constants = [constant_of(v) is not None for v in node.inputs]
        if all(constants):
            return "constant"
        outputs = _constant_outputs(node)
        if outputs is not None and outputs < rules.least_outputs:
            return f"{outputs} output channels"
        if node.op_type in ("Conv", "ConvTranspose"):
            if not constants[1] or constants[0]:
                return "weight is not constant"
            return self._depthwise_obstacle(node)
        if node.op_type == "Gemm":
            return self._gemm_obstacle(node)
        if node.op_type == "MatMul":
            if not any(constants) and not rules.attention:
                return "product of two activations"
            return "" if rules.stacks or not _by_stack(node) else _STACK
        if node.op_type == "Softmax":
            return _softmax_obstacle(node, rules)
        if node.op_type in _ELEMENTWISE and any(constants):
            if not rules.constant_operands:
                return "constant operand"
            if self._is_bias(node):
                return "bias of a MatMul"
        return ""

    def _only_weights(self, node: ir.Node) -> bool:
        """Whether only the constants of a node become integers."""
        reason = self.left_float.get(str(node.name))
        if reason == "excluded" and node.op_type in WEIGHTED:
            activation, weight = node.inputs[:2]
            stored = constant_of(weight) is not None and constant_of(activation) is None
            return stored and is_excluded(node, self.scheme.stored)
        return reason == _STACK

    def _depthwise_obstacle(self, node: ir.Node) -> str:
        limit, weight = self._rules(node).largest_depthwise, node.inputs[1]
        shape = () if weight is None or weight.shape is None else tuple(weight.shape.numpy())
        if limit is None or not is_depthwise(node, shape) or prod(shape[2:]) <= limit:
            return ""
        return f"depthwise kernel of {prod(shape[2:])} taps"

    def _is_bias(self, node: ir.Node) -> bool:
        """Whether an Add belongs to the kernel of the MatMul before it."""
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type == "MatMul":
                add = _bias_add(producer)
                if add is not None and add[0] is node and not self._obstacle(producer):
                    return "MatMul" in self._rules(producer).kernels
        return False

    def _gemm_obstacle(self, node: ir.Node) -> str:
        weight = constant_of(node.inputs[1])
        if weight is None or constant_of(node.inputs[0]) is not None:
            return "weight is not constant"
        if int_attr(node, "transA", 0) or float_attr(node, "alpha", 1.0) != 1.0:
            return "transA or alpha"
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constant_of(node.inputs[2])
            rows = weight.shape[0] if int_attr(node, "transB", 0) else weight.shape[1]
            if bias is None or bias.shape != (rows,) or float_attr(node, "beta", 1.0) != 1.0:
                return "bias is not a constant vector"
        return ""

    # --- which tensors ---------------------------------------------------------------------

    def _write(self, node: ir.Node) -> None:
        """Mark what an integer kernel writes, behind an activation it absorbs."""
        add = _bias_add(node) if node.op_type == "MatMul" else None
        for value in node.outputs if add is None else add[0].outputs:
            written = self._behind_absorbed(value)
            self.source[written] = written
            if self._is_wide(node):
                self.wide.add(written)

    def _join(self, members: set[ir.Node]) -> bool:
        """Let opportunistic kernels follow what is quantized before them, in forward order."""
        before = len(members)
        for node in self.nodes:
            if node not in members and self._may_join(node):
                members.add(node)
                self._write(node)
        return len(members) > before

    def _write_for_integer_readers(self, members: set[ir.Node]) -> bool:
        """Rule 2 for kernels that could write float, but have an integer reader."""
        if not self.scheme.one_output_type:
            return False
        before = len(self.source)
        needed = self._needed(members)
        for node in self.nodes:
            if node not in members or node.op_type not in self.scheme.float_output:
                continue
            add = _bias_add(node) if node.op_type == "MatMul" else None
            output = (node if add is None else add[0]).outputs[0]
            if output in needed and output not in self.source:
                self.source[output] = output
        return len(self.source) > before

    def _share_grid(self, concat: ir.Node) -> None:
        """Give what only `concat` reads, and no runtime prescribes, the grid of its output."""
        output = concat.outputs[0]
        for value in concat.inputs:
            if value is None or self.source.get(value) is not value:
                continue
            producer = value.producer()
            if producer is None or producer.op_type in self._rules(producer).fixed:
                continue
            if (value in self.wide) != (self.source.get(output, output) in self.wide):
                continue
            if len(value.uses()) == 1 and not value.is_graph_output():
                self.source[value] = self.source.get(output, output)

    def _behind_absorbed(self, value: ir.Value) -> ir.Value:
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return value
        consumer = uses[0].node
        if consumer.op_type not in self.scheme.absorbed or uses[0].idx != 0:
            return value
        if is_excluded(consumer, self.exclude) or clip_bounds(consumer) is None:
            return value
        return consumer.outputs[0]

    def _needed(self, members: set[ir.Node]) -> set[ir.Value]:
        """Values that an integer node reads, directly or through same-scale operators."""
        needed: set[ir.Value] = set()
        for node in reversed(self.nodes):
            if node in members:
                needed.update(v for i in self._activation_inputs(node) if (v := node.inputs[i]))
                continue
            moves = node.op_type in self._rules(node).same_scale
            source = node.inputs[0] if node.inputs else None
            if moves and source is not None and any(v in needed for v in node.outputs):
                needed.add(source)
        return needed

    def _pass_on(self, node: ir.Node, needed: set[ir.Value]) -> None:
        """Let a same-scale operator hand its input's parameters to its outputs."""
        value = node.inputs[0] if node.inputs else None
        if value is None or value not in self.source or is_excluded(node, self.exclude):
            return
        if node.op_type not in self.scheme.in_width(self.source[value] in self.wide).same_scale:
            return
        # all outputs of a Split or none: half-quantized splits fall back to float kernels
        if any(out in needed for out in node.outputs):
            for out in node.outputs:
                self.source[out] = self.source[value]

    def _activation_inputs(self, node: ir.Node) -> list[int]:
        count = 2 if node.op_type in WEIGHTED else len(node.inputs)
        return [
            i
            for i, value in enumerate(node.inputs[:count])
            if value is not None and constant_of(value) is None
        ]

    def _residual_arms(self, node: ir.Node) -> list[int]:
        arms = self._activation_inputs(node)
        shapes = [v.shape for v in node.inputs if v is not None]
        if len(arms) != 2 or is_excluded(node, self.exclude) or shapes[0] != shapes[1]:
            return []
        if node.outputs[0].dtype != ir.DataType.FLOAT:
            return []
        if self.scheme.residual_arms == "both":
            return arms
        # leave the arm of the later weighted operator free to fuse with the Add
        ranks = []
        for i in arms:
            value = node.inputs[i]
            producer = value.producer() if value is not None else None
            fusible = producer is not None and producer.op_type in WEIGHTED
            ranks.append(self.order[producer] if fusible and producer is not None else -1)
        if max(ranks) < 0:
            # no kernel takes this Add in: integers would only cost accuracy
            return [] if self.scheme.residual_arms == "fused" else arms
        if self.scheme.residual_arms == "fused":
            return arms
        return [i for i in arms if i != ranks.index(max(ranks))]

    def _want(self, node: ir.Node, index: int) -> None:
        value, edge = node.inputs[index], (str(node.name), index)
        if value is None:
            return
        if value not in self.source:
            self.wanted.setdefault((value, self._is_wide(node)), []).append(edge)
        elif (self.source[value] in self.wide) != self._is_wide(node):
            self.converted.setdefault(value, []).append(edge)

    # --- the plan's entries ----------------------------------------------------------------

    def _quantizers(self) -> list[Quantizer]:
        values = [v for v in self.model.graph.inputs if v.name not in self.model.graph.initializers]
        values += [v for node in self.nodes for v in node.outputs]
        return [quantizer for value in values for quantizer in self._quantizers_of(value)]

    def _quantizers_of(self, value: ir.Value) -> Iterator[Quantizer]:
        """The one where a value is written, and behind it the conversion; or those of its edges."""
        if value not in self.source:
            for wide in (False, True):
                readers = tuple(self.wanted.get((value, wide), ()))
                if readers:
                    # what computes in float writes on any grid
                    yield replace(self._quantizer(value, value, readers, wide), fixed=None)
            return
        root, converted = self.source[value], tuple(self.converted.get(value, ()))
        edges = ((str(node.name), index) for node, index in consumers(value, self.order))
        readers, wide = tuple(e for e in edges if e not in converted), root in self.wide
        first = self._quantizer(value, root, readers, wide)
        yield replace(first, output=value.is_graph_output())
        if converted:
            yield replace(self._quantizer(value, root, converted, not wide), converts=True)

    def _quantizer(
        self, value: ir.Value, root: ir.Value, readers: tuple[Edge, ...], wide: bool
    ) -> Quantizer:
        rules, producer = self.scheme.in_width(wide), root.producer()
        op_type = producer.op_type if producer is not None else ""
        bounds = rules.bounds.get(op_type)
        if producer is not None and op_type in rules.absorbed:
            bounds = clip_bounds(producer)
        return Quantizer(
            tensor=str(value.name),
            range_of=str(root.name),
            readers=readers,
            bounds=bounds,
            fixed=rules.fixed.get(op_type),
            wide=wide,
        )

    def _weights(self, node: ir.Node) -> list[Weight]:
        result = []
        activations = self._activation_inputs(node)
        count = 2 if node.op_type in WEIGHTED else len(node.inputs)
        for index, value in enumerate(node.inputs[:count]):
            if value is None or index in activations:
                continue
            weight = constant_of(value)
            if weight is None or weight.dtype != np.float32:
                continue
            kernel, name = node.op_type in WEIGHTED, str(value.name)
            per_channel = kernel and self._rules(node).per_channel
            if self._only_weights(node):  # no kernel asks for one scale
                axis = weight_axis(node, index, weight.ndim)
                if node.op_type == "MatMul":
                    axis = weight.ndim - (1 if index else 2)
                axis = axis if per_channel else None
                result.append(Weight(str(node.name), index, name, axis))
                continue
            axis = weight_axis(node, index, weight.ndim) if per_channel else None
            result.append(
                Weight(
                    str(node.name),
                    index,
                    name,
                    axis,
                    operand=not kernel or index == 0,
                    pair_safe=self.scheme.pair_safe and not is_depthwise(node, weight.shape),
                    wide=(not kernel or index == 0) and self._is_wide(node),
                )
            )
        return result

    def _biases(self, node: ir.Node) -> list[Bias]:
        if not self.scheme.integer_bias:
            return []
        holder, index = node, 2
        if node.op_type == "MatMul":
            # Linear layers on tokens: runtimes fuse the pair into one integer Gemm, but only if
            # the bias is integer as well
            add = _bias_add(node)
            if add is None or is_excluded(add[0], self.exclude):
                return []
            holder, index = add
        elif node.op_type not in _BIASED or len(node.inputs) < 3:
            return []
        activation, weight = node.inputs[:2]
        bias = holder.inputs[index]
        if bias is None or constant_of(bias) is None or activation is None or weight is None:
            return []
        rank = len(weight.shape) if weight.shape is not None else 0
        axis = weight_axis(node, 1, rank) if self.scheme.per_channel else None
        wide = self._is_wide(node)
        return [Bias(str(holder.name), index, str(activation.name), str(weight.name), axis, wide)]


def _constant_outputs(node: ir.Node) -> int | None:
    """Output channels of a convolution, or of a product whose second operand is a constant."""
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return None
    shape = node.outputs[0].shape
    if shape is None or len(node.inputs) < 2 or constant_of(node.inputs[1]) is None:
        return None
    channels = shape[1 if node.op_type.startswith("Conv") else -1]
    return channels if isinstance(channels, int) else None


def _by_stack(matmul: ir.Node) -> bool:
    """Whether a MatMul has a stack of constant matrices as an operand."""
    constants = [constant_of(value) for value in matmul.inputs]
    return any(c is not None and prod(c.shape[:-2]) > 1 for c in constants)


def _softmax_obstacle(node: ir.Node, rules: QuantScheme) -> str:
    shape = node.outputs[0].shape
    row = shape[int_attr(node, "axis", -1)] if shape is not None else None
    limit = rules.longest_softmax
    too_long = limit is not None and isinstance(row, int) and row > limit
    return f"softmax over {row} elements" if too_long else ""


def _bias_add(matmul: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant vector behind a MatMul with a constant matrix, and the vector's
    input index."""
    output = matmul.outputs[0]
    weight = constant_of(matmul.inputs[1])
    uses = list(output.uses())
    if weight is None or weight.ndim != 2 or len(uses) != 1 or output.is_graph_output():
        return None
    add, index = uses[0].node, 1 - uses[0].idx
    if add.op_type != "Add":
        return None
    bias = constant_of(add.inputs[index])
    return (add, index) if bias is not None and bias.shape == (weight.shape[1],) else None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Output limits of Relu or Clip; None if they are not constant or do not hold zero."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    limits = [float("-inf"), float("inf")]
    for i, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        constant = constant_of(value)
        if constant is None:
            return None
        limits[i] = float(constant)
    low, high = limits
    return (low, high) if low <= 0.0 <= high else None
