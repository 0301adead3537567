"""Reads the marks of a graph back: which patterns it holds, where they begin and end.

Only kind and membership come from the marks; inputs, outputs and facts are derived from the graph
as it is, so they are right after any number of rewrites, at any opset and between
QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgec.export.rewrite.graph import constant, float_attr, int_attr, is_op, module_of, shape_of
from edgec.export.rewrite.recognise.attention import KINDS as ATTENTION_KINDS
from edgec.export.rewrite.recognise.attention import attention_facts, batch_of, match_core
from edgec.export.rewrite.recognise.marks import KINDS, marks_of

_CORE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((*ATTENTION_KINDS, "separable_attention"), ("Softmax",)),
    "squeeze_excite": ("Mul",),
    "dynamic_relu": ("Max",),
    "gelu": ("Gelu", "Erf", "Tanh"),
    "silu": ("Sigmoid",),
    "hard_swish": ("HardSwish", "HardSigmoid", "Clip"),
    "hard_sigmoid": ("HardSigmoid", "Clip"),
}
"""Kind → operators of which one must be left; without it a rewrite has dissolved the pattern."""

_CARRIERS = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")


@dataclass(frozen=True)
class Pattern:
    """One recognised pattern.

    Attributes:
        kind: a key of `marks.KINDS`.
        number: tells patterns of one kind apart.
        nodes: its nodes in the order of the graph.
        inputs: computed tensors it reads from outside, in the order they are read; constants are
            parameters and not listed.
        outputs: its tensors that are read outside, or are outputs of the graph.
        facts: sizes and settings; see `attention_facts` for attention, else `_FACTS`.
        module: source module path of its last node that has one.
    """

    kind: str
    number: int
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    module: str | None = None


def patterns(model: ir.Model) -> list[Pattern]:
    """All patterns of the graph and its subgraphs, in the order of their first nodes.

    Two marks on the very same nodes (duplicates that were merged) count once.
    """
    batch = batch_of(model)
    found = []
    for kind, number, nodes in _groups(model):
        inputs, outputs = _boundary(nodes)
        module = next((m for node in reversed(nodes) if (m := module_of(node))), None)
        facts = _facts(kind, nodes, batch)
        found.append(Pattern(kind, number, tuple(nodes), inputs, outputs, facts, module))
    return found


def _groups(model: ir.Model) -> Iterator[tuple[str, int, list[ir.Node]]]:
    """(kind, number, nodes) of every pattern that is still one."""
    members: dict[str, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        for mark in marks_of(node):
            members.setdefault(mark, []).append(node)
    seen: set[tuple[Any, ...]] = set()
    for mark, nodes in members.items():
        kind, _, number = mark.partition("#")
        identity = (kind, *(id(node) for node in nodes))
        if kind in KINDS and identity not in seen and _has_core(kind, nodes):
            seen.add(identity)
            yield kind, int(number), nodes


def counts(model: ir.Model) -> dict[str, int]:
    """Kind → number of patterns, in the order of `KINDS`; kinds that do not occur are left out."""
    found = Counter(kind for kind, _, _ in _groups(model))
    return {kind: found[kind] for kind in KINDS if found[kind]}


def recognised(model: ir.Model) -> str:
    """One line for reports: ``recognised: 3 window attention, 6 GELU``."""
    parts = [f"{number} {KINDS[kind]}" for kind, number in counts(model).items()]
    return f"recognised: {', '.join(parts) or 'nothing'}"


def _has_core(kind: str, nodes: list[ir.Node]) -> bool:
    return kind not in _CORE or any(is_op(node, *_CORE[kind]) for node in nodes)


def _boundary(nodes: list[ir.Node]) -> tuple[tuple[ir.Value, ...], tuple[ir.Value, ...]]:
    inside = {id(node) for node in nodes}
    inputs: dict[int, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or constant(value) is not None:
                continue
            if not _made_inside(value, inside):
                inputs.setdefault(id(value), value)
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or _leaves(value, inside)
    ]
    return tuple(inputs.values()), tuple(outputs)


def _made_inside(value: ir.Value, inside: set[int]) -> bool:
    """Whether `value` comes from the pattern, perhaps by way of quantization or a cast."""
    node = value.producer()
    while node is not None and id(node) not in inside and is_op(node, *_CARRIERS):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node is not None and id(node) in inside


def _leaves(value: ir.Value, inside: set[int]) -> bool:
    """Whether anything outside of the pattern reads `value`, perhaps by way of a carrier."""
    pending = [value]
    while pending:
        for use in pending.pop().uses():
            if id(use.node) in inside:
                continue
            if not is_op(use.node, *_CARRIERS):
                return True
            if any(v.is_graph_output() for v in use.node.outputs):
                return True
            pending += use.node.outputs
    return False


def _facts(kind: str, nodes: list[ir.Node], batch: int) -> dict[str, Any]:
    if kind in ATTENTION_KINDS:
        softmax = next(node for node in nodes if is_op(node, "Softmax"))
        core = match_core(softmax)
        return {} if isinstance(core, str) else attention_facts(core, batch)
    derive = _FACTS.get(kind)
    return {} if derive is None else derive(nodes)


def _gelu(nodes: list[ir.Node]) -> dict[str, Any]:
    tanh = any(
        is_op(node, "Tanh")
        or (
            is_op(node, "Gelu")
            and "approximate" in node.attributes
            and node.attributes["approximate"].as_string() == "tanh"
        )
        for node in nodes
    )
    return {"approximate": "tanh" if tanh else "none"}


def _norm(nodes: list[ir.Node]) -> dict[str, Any]:
    """Shape and first normalised axis, where one operator is left; ε."""
    for node in nodes:
        if is_op(node, "LayerNormalization", "InstanceNormalization", "GroupNormalization"):
            shape = shape_of(node.inputs[0])
            facts: dict[str, Any] = {"shape": shape, "epsilon": float_attr(node, "epsilon", 1e-5)}
            if is_op(node, "LayerNormalization") and shape is not None:
                facts["axis"] = int_attr(node, "axis", -1) % len(shape)
            return facts
    return {}


def _l2_norm(nodes: list[ir.Node]) -> dict[str, Any]:
    for node in nodes:
        shape = shape_of(node.inputs[0])
        if is_op(node, "LpNormalization") and shape is not None:
            return {"shape": shape, "axis": int_attr(node, "axis", -1) % len(shape)}
    return {}


def _shuffle(nodes: list[ir.Node]) -> dict[str, Any]:
    for node in nodes:
        if is_op(node, "DepthToSpace", "SpaceToDepth"):
            return {"blocksize": int_attr(node, "blocksize", 1)}
    return {}


_FACTS: Mapping[str, Callable[[list[ir.Node]], dict[str, Any]]] = {
    "gelu": _gelu,
    "layer_norm": _norm,
    "group_norm": _norm,
    "instance_norm": _norm,
    "l2_norm": _l2_norm,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _shuffle,
}
"""Kind → its facts: ``approximate`` of GELU; ``shape``, ``axis``, ``epsilon`` of norms;
``blocksize``. Kinds without an entry have none."""
