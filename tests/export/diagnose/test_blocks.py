"""Blocks: a partition in the names of the source."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.export.diagnose.blocks import find_blocks
from edgec.export.quantize.graph import is_excluded
from edgec.export.rewrite.graph import MODULE_KEY


def chain(paths: list[str | None]) -> ir.Model:
    """Relu after Relu, one per path."""
    value = ir.val("x", ir.DataType.FLOAT, [1, 4])
    start = value
    nodes = []
    for position, path in enumerate(paths):
        node = ir.node("Relu", [value], name=f"r{position}")
        node.outputs[0].name = f"v{position}"
        if path is not None:
            node.metadata_props[MODULE_KEY] = path
        value = node.outputs[0]
        nodes.append(node)
    graph = ir.Graph([start], [value], nodes=nodes, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_the_tree_is_opened_where_it_is_large() -> None:
    paths = ["stem"] * 2 + [
        f"stages.{s}.{b}.conv" for s in (0, 1) for b in (0, 1) for _ in range(9)
    ]
    names = [block.name for block in find_blocks(chain(paths), most=5)]
    assert names == ["stem", "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]
    names = [block.name for block in find_blocks(chain(paths), most=3)]
    assert names == ["stem", "stages.0", "stages.1"]


def test_outputs_are_what_others_read() -> None:
    first, second = find_blocks(chain(["a", "a", "b", "b"]))
    assert (first.nodes, first.outputs) == (("r0", "r1"), ("v1",))
    assert (second.nodes, second.outputs) == (("r2", "r3"), ("v3",))


PATH = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.none() | PATH, min_size=1, max_size=60), st.integers(1, 12))
def test_it_is_a_partition_and_the_entries_name_the_block(paths: Any, most: int) -> None:
    model = chain(paths)
    blocks = find_blocks(model, most)
    names = [name for block in blocks for name in block.nodes]
    assert sorted(names) == sorted(str(node.name) for node in model.graph)
    assert len(set(names)) == len(names)
    top = {(p or "Relu").split(".")[0] if p else f"r{i}" for i, p in enumerate(paths)}
    assert len(blocks) <= max(most, len(top))
    for block in blocks:
        named = {str(n.name) for n in model.graph if is_excluded(n, block.keep_float)}
        assert named == set(block.nodes)


@pytest.mark.parametrize("name", ["/layer1/conv/Conv", "layer1.conv.Conv"])
def test_names_of_nodes_stand_in_for_modules(name: str) -> None:
    model = chain([None] * 3)
    for node in model.graph:
        node.name = f"{name}_{node.name}"
    assert [block.name for block in find_blocks(model)] == ["layer1"]
