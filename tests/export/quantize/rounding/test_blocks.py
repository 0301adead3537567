"""Blocks: cut where few tensors are alive, joined by module, complete and disjoint."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.rounding.blocks import Block, find_blocks
from edgec.export.quantize.scheme import ORT_X86, TENSORRT


def blocks_of(model, **options) -> tuple[Block, ...]:
    return find_blocks(model, plan_quantization(model, ORT_X86), **options)


@pytest.fixture
def graph(hybrid):
    return prepared_copy(hybrid)


def rename(model, modules: dict[str, str]) -> None:
    for node in model.graph:
        node.metadata_props["edgec.module"] = modules[str(node.outputs[0].name)]


def by_stage(name: str) -> str:
    if name in ("c0", "r0"):
        return "stem"
    if name in ("c1", "s1", "m1", "c2", "a2"):
        return "body.0"
    return "head" if name in ("g", "y") else "body.1"


@pytest.mark.parametrize("layers", [1, 3, 6, 20])
def test_blocks_are_the_graph_once(graph, layers):
    blocks = blocks_of(graph, max_layers=layers)
    assert [n for block in blocks for n in block.nodes] == [str(n.name) for n in graph.graph]
    keys = [key for block in blocks for key in block.weights]
    assert sorted(keys) == sorted(
        {(w.tensor, w.axis) for w in plan_quantization(graph, ORT_X86).weights if not w.operand}
    )
    assert all(block.weights for block in blocks)


@pytest.mark.parametrize("layers", [1, 6])
def test_every_block_can_be_computed_from_its_inputs_alone(graph, layers):
    replay = Replay(graph)
    blocks = blocks_of(graph, max_layers=layers)
    assert blocks[0].inputs == ("x",)
    assert blocks[-1].outputs == ("y",)
    for block, following in pairwise(blocks):
        assert block.alive == following.inputs
    for block in blocks:
        part = replay.between(block.inputs, block.outputs)
        assert {step.name for step in part.steps} <= set(block.nodes)


def test_residual_blocks_are_whole(graph):
    rename(graph, {str(n.outputs[0].name): by_stage(str(n.outputs[0].name)) for n in graph.graph})
    blocks = blocks_of(graph, max_layers=2)
    assert [block.name for block in blocks] == ["stem", "body.0", "body.1", "head"]
    assert [block.outputs for block in blocks] == [("r0",), ("t1",), ("g",), ("y",)]
    assert {w for w, _ in blocks[1].weights} == {"dw.w", "pw.w"}
    assert {w for w, _ in blocks[2].weights} == {"qkv.w", "proj.w"}


def test_a_module_that_is_too_large_stays_apart(graph):
    """`block` of the fixture holds everything but the stem: five quantized weights."""
    assert len(blocks_of(graph, max_layers=6)) == 2
    assert len(blocks_of(graph, max_layers=4)) > 3


def test_long_runs_are_cut_where_two_tensors_are_alive(graph):
    blocks = blocks_of(graph, max_layers=1)
    assert [len(block.weights) for block in blocks] == [1] * 6
    assert blocks[1].alive == ("r0", "m1")


def test_without_module_paths_only_the_graph_decides(graph):
    for node in graph.graph:
        node.metadata_props.pop("edgec.module")
    blocks = blocks_of(graph)
    assert [block.outputs for block in blocks] == [("r0",), ("t1",), ("g",), ("y",)]
    assert blocks[0].name == "node_c0"


def test_nothing_quantized_gives_no_blocks(graph):
    plan = plan_quantization(graph, TENSORRT, exclude=[str(n.name) for n in graph.graph])
    assert find_blocks(graph, plan) == ()


def test_a_shared_weight_belongs_to_its_first_block(build, node):
    import numpy as np

    weight = np.ones((4, 4, 1, 1), np.float32)
    model = build(
        [node("Conv", ["x", "w"], ["a"]), node("Conv", ["a", "w"], ["y"])],
        {"x": [1, 4, 2, 2]},
        {"y": [1, 4, 2, 2]},
        {"w": weight},
    )
    blocks = blocks_of(model, max_layers=1)
    assert [block.weights for block in blocks] == [(("w", 0),), ()]


def test_names_are_unique(graph):
    for node in graph.graph:
        node.metadata_props["edgec.module"] = "net"
    names = [block.name for block in blocks_of(graph, max_layers=2)]
    assert names == ["net", "node_c1", "node_l0", "node_y"]
