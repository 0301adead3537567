"""How a graph is divided, once it is known which operators a delegate takes."""

from __future__ import annotations

import pytest

from edgec.export.emit.tflite.delegates.partition import Partitioning, divide, predict
from edgec.export.tflite.model import Operator, Subgraph, Tensor
from edgec.targets.operators.delegates import delegate_table


def chain(*codes: str) -> Subgraph:
    """Operators of one input each, one behind the other."""
    tensors = [Tensor(f"t{i}", (1, 4), "FLOAT32") for i in range(len(codes) + 1)]
    operators = [Operator(code, [i], [i + 1]) for i, code in enumerate(codes)]
    return Subgraph(tensors, [0], [len(codes)], operators)


def parts(graph: Subgraph, refused: set[int], *, first_only: bool = False) -> Partitioning:
    reasons = ["no kernel" if i in refused else "" for i in range(len(graph.operators))]
    return divide(graph, delegate_table("xnnpack"), reasons, first_only=first_only)


def test_a_chain_is_cut_where_an_operator_is_left() -> None:
    found = parts(chain("ABS", "EXP", "ABS", "ABS"), {1})
    assert found.parts == ((0,), (2, 3))
    assert [(o.operator, o.splits, o.where) for o in found.left] == [(1, True, "t2")]
    assert found.share == 75
    assert found.line() == "XNNPACK: 2 partitions, 75 % of operators; left: 1 EXP (t2)"


@pytest.mark.parametrize(("refused", "whole"), [({0}, ((1, 2),)), ({2}, ((0, 1),))])
def test_ends_do_not_divide(refused: set[int], whole: tuple[tuple[int, ...], ...]) -> None:
    found = parts(chain("ABS", "EXP", "ABS"), refused)
    assert found.parts == whole
    assert found.breakers == ()
    assert len(found.left) == 1


def test_a_side_branch_joins_the_first_part() -> None:
    # t0 -ABS-> t1 -EXP-> t2 -+-> ADD; t0 -NEG-> t3 -+: NEG is ready before EXP is
    tensors = [Tensor(f"t{i}", (1, 4), "FLOAT32") for i in range(5)]
    operators = [
        Operator("ABS", [0], [1]),
        Operator("EXP", [1], [2]),
        Operator("NEG", [0], [3]),
        Operator("ADD", [2, 3], [4]),
    ]
    found = parts(Subgraph(tensors, [0], [4], operators), {1})
    assert found.parts == ((0, 2), (3,))


def test_a_parallel_branch_that_is_left_does_not_divide() -> None:
    tensors = [Tensor(f"t{i}", (1, 4), "FLOAT32") for i in range(4)]
    operators = [
        Operator("EXP", [0], [1]),
        Operator("ABS", [0], [2]),
        Operator("ADD", [1, 2], [3]),
    ]
    found = parts(Subgraph(tensors, [0], [3], operators), {0})
    assert found.parts == ((1, 2),)
    assert found.breakers == ()


def test_a_compiler_of_one_part_leaves_all_behind_it() -> None:
    found = parts(chain("ABS", "EXP", "ABS", "NEG"), {1}, first_only=True)
    assert found.parts == ((0,),)
    assert found.left[0].why == "no kernel"
    assert all("behind operators" in o.why for o in found.left[1:])
    assert found.line().endswith("25 % of operators, up to EXP (t2): no kernel")


def test_nothing_taken_and_nothing_there() -> None:
    assert parts(chain("EXP"), {0}).line().startswith("XNNPACK: 0 partitions, 0 % of operators")
    assert parts(chain(), set()).share == 0
    assert predict(chain("ABS", "ABS"), "xnnpack").line() == (
        "XNNPACK: 1 partition, 100 % of operators"
    )


def test_modules_and_reasons_reach_the_manifest() -> None:
    found = predict(chain("ABS", "CUMSUM", "ABS"), "xnnpack", ["a", "head.sum", "b"]).to_json()
    assert found["partitions"] == 2
    assert found["left"] == [
        {
            "operator": "CUMSUM",
            "where": "head.sum",
            "why": "XNNPACK has no CUMSUM",
            "splits": True,
        }
    ]
