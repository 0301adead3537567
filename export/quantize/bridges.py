"""Bridge blocks: where a network passes between feature maps and tokens.

Hybrid networks change between a local representation (maps, N×C×H×W, convolutions) and a global one
(tokens or heads, attention). The layers around such a change see tensors that are laid out anew and
normalised differently, and their errors depend on each other; Q-HyViT (Lee et al., arXiv
2303.12557, section III) calls them bridge blocks and measures quantization error behind them.

They are found from the graph alone. Every activation is read as a map, as tokens or as neither: a
convolution writes a map, and a chain of views (Reshape, Transpose, SpaceToDepth, …) keeps it one as
long as height and width have an axis each. Channel shuffles, pixel shuffles and channels-last
permutations therefore are no bridges. Where a chain mixes the two axes, tokens begin; where a
chain of tokens ends in the height and width that they came from, the map is back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from edgec.export.quantize.graph import constant_of
from edgec.export.rewrite.graph import ints, is_op, module_of, shape_of
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.view_nodes import extend

Direction = Literal["to_tokens", "to_map"]

_VIEWS = (
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "SpaceToDepth",
    "DepthToSpace",
)  # fmt: skip
_SPATIAL = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "Resize")
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_POINTWISE = frozenset({
    "Add", "BatchNormalization", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "LpNormalization", "Mish", "Mul", "Neg", "PRelu", "Pow",
    "RMSNormalization", "Reciprocal", "Relu", "Resize", "Selu", "Sigmoid", "Softmax", "Softplus",
    "Sqrt", "Sub", "Tanh",
})  # fmt: skip
"""Operators that keep the layout, and that a bridge extends through."""


@dataclass(frozen=True)
class Bridge:
    """One transition; all names are of the given graph.

    Attributes:
        name: module path that the layers have in common, else the name of the first node.
        direction: ``"to_tokens"`` (local to global) or ``"to_map"`` (global to local).
        nodes: every node between entries and exits, in graph order.
        layers: those of them with constant weights.
        views: those of them that lay the tensor out anew.
        entries: activations from outside that the nodes read.
        exits: activations that leave: what the layers behind the views write, and what a
            residual connection reads on the way.
        module: module path in common, if there is one.
    """

    name: str
    direction: Direction
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    views: tuple[str, ...]
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    module: str | None = None


def find_bridges(model: ir.Model) -> list[Bridge]:
    """All bridge blocks, in graph order.

    Views that share the layer before them or the operator behind them are one block: the query,
    key and value of one attention are one transition.

    Args:
        model: graph with static shapes, as captured or rewritten; not modified. Module paths are
            used for names only.
    """
    return _Finder(model).find()


@dataclass(frozen=True)
class _Map:
    size: tuple[int, int]


@dataclass(frozen=True)
class _Tokens:
    sizes: frozenset[tuple[int, int]]  # of the maps that they came from


_Layout = _Map | _Tokens | None


@dataclass
class _Draft:
    """A bridge while its parts are collected."""

    direction: Direction
    views: set[ir.Node]
    before: set[ir.Node]
    behind: set[ir.Node]
    anchors: set[ir.Value | ir.Node] = field(default_factory=set)
    exits: set[ir.Value] = field(default_factory=set)

    def absorb(self, other: _Draft) -> None:
        self.views |= other.views
        self.before |= other.before
        self.behind |= other.behind
        self.anchors |= other.anchors
        self.exits |= other.exits


class _Finder:
    def __init__(self, model: ir.Model) -> None:
        self.nodes = list(model.graph)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.layout: dict[ir.Value, _Layout] = {}
        # of a value behind views: where the chain starts, the chain as one view (None: it does not
        # compose), and its nodes
        self.chain: dict[ir.Value, tuple[ir.Value, View | None, tuple[ir.Node, ...]]] = {}
        for value in model.graph.inputs:
            shape = shape_of(value)
            self.layout[value] = _map(shape) if shape is not None and len(shape) == 4 else None

    def find(self) -> list[Bridge]:
        for node in self.nodes:
            self._read(node)
        drafts: list[_Draft] = []
        for value in list(self.chain):
            draft = self._draft(value)
            if draft is None:
                continue
            for other in [d for d in drafts if d.direction == draft.direction]:
                if other.anchors & draft.anchors:
                    draft.absorb(other)
                    drafts.remove(other)
            drafts.append(draft)
        bridges = [self._bridge(draft) for draft in drafts]
        position = {str(node.name): i for i, node in enumerate(self.nodes)}
        return sorted(bridges, key=lambda b: (position[b.views[0]], b.direction))

    # --- layouts ---------------------------------------------------------------------------

    def _read(self, node: ir.Node) -> None:
        """Layouts of what a node writes."""
        if is_op(node, *_VIEWS) and node.inputs[0] is not None:
            self._read_view(node, node.inputs[0])
            return
        for value in node.outputs:
            shape = shape_of(value)
            self.layout[value] = None if shape is None else self._written(node, shape)

    def _read_view(self, node: ir.Node, source: ir.Value) -> None:
        root, view, nodes = self.chain.get(source, (source, _identity(source), ()))
        view = None if view is None else extend(view, node)
        written = node.outputs[0]
        self.chain[written] = (root, view, (*nodes, node))
        shape, layout = shape_of(written), self.layout.get(root)
        if shape is None or layout is None or len(shape) < 3:
            self.layout[written] = None
        elif isinstance(layout, _Map):
            kept = len(shape) == 4 and view is not None and _keeps_axes(view)
            if kept:
                self.layout[written] = _map(shape)
            else:
                self.layout[written] = _Tokens(frozenset({layout.size}))
        else:
            back = len(shape) == 4 and shape[2:] in layout.sizes
            self.layout[written] = _map(shape) if back else layout

    def _written(self, node: ir.Node, shape: tuple[int, ...]) -> _Layout:
        known = [self.layout.get(v) for v in node.inputs if v is not None]
        tokens = [layout for layout in known if isinstance(layout, _Tokens)]
        maps = [layout for layout in known if isinstance(layout, _Map)]
        merged = _Tokens(frozenset().union(*(t.sizes for t in tokens))) if tokens else None
        if is_op(node, *_PRODUCTS):
            if maps and len(shape) >= 3:
                pointwise = len(maps) == 1 and not tokens and len(shape) == 4
                return maps[0] if pointwise else _Tokens(frozenset(m.size for m in maps))
            return merged if len(shape) >= 3 else None
        if is_op(node, *_SPATIAL) and len(shape) == 4:
            return merged if merged is not None and _is_pointwise(node) else _map(shape)
        if maps and len(shape) == 4:
            return _map(shape)
        return merged if len(shape) >= 3 else None

    # --- bridges ---------------------------------------------------------------------------

    def _draft(self, value: ir.Value) -> _Draft | None:
        """The bridge that ends its views in `value`, if they end there and change the layout."""
        root, _, views = self.chain[value]
        if all(is_op(use.node, *_VIEWS) for use in value.uses()) and not value.is_graph_output():
            return None
        before, after = self.layout.get(root), self.layout.get(value)
        if isinstance(before, _Map) and isinstance(after, _Tokens):
            direction: Direction = "to_tokens"
        elif isinstance(before, _Tokens) and isinstance(after, _Map):
            direction = "to_map"
        else:
            return None
        draft = _Draft(direction, set(views), set(), set(), {root})
        self._walk_back(draft, root)
        self._walk_on(draft, value)
        return draft

    def _walk_back(self, draft: _Draft, root: ir.Value) -> None:
        """Collect the layer that writes the tensor, and what lies between it and the views."""
        pending, residual = [(root, 0)], set()
        while pending:
            value, joins = pending.pop()
            node = value.producer()
            if node is None or node in draft.before:
                continue
            if _is_layer(node) or is_op(node, *_PRODUCTS):
                draft.before.add(node)
                if not joins:  # layers that read the same tensor are one transition
                    draft.anchors.update(_activations(node))
                continue
            sources = _activations(node)
            if node.op_type not in _POINTWISE or not sources:
                continue
            joined = len(sources) > 1 and not _is_gate(node)
            if joined and joins:
                continue
            if joined:
                residual.add(node)
            draft.before.add(node)
            pending += [(source, joins + joined) for source in sources]
        for node in sorted(residual, key=self.order.__getitem__, reverse=True):
            # an Add whose arms lead to no layer belongs to the blocks before it
            if not any(v.producer() in draft.before for v in _activations(node)):
                self._forget(draft, node)

    def _forget(self, draft: _Draft, last: ir.Node) -> None:
        draft.before.discard(last)
        for value in _activations(last):
            producer = value.producer()
            if producer in draft.before:
                self._forget(draft, producer)

    def _walk_on(self, draft: _Draft, end: ir.Value) -> None:
        """Collect what reads the tensor, up to the layers or products behind it."""
        inside = {end}
        if end.is_graph_output():
            draft.exits.add(end)
        first = min(self.order[use.node] for use in end.uses()) if end.uses() else len(self.nodes)
        for node in self.nodes[first:]:
            read = [v for v in _activations(node) if v in inside]
            if not read:
                continue
            if _is_layer(node) or is_op(node, *_PRODUCTS):
                draft.behind.add(node)
                draft.anchors.add(node)
                draft.exits.add(self._behind_bias(draft, node))
            elif len(read) == len(_activations(node)) and (
                node.op_type in _POINTWISE or is_op(node, *_VIEWS)
            ):
                draft.behind.add(node)
                inside.update(node.outputs)
            else:
                draft.exits.update(read)

    def _behind_bias(self, draft: _Draft, node: ir.Node) -> ir.Value:
        value = node.outputs[0]
        uses = list(value.uses())
        if is_op(node, "MatMul") and len(uses) == 1 and is_op(uses[0].node, "Add"):
            add = uses[0].node
            if len(_activations(add)) == 1:
                draft.behind.add(add)
                return add.outputs[0]
        return value

    def _bridge(self, draft: _Draft) -> Bridge:
        nodes = sorted(draft.before | draft.views | draft.behind, key=self.order.__getitem__)
        written = {v for node in nodes for v in node.outputs}
        entries = dict.fromkeys(
            str(v.name) for node in nodes for v in _activations(node) if v not in written
        )
        exits = [str(v.name) for node in nodes for v in node.outputs if v in draft.exits]
        module = _common_module(nodes)
        return Bridge(
            name=module or str(nodes[0].name),
            direction=draft.direction,
            nodes=tuple(str(node.name) for node in nodes),
            layers=tuple(str(node.name) for node in nodes if _is_layer(node)),
            views=tuple(str(node.name) for node in nodes if node in draft.views),
            entries=tuple(entries),
            exits=tuple(exits),
            module=module,
        )


def _map(shape: tuple[int, ...]) -> _Map | None:
    """The layout of a rank 4 value; a single position is a vector."""
    return _Map((shape[2], shape[3])) if shape[2] * shape[3] > 1 else None


def _identity(value: ir.Value) -> View | None:
    shape = shape_of(value)
    return None if shape is None or 0 in shape else View.identity(shape)


def _keeps_axes(view: View) -> bool:
    """Whether some axis of the result holds only rows of an N×C×H×W input, another only columns."""
    owner: list[int] = []
    for axis, size in enumerate(view.in_shape):
        rest = size
        while rest > 1:
            rest //= view.sizes[len(owner)]
            owner.append(axis)
    held = [{owner[i] for i in group} for group in view.groups()]
    rows = view.in_shape[2] == 1 or {2} in held
    return rows and (view.in_shape[3] == 1 or {3} in held)


def _is_pointwise(node: ir.Node) -> bool:
    """A convolution that looks at one position at a time."""
    if node.op_type != "Conv":
        return False
    weight = shape_of(node.inputs[1])
    strides = ints(node, "strides") or ()
    return weight is not None and set(weight[2:]) <= {1} and set(strides) <= {1}


def _is_layer(node: ir.Node) -> bool:
    return is_op(node, "Conv", "ConvTranspose", "MatMul", "Gemm") and any(
        constant_of(v) is not None for v in node.inputs[:2]
    )


def _is_gate(node: ir.Node) -> bool:
    """x · f(x), as SiLU is written."""
    if node.op_type != "Mul":
        return False
    left, right = node.inputs[0], node.inputs[1]
    return any(
        a is not None and (p := a.producer()) is not None and b in p.inputs
        for a, b in ((left, right), (right, left))
    )


def _activations(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None and constant_of(v) is None]


def _common_module(nodes: Sequence[ir.Node]) -> str | None:
    paths = [path.split(".") for node in nodes if (path := module_of(node))]
    if not paths:
        return None
    return ".".join(_shared(paths)) or None


def _shared(paths: list[list[str]]) -> Iterator[str]:
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            return
        yield parts[0]
