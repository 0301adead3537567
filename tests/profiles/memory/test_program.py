"""Programs: what is refused, what survives JSON, and how long buffers live."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgec.export.errors import InputError
from edgec.profiles.memory.liveness import Life, arena, lifetimes
from edgec.profiles.memory.program import Affine, Buffer, Loop, Overlap, Program, Step
from edgec.profiles.memory.program_json import from_json, to_json
from edgec.profiles.memory.validate import validate


def network() -> Program:
    """An input, two layers with scratch and weights, a residual sum, and a streamed tail."""
    return Program(
        "net",
        (
            Buffer("x", 16, kind="input"),
            Buffer("w", 64, alignment=4, kind="constant"),
            Buffer("a", 32, alignment=8, module="stem.conv"),
            Buffer("tmp", 10, kind="scratch"),
            Buffer("b", 32),
            Buffer("c", 32),
            Buffer("half", 16, parent="c", start=16),
            Buffer("line", 12, ring=3),
            Buffer("local", 4),
            Buffer("y", 16, kind="output"),
        ),
        (
            Step("conv", ("x", "w"), ("a",), ("tmp",), {"stride": 2, "pad": (1, 1)}),
            Step("act", ("a",), ("b",), overlaps=(Overlap("b", "a", 0, True),)),
            Step("add", ("a", "b"), ("c",), overlaps=(Overlap("c", "a", 0), Overlap("c", "b", 3))),
            Loop(
                4,
                (
                    Step("rows", ("half",), ("line",), rows=(Affine(0, 1), Affine(1, 1, high=4))),
                    Step("all", ("line",), ("local",)),
                    Step("rows", ("local",), ("y",), rows=(Affine(0, 1), Affine(1, 1))),
                ),
                "tail",
            ),
        ),
    )


def test_json_keeps_everything() -> None:
    program = network()
    validate(program)
    text = json.dumps(to_json(program))
    assert from_json(json.loads(text)) == program
    assert json.dumps(to_json(from_json(json.loads(text)))) == text


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"schema": "edgec.program/9", "name": "", "buffers": [], "body": []},
        {"schema": "edgec.program/1", "name": "n", "buffers": [{"id": "a"}], "body": []},
        {"schema": "edgec.program/1", "name": "n", "body": [], "buffers": [{"id": 1, "size": "4"}]},
        {"schema": "edgec.program/1", "name": "n", "body": [], "buffers": [{"id": "a", "sise": 4}]},
        {"schema": "edgec.program/1", "name": "n", "buffers": 3, "body": []},
        {"schema": "edgec.program/1", "name": "n", "buffers": [], "body": [{"kernel": "k"}]},
    ],
)  # fmt: skip
def test_other_documents_are_refused(data: Any) -> None:
    with pytest.raises(InputError, match="EC752"):
        from_json(data)


def change(index: int, **fields: Any) -> Program:
    """The network with one buffer changed."""
    program = network()
    buffers = list(program.buffers)
    buffers[index] = replace(buffers[index], **fields)
    return replace(program, buffers=tuple(buffers))


def change_step(index: int, **fields: Any) -> Program:
    """The network with one step changed."""
    program = network()
    body = list(program.body)
    step = body[index]
    assert isinstance(step, Step)
    body[index] = replace(step, **fields)
    return replace(program, body=tuple(body))


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (change(0, id="w"), "twice"),
        (change(0, id=""), "empty"),
        (change(2, size=0), "0 bytes"),
        (change(2, alignment=3), "power of two"),
        (change(2, kind="weights"), "weights"),
        (change(6, start=17), "inside 'c'"),
        (change(6, parent="z"), "unknown parent"),
        (change(6, parent="half"), "part of itself"),
        (change(6, kind="constant"), "different kinds"),
        (change(7, ring=0), "ring of 0"),
        (change_step(0, inputs=("q",)), "unknown buffer 'q'"),
        (change_step(0, inputs=("b",)), "'b' is read before"),
        (change_step(0, outputs=("x",)), "is a input"),
        (change_step(0, outputs=("w",)), "is a constant"),
        (change_step(0, rows=(Affine(0, 1), Affine(1))), "not there"),
        (change_step(1, overlaps=(Overlap("b", "c", 0),)), "input and an output"),
        (change_step(1, overlaps=(Overlap("b", "a", 33),)), "distance 33"),
        (change_step(1, overlaps=(Overlap("b", "a", 1, True),)), "distance 1"),
        (replace(network(), body=network().body[:3]), "nothing writes"),
        (replace(network(), body=(*network().body[:3], Loop(0, (Step("k", (), ()),)))), "runs 0"),
    ],
)  # fmt: skip
def test_programs_that_make_no_sense_are_refused(program: Program, word: str) -> None:
    with pytest.raises(InputError, match="EC751") as caught:
        validate(program)
    assert word in str(caught.value)


def test_lives_reach_from_the_first_to_the_last_use() -> None:
    assert lifetimes(network()) == {
        "x": Life(0, 1),
        "a": Life(0, 3),
        "tmp": Life(0, 1),
        "b": Life(1, 3),
        "c": Life(2, 6),
        # rounds of the loop hand rows on to each other
        "line": Life(3, 6),
        "y": Life(3, 6),
        # written anew and read in each round
        "local": Life(4, 6),
    }


def test_inputs_live_from_the_start_and_outputs_to_the_end() -> None:
    program = Program(
        "late",
        (
            Buffer("x", 1, kind="input"),
            Buffer("y", 1, kind="output"),
            Buffer("z", 1, kind="output"),
        ),
        (Step("k", (), ("y",)), Step("k", ("x",), ("z",)), Step("k", ("x",), ("z",))),
    )
    assert lifetimes(program) == {"x": Life(0, 3), "y": Life(0, 3), "z": Life(1, 3)}


def test_inputs_that_nothing_reads_live_all_the_same() -> None:
    program = network()
    unused = Buffer("u", 8, kind="input")
    with_it = replace(program, buffers=(*program.buffers, unused, Buffer("nowhere", 8)))
    assert lifetimes(with_it) == {**lifetimes(program), "u": Life(0, 1)}


def test_only_inputs_that_die_may_be_overlapped() -> None:
    found = arena(network(), [b.id for b in network().buffers])
    items = found.problem.items
    pairs = {(items[a.below].id, items[a.above].id): a.distance for a in found.problem.allowed}
    # a is needed by the sum, so the activation cannot work in place on it
    assert pairs == {("c", "a"): 0, ("c", "b"): 3}
    assert not arena(network(), ["a", "b", "c"], overlaps=False).problem.allowed


def test_kernels_that_work_in_place_get_one_address() -> None:
    program = Program(
        "in place",
        (Buffer("x", 8, kind="input"), Buffer("a", 8, alignment=4), Buffer("y", 9, kind="output")),
        (
            Step("dw", ("x",), ("a",), overlaps=(Overlap("a", "x", 0, True),)),
            Step("dw", ("a",), ("y",), overlaps=(Overlap("y", "a", 0, True),)),
        ),
    )
    found = arena(program, ["x", "a", "y"])
    # the last one is of another size
    assert found.members == (("x", "a"), ("y",))
    merged = found.problem.items[0]
    assert (merged.lower, merged.upper, merged.alignment) == (0, 2, 4)
