"""The blocks of a network, in the names of its source.

Module paths form a tree. The tree is opened where it holds most nodes until there are about as many
blocks as a table has lines: no convention of naming is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgec.export.quantize.graph import constant_of
from edgec.export.rewrite.graph import MODULE_KEY

MOST_BLOCKS = 24
FEWEST_NODES = 6
"""Groups of fewer nodes are not opened further."""

Path = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Nodes of one module.

    Attributes:
        name: module path, as ``--keep-float`` takes it; for nodes without a module, what their
            names have in common.
        nodes: names, in graph order.
        outputs: tensors that nodes outside read, or that are outputs of the graph.
        keep_float: entries of ``--keep-float`` that name these nodes and no others.
    """

    name: str
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]
    keep_float: tuple[str, ...]


def find_blocks(model: ir.Model, most: int = MOST_BLOCKS) -> list[Block]:
    """Partition the nodes of the main graph.

    Args:
        model: nodes and values have unique names.
        most: number of blocks that is not exceeded, unless the network's top level does.

    Returns:
        Blocks in the order of their first node.
    """
    paths = {node: _path(node) for node in model.graph}
    groups: dict[Path, list[ir.Node]] = {}
    for node, path in paths.items():
        groups.setdefault(path[:1], []).append(node)
    closed: set[Path] = set()
    while True:
        largest = max(
            (g for g in groups if g not in closed and len(groups[g]) >= FEWEST_NODES),
            key=lambda g: len(groups[g]),
            default=None,
        )
        if largest is None:
            break
        parts: dict[Path, list[ir.Node]] = {}
        for node in groups[largest]:
            parts.setdefault(paths[node][: len(largest) + 1], []).append(node)
        deepest = all(part == largest for part in parts)
        if deepest or len(groups) - 1 + len(parts) > most:
            closed.add(largest)
            continue
        del groups[largest]
        # nodes of the module itself stay behind under its name, and cannot be opened again
        if largest in parts:
            closed.add(largest)
        groups |= parts
    below = Counter(path[:depth] for path in paths.values() for depth in range(1, len(path) + 1))
    order = {node: position for position, node in enumerate(paths)}
    ordered = sorted(groups.items(), key=lambda item: order[item[1][0]])
    return [_block(path, nodes, below) for path, nodes in ordered]


def _path(node: ir.Node) -> Path:
    module = node.metadata_props.get(MODULE_KEY)
    if module:
        return tuple(module.split("."))
    return tuple(part for part in re.split(r"[/.]", node.name or "") if part) or (node.op_type,)


def _block(path: Path, nodes: list[ir.Node], below: Mapping[Path, int]) -> Block:
    members = set(nodes)
    outputs = [
        str(value.name)
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in members for use in value.uses())
    ]
    while len(path) > 1 and below[path[:-1]] == len(nodes):
        path = path[:-1]  # the parent holds nothing else: its name says the same, shorter
    name = ".".join(path)
    if below[path] == len(nodes) and all(node.metadata_props.get(MODULE_KEY) for node in nodes):
        keep: tuple[str, ...] = (name,)
    else:
        keep = tuple(str(node.name) for node in nodes if constant_of(node.outputs[0]) is None)
    return Block(name, tuple(str(node.name) for node in nodes), tuple(outputs), keep)
