"""Softmax attention (Vaswani et al., 2017) of every kind is found and marked.

What all kinds share is softmax(q k + …) v: two products of computed tensors with a softmax between
them. Which kind it is follows from where the operands' elements come from (`origin.trace`):

- *attention*: tokens attend to tokens;
- *window attention*: the same inside windows of a map, close or dilated (EMO, EMOv2, Swin), or
  between equal places of patches (MobileViT): the leading axes hold more than batch and heads;
- *cross-covariance attention* (El-Nouby et al., 2021): channels attend to channels, the
  contraction of q k runs over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgec.export.rewrite.graph import constant, int_attr, is_op, shape_of
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of
from edgec.export.rewrite.recognise.origin import Origin, trace
from edgec.export.rewrite.view_nodes import as_view

KINDS = ("attention", "window_attention", "cross_covariance_attention")

_MAX_STEPS = 12
_BETWEEN = ("Cast", "Dropout", "Clip", "Max", "QuantizeLinear", "DequantizeLinear", "Identity")


@dataclass(frozen=True)
class Core:
    """softmax(`scores` …) and the product of its result with the values.

    Attributes:
        scores: the product of queries and keys.
        softmax: the Softmax.
        product: the product of weights and values.
        value_side: which operand of `product` holds the values.
        between: what lies between the three: scale, bias, talking heads, views.
    """

    scores: ir.Node
    softmax: ir.Node
    product: ir.Node
    value_side: int
    between: tuple[ir.Node, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes, in no particular order."""
        return (self.scores, *self.between, self.softmax, self.product)


class RecogniseAttention(MarkingPass):
    """softmax(q k [· scale] [+ bias] [talking heads]) v, marked with its kind.

    Refuses a softmax that no product of two computed tensors feeds, or whose result meets no
    computed tensor (then it is a classifier's, or a weighted mean).
    """

    name = "recognise-attention"
    change = (
        "MatMul → (scale, bias) → Softmax → MatMul → the same, marked with the kind of attention"
    )
    annotates = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to all graphs; the batch size tells windows from images."""
        self.batch = batch_of(model)
        return super().call(model)

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Softmax") or set(KINDS) & set(kinds_of(node)):
                continue
            core = match_core(node)
            if isinstance(core, str):
                self.refuse(node, core)
                continue
            facts = attention_facts(core, self.batch)
            self.marker.mark(facts["kind"], core.nodes)
            count += 1
        return count


def batch_of(model: ir.Model) -> int:
    """The size of the first axis of the first input of rank two or more; 1 if unknown."""
    for value in model.graph.inputs:
        shape = shape_of(value)
        if shape is not None and len(shape) > 1:
            return max(1, shape[0])
    return 1


def match_core(softmax: ir.Node) -> Core | str:
    """The two products around a softmax, or why there are none."""
    shape = shape_of(softmax.outputs[0])
    if shape is None or len(shape) < 2:
        return "the shape is unknown, or there are no rows"
    if int_attr(softmax, "axis", -1) % len(shape) < len(shape) - 2:
        return "the softmax does not run along rows or columns of matrices"
    before = _search_back(softmax.inputs[0], _MAX_STEPS, is_dynamic_product)
    before = before or _search_back(softmax.inputs[0], _MAX_STEPS, _has_constant_queries)
    if before is None:
        return "no product of two computed tensors feeds the softmax"
    after = _search_forward(softmax.outputs[0], _MAX_STEPS)
    if after is None:
        return "the softmax multiplies no computed tensor"
    *inner, product = after
    weights = (inner[-1] if inner else softmax).outputs[0]
    side = 1 if product.inputs[0] is weights else 0
    return Core(before[-1], softmax, product, side, (*before[:-1], *inner))


def is_dynamic_product(node: ir.Node | None) -> bool:
    """MatMul of two computed tensors of rank two or more."""
    return (
        node is not None
        and is_op(node, "MatMul")
        and all(constant(v) is None and v is not None for v in node.inputs)
        and len(shape_of(node.inputs[0]) or ()) > 1
    )


def _has_constant_queries(node: ir.Node) -> bool:
    """MatMul with constants on the left: queries that are learned, not computed."""
    return is_op(node, "MatMul") and constant(node.inputs[0]) is not None


def _search_back(
    value: ir.Value | None, steps: int, is_product: Callable[[ir.Node], bool]
) -> list[ir.Node] | None:
    """The nodes from `value` back to the product of queries and keys, which comes last."""
    node = None if value is None else value.producer()
    if node is None or steps == 0:
        return None
    if is_product(node):
        return [node]
    for operand in _operands(node):
        found = _search_back(operand, steps - 1, is_product)
        if found is not None:
            return [node, *found]
    return None


def _operands(node: ir.Node) -> Sequence[ir.Value | None]:
    """The inputs through which scores may have come."""
    if is_op(node, "Add"):
        return [v for v in node.inputs if constant(v) is None]
    if is_op(node, "Where"):
        return [v for v in node.inputs[1:] if constant(v) is None]
    if is_op(node, "Mul", "Div", "Sub"):
        computed = [v for v in node.inputs if constant(v) is None]
        return computed[:1] if len(computed) == 1 or node.op_type == "Sub" else computed
    return node.inputs[:1] if _transparent(node) else []


def _transparent(node: ir.Node) -> bool:
    """Views, casts, and 1×1 convolutions across heads (talking heads, Shazeer et al., 2020)."""
    if is_op(node, *_BETWEEN) or as_view(node) is not None:
        return True
    weight = constant(node.inputs[1]) if is_op(node, "Conv") else None
    return weight is not None and set(weight.shape[2:]) == {1}


def _search_forward(value: ir.Value, steps: int) -> list[ir.Node] | None:
    """The nodes from `value` on to its product with the values, which comes last."""
    if steps == 0:
        return None
    readers = sorted((u.node for u in value.uses()), key=lambda n: not is_dynamic_product(n))
    for reader in readers:
        if is_dynamic_product(reader):
            return [reader]
        scaling = is_op(reader, "Mul", "Div") and any(
            constant(v) is not None for v in reader.inputs
        )
        if scaling or (_transparent(reader) and reader.inputs[0] is value):
            found = _search_forward(reader.outputs[0], steps - 1)
            if found is not None:
                return [reader, *found]
    return None


def attention_facts(core: Core, batch: int) -> dict[str, Any]:
    """What kind of attention it is, and its sizes.

    Returns:
        ``kind``; ``heads``, ``windows`` (per image) and ``dilated`` (whether a window skips pixels
        of a map) where they can be told, else None; ``queries``, ``keys``, ``key_channels`` and
        ``value_channels``, sizes of one matrix (in cross-covariance attention tokens and channels
        change places); ``score_shape``; ``normalised``, whether queries and keys are
        L2-normalised.
    """
    q, k = core.scores.inputs
    v = core.product.inputs[core.value_side]
    q_shape, k_shape, v_shape = (shape_of(x) or () for x in (q, k, v))
    facts: dict[str, Any] = {
        "kind": "attention",
        "heads": None,
        "windows": 1,
        "dilated": None,
        "queries": q_shape[-2],
        "keys": k_shape[-1],
        "key_channels": q_shape[-1],
        "value_channels": v_shape[-1] if core.value_side == 1 else v_shape[-2],
        "score_shape": shape_of(core.scores.outputs[0]),
        "normalised": _is_normalised(q) and _is_normalised(k),
    }
    token_axes = {"q": -2, "k": -1, "v": -2 if core.value_side == 1 else -1}
    for name, operand in (("q", q), ("k", k), ("v", v)):
        origin = trace(operand)
        shape = shape_of(operand)
        if origin is None or shape is None or len(shape) < 3:
            continue
        _tell(facts, origin, len(shape), token_axes[name] % len(shape), batch)
        if facts["heads"] is not None:
            break
    return facts


def _tell(facts: dict[str, Any], origin: Origin, rank: int, tokens: int, batch: int) -> None:
    leading = range(rank - 2)
    channel = origin.channel_axis
    others = [i for i in range(len(origin.coordinates)) if i != channel]
    facts["heads"] = origin.count([channel], leading)
    if origin.varies(channel, [tokens]) and not any(origin.varies(i, [tokens]) for i in others):
        facts["kind"] = "cross_covariance_attention"
        return
    groups = origin.count(others, leading)
    if groups <= batch:
        return
    facts["kind"], facts["windows"] = "window_attention", groups // batch
    if channel == 1 and len(origin.coordinates) == 4:  # a map: neighbours are pixels
        facts["dilated"] = any(origin.step(axis, tokens) > 1 for axis in others)


def _is_normalised(value: ir.Value | None) -> bool:
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None:
            return False
        if is_op(node, "LpNormalization"):
            return True
        if as_view(node) is None and not is_op(node, "Mul", "Div"):
            return False
        value = next((v for v in node.inputs if constant(v) is None), None)
    return False
