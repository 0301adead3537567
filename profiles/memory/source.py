"""From what the user names (a network, an .onnx file, a table of buffers) to a program to plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.export.capture.onnx_checks import check_proto, read_proto
from edgec.export.check import float_graph
from edgec.export.progress import Reporter
from edgec.profiles.memory.minimalloc_csv import read_csv
from edgec.profiles.memory.problem import Problem
from edgec.profiles.memory.program import Buffer, Program, Step
from edgec.targets.schema import Target


def graph_of(
    model: str, target: Target, options: Mapping[str, Any], reporter: Reporter
) -> ir.Model:
    """The float graph of a network for a target.

    Raises:
        EdgecError: what capturing or rewriting raises.
    """
    return float_graph(model, target, options, reporter)[1]


def graph_as_it_is(path: Path) -> ir.Model:
    """The graph of an .onnx file without any rewriting.

    Raises:
        InputError: not readable, not ONNX, or broken.
    """
    proto = read_proto(path)
    check_proto(proto, path)
    return ir.from_proto(proto)


def program_of_table(path: Path) -> Program:
    """A table of buffers as a program that can be planned: one step for each moment.

    Raises:
        InputError: not such a table.
    """
    problem, _ = read_csv(path)
    return program_of_problem(problem, path.stem)


def program_of_problem(problem: Problem, name: str) -> Program:
    """Steps without a kernel that touch each buffer when it is born and when it is last needed."""
    times = sorted({i.lower for i in problem.items} | {i.upper for i in problem.items})
    step_of = {time: n for n, time in enumerate(times)}
    touched: list[list[str]] = [[] for _ in times[:-1]]
    for item in problem.items:
        for n in {step_of[item.lower], step_of[item.upper] - 1}:
            touched[n].append(item.id)
    buffers = tuple(Buffer(item.id, item.size, item.alignment) for item in problem.items)
    body = tuple(
        Step("", (), tuple(ids), name=f"time {time}")
        for time, ids in zip(times, touched, strict=False)
    )
    return Program(name, buffers, body)
