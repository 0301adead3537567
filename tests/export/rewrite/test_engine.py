"""The stage as a whole: order, verification, dumps, options, determinism, odd graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.errors import InternalError, UnsupportedError, UsageError
from edgec.export.rewrite import check, engine, numerics, stages
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.engine import list_passes, run_stages
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.export.rewrite.stats import graph_stats


class ScaleEverything(RewritePass):
    """A wrong pass."""

    name = "scale-everything"
    change = "x → 1.01·x"

    def rewrite(self, graph: ir.Graph) -> int:
        value = graph.initializers["w"]
        value.const_value = ir.tensor(value.const_value.numpy() * 1.01, name="w")  # type: ignore[union-attr]
        return 1


class ScaleABit(RewritePass):
    """A pass that is wrong by five tolerances."""

    name = "scale-a-bit"
    change = "x → 1.0005·x"

    def rewrite(self, graph: ir.Graph) -> int:
        value = graph.initializers["w"]
        value.const_value = ir.tensor(value.const_value.numpy() * 1.0005, name="w")  # type: ignore[union-attr]
        return 1


class BreakTheGraph(RewritePass):
    """A pass that leaves a graph nobody can run."""

    name = "break-the-graph"
    change = "Relu → Relu of nothing"

    def rewrite(self, graph: ir.Graph) -> int:
        graph[0].attributes["axis"] = ir.AttrInt64("axis", 3)
        return 1


class Stumble(RewritePass):
    """A pass that fails on what a wrong one left."""

    name = "stumble"
    change = "none"

    def rewrite(self, graph: ir.Graph) -> int:
        raise ArithmeticError("no such weight")


@pytest.fixture(params=["light", "heavy"])
def weight(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether passes are checked one by one, or together at the end."""
    monkeypatch.setattr(numerics, "is_heavy", lambda model: request.param == "heavy")
    return str(request.param)


@pytest.fixture
def model(build: Any, rng: np.random.Generator) -> ir.Model:
    text = """net (float[1, 4, 5, 5] x, float[8, 4, 1, 1] w, float[8, 1, 1] s) => (float[1, 8] y)
        <int64[2] axes = {2, 3}>
        { c = Conv(x, w) m = Mul(c, s) i = Identity(m) y = ReduceMean<keepdims=0>(i, axes) }"""
    weights = {
        "w": rng.standard_normal((8, 4, 1, 1)).astype(np.float32),
        "s": rng.standard_normal((8, 1, 1)).astype(np.float32),
    }
    built: ir.Model = build(text, weights)
    for node in built.graph:
        node.metadata_props[MODULE_KEY] = "stage.conv"
    return built


def with_pass(monkeypatch: pytest.MonkeyPatch, *extra: type[RewritePass]) -> None:
    changed = (stages.Stage("test", extra),)
    monkeypatch.setattr(engine, "STAGES", changed)
    monkeypatch.setattr(stages, "STAGES", changed)


def test_report_and_result(model: ir.Model) -> None:
    progress: list[str] = []
    report = run_stages(
        model, target_opset=17, on_progress=lambda name, i, n: progress.append(f"{i}/{n} {name}")
    )
    assert [n.op_type for n in model.graph] == ["Conv", "ReduceMean"]
    assert report.nodes_before == 4
    assert report.nodes_after == 2
    assert report.verified
    assert all(p.max_abs_diff is not None and p.max_abs_diff < 1e-4 for p in report.passes)
    assert json.loads(json.dumps(report.to_json()))["target_opset"] == 17
    assert len(progress) == sum(len(s.passes) for s in stages.STAGES)
    assert model.graph[0].name == "stage.conv/Conv"
    assert "stage.conv.weight" in model.graph.initializers


def test_report_says_what_was_left_alone_and_why(build: Any, rng: np.random.Generator) -> None:
    model = build(
        """net (float[2, 3, 4] x, float[4, 4] w, float[4] b) => (float[2, 3, 4] y)
        { h = MatMul(x, w) k = Add(h, b) y = Softmax<axis = 1>(k) }""",
        {
            "w": rng.standard_normal((4, 4)).astype(np.float32),
            "b": rng.standard_normal(4).astype(np.float32),
        },
    )
    report = run_stages(model, target_opset=20, matrices=True)
    [(node, reason)] = report.refusals["flatten-tokens"]
    assert node
    assert reason == "2 Reshapes for 1 layers with bias"
    assert all(report.refusals.values())
    assert json.loads(json.dumps(report.to_json()))["refusals"]


@pytest.mark.usefixtures("weight")
def test_wrong_pass_is_named_and_dumped(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_pass(monkeypatch, ScaleEverything)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = numerics.serialize(model)
    with pytest.raises(InternalError) as caught:
        run_stages(model, target_opset=20)
    assert caught.value.code == "EC141"
    assert "scale-everything" in caught.value.what
    folder = Path(str(caught.value.where))
    assert (folder / "before.onnx").read_bytes() == before
    # the dump reproduces the difference
    feed = {"x": np.load(folder / "input_x_seed11.npy")}
    a = numerics.run((folder / "before.onnx").read_bytes(), [feed])
    b = numerics.run((folder / "after.onnx").read_bytes(), [feed])
    assert numerics.compare(["y"], a, b) is not None


def test_heavy_networks_run_twice(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "is_heavy", lambda model: True)
    runs = []
    run = check.Snapshot.run
    monkeypatch.setattr(
        check.Snapshot, "run", lambda self, feeds, **how: runs.append(1) or run(self, feeds, **how)
    )
    report = run_stages(model, target_opset=17)
    assert len(runs) == 2 < len(report.passes)
    assert report.verified
    assert report.passes[-1].max_abs_diff is not None


def test_an_error_behind_a_failure_is_named(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(numerics, "is_heavy", lambda model: True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with_pass(monkeypatch, ScaleEverything, Stumble)
    with pytest.raises(InternalError) as caught:
        run_stages(model, target_opset=20)
    assert "scale-everything" in caught.value.what


@pytest.mark.usefixtures("weight")
def test_a_small_error_is_no_noise(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_pass(monkeypatch, ScaleABit)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        run_stages(model, target_opset=20)
    assert caught.value.code == "EC141"


def test_an_input_on_which_the_network_is_chaotic_hides_no_error(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = """net (float[1, 4] x, float[4, 4] w) => (float[1, 4] y)
        <int64[1] axis = {1}, float huge = {3e6}, float shift = {LEVEL}>
        { h = MatMul(x, w) m = ReduceMax<keepdims=1>(x, axis) d = Sub(m, shift) r = Relu(d)
          g = Mul(r, huge) t = Sin(g) y = Add(h, t) }"""
    first, second = (
        numerics.seeded_inputs(
            build(text.replace("LEVEL", "0"), {"w": np.eye(4, dtype=np.float32)}), seed
        )["x"].max()
        for seed in check._SEEDS
    )
    level = str((first + second) / 2)  # the phase of the sine is rounding on one of the two inputs
    right: ir.Model = build(text.replace("LEVEL", level), {"w": np.eye(4, dtype=np.float32)})
    wrong = right.clone()

    class Shuffle(RewritePass):
        """Exact but for rounding, which the sine turns into anything."""

        name = "shuffle"
        change = "m → m·(1+ε)"

        def rewrite(self, graph: ir.Graph) -> int:
            value = graph.initializers["huge"]
            value.const_value = ir.tensor(np.float32(3e6) * np.float32(1 + 2**-23), name="huge")
            return 1

    with_pass(monkeypatch, Shuffle)
    assert run_stages(right, target_opset=20).verified
    with_pass(monkeypatch, ScaleABit)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        run_stages(wrong, target_opset=20)
    assert caught.value.code == "EC141"


@pytest.mark.parametrize(
    ("difference", "noise", "equal"),
    [
        (5e-4, 0.0, False),
        (5e-4, 1e-4, False),
        (5e-4, 2e-4, True),  # three times what rounding does
        (2e-2, 1.0, False),  # but never more than a hundred tolerances
    ],
)
def test_rounding_noise_widens_the_tolerance(difference: float, noise: float, equal: bool) -> None:
    want, got = np.float32([1.0, -1.0]), np.float32([1.0, -1.0 + difference])
    assert (numerics.compare(["y"], [want], [got], noise=[noise]) is None) == equal


@pytest.mark.usefixtures("weight")
def test_pass_that_breaks_the_graph_is_named(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_pass(monkeypatch, BreakTheGraph)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        run_stages(model, target_opset=20)
    assert caught.value.code == "EC142"
    assert "break-the-graph" in caught.value.what


def test_skip_and_dump(model: ir.Model, tmp_path: Path) -> None:
    report = run_stages(
        model, target_opset=20, skip=["fold-affine-backward"], dump_dir=tmp_path / "passes"
    )
    assert "Mul" in [n.op_type for n in model.graph]
    files = sorted(p.name for p in (tmp_path / "passes").iterdir())
    assert files == [f"{i:02d}_{p.name}.onnx" for i, p in enumerate(report.passes, 1)]
    for file in (tmp_path / "passes").iterdir():
        onnx.checker.check_model(onnx.load(file))


def test_unknown_names_and_opsets(model: ir.Model) -> None:
    with pytest.raises(UsageError, match="fold-everything") as caught:
        run_stages(model, target_opset=20, skip=["fold-everything"])
    assert "compose-views" in str(caught.value.why)
    with pytest.raises(UsageError):
        run_stages(model, target_opset=12)
    model.opset_imports[""] = 17
    with pytest.raises(UsageError):
        run_stages(model, target_opset=17)


def test_passes_are_listed_once_with_a_change() -> None:
    infos = list_passes()
    assert len({p.name for p in infos}) == len(infos)
    assert all("→" in p.change and len(p.change) < 100 for p in infos)
    order = [p.stage for p in infos]
    assert order == sorted(order, key=[s.name for s in stages.STAGES].index)


def test_second_run_changes_nothing(model: ir.Model) -> None:
    run_stages(model, target_opset=20)
    first = numerics.serialize(model)
    report = run_stages(model, target_opset=20)
    assert numerics.serialize(model) == first
    assert report.passes == []


def test_same_input_gives_the_same_bytes(model: ir.Model) -> None:
    data = numerics.serialize(model)
    results = set()
    for _ in range(3):
        copy = ir.from_proto(onnx.load_from_string(data))
        run_stages(copy, target_opset=16, verify=False)
        results.add(numerics.serialize(copy))
    assert len(results) == 1


def test_custom_operator_is_left_alone_but_needs_a_runtime(build: Any) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "my.domain" : 1]>
        net (float[2, 3] x) => (float[2, 3] y)
        { i = Identity(x) c = my.domain.Magic<level=3>(i) y = Relu(c) }"""
    import onnx.parser

    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(UnsupportedError) as caught:
        run_stages(model, target_opset=20)
    assert caught.value.code == "EC343"
    assert "my.domain" in str(caught.value.where)
    run_stages(model, target_opset=20, verify=False)
    assert [(n.domain, n.op_type) for n in model.graph] == [("my.domain", "Magic"), ("", "Relu")]


def test_random_graph_is_rewritten_unverified(build: Any) -> None:
    model = build(
        """net (float[2, 3] x) => (float[2, 3] y)
        { i = Identity(x) r = RandomNormalLike(i) y = Add(i, r) }"""
    )
    report = run_stages(model, target_opset=20)
    assert not report.verified
    assert report.not_verified_because
    assert [n.op_type for n in model.graph] == ["RandomNormalLike", "Add"]


def test_subgraphs_go_through_the_stage(build: Any) -> None:
    model = build(
        """net (bool c, float[2, 4] x) => (float[2, 4] y)
        <int64[2] s = {8, 1}, int64[2] t = {2, 4}>
        { r = Relu(x) y = If(c) <
            then_branch = a () => (float[2, 4] p) { g = Gelu(r) p = Identity(g) },
            else_branch = b () => (float[2, 4] q) { u = Reshape(r, s) q = Reshape(u, t) }
          > }"""
    )
    report = run_stages(model, target_opset=17)
    assert report.verified
    kinds = [n.op_type for n in model.graph.all_nodes()]
    assert "Gelu" not in kinds
    assert "Erf" in kinds


def test_stats(build: Any) -> None:
    model = build(
        """net (float[2, 3, 4] x) => (float[4, 6] y)
        <int64 one = {1}, float[4] w = {1.0, 2.0, 3.0, 4.0}>
        { s = Shape(x) n = Gather(s, one) m = Mul(n, n) f = Cast<to=1>(m) a = Mul(x, w)
          b = Mul(a, f) p = Transpose<perm=[2, 0, 1]>(b) u = Flatten(p) y = Identity(u) }"""
    )
    stats = graph_stats(model)
    assert stats.nodes == 9
    assert stats.operators["Mul"] == 3
    assert (stats.transposes, stats.reshapes, stats.selections) == (1, 1, 1)
    assert stats.max_rank == 3
    assert stats.shape_arithmetic == 3  # Shape, Gather and the integer Mul
    assert stats.initializer_bytes == 24
    assert json.loads(json.dumps(stats.to_json())) == stats.to_json()


@pytest.mark.parametrize(
    ("want", "got", "equal"),
    [
        (np.float32([1, 2]), np.float32([1, 2.00005]), True),
        (np.float32([1, 2]), np.float32([1, 2.001]), False),
        (np.float32([np.nan, 2]), np.float32([np.nan, 2]), True),
        (np.float32([np.inf, 2]), np.float32([-np.inf, 2]), False),
        (np.float32([1, 2]), np.float32([1, np.nan]), False),
        (np.float16([1, 2]), np.float16([1, 2.01]), True),
        (np.int64([1, 2]), np.int64([1, 3]), False),
        (np.float32([1, 2]), np.float32([[1, 2]]), False),
        (np.float32([1, 2]), np.float64([1, 2]), False),
        (np.float32([]), np.float32([]), True),
    ],
)
def test_comparison(want: Any, got: Any, equal: bool) -> None:
    assert (numerics.compare(["y"], [want], [got]) is None) == equal


def test_nudged_inputs_move_by_their_last_bit_and_integers_stay() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    n = np.arange(5)
    found = numerics.nudged({"x": x, "n": n}, 0)
    assert found["x"].dtype == np.float32
    relative = np.abs(found["x"] / x.astype(np.float64) - 1)
    assert relative.max() <= 2 * 2.0**-23
    assert (relative > 0).mean() > 0.9
    np.testing.assert_array_equal(found["n"], n)
