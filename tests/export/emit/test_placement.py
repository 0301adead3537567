"""Placements of Q/DQ for TensorRT: what each one quantizes, and which one is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import edgec
from edgec.export.emit.tensorrt import placement
from edgec.export.emit.tensorrt.placement import Candidate, best, note, try_placements
from edgec.export.emit.tensorrt.proxy import PYTHON_VARIABLE, Plan, proxy_python
from edgec.export.errors import UsageError
from edgec.export.options import PLACEMENT_NAMES
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.placement import PLACEMENTS, placed
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import TENSORRT


@pytest.fixture
def network() -> ir.Model:
    """A convolution with a residual addition, one without, a linear layer, a product of two."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        hybrid (float[1,16,4,4] x) => (float[1,16,4] y) {
          c = Conv<kernel_shape=[1,1]>(x, w)
          r = Add(c, x)
          shape = Constant<value_ints=[1,16,16]>()
          t = Reshape(r, shape)
          k = Transpose<perm=[0,2,1]>(t)
          a = MatMul(t, k)
          p = Softmax<axis=-1>(a)
          s = Add(p, t)
          y = MatMul(s, v)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 16, 1, 1)), ("v", (16, 4))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model = onnx.shape_inference.infer_shapes(model)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return ir.from_proto(model)


def test_the_options_know_all_placements() -> None:
    assert tuple(PLACEMENTS) == PLACEMENT_NAMES


@pytest.mark.parametrize(
    ("name", "integer", "arms"),  # arms: of the addition behind the convolution, of the other
    [
        ("default", {"Conv_0", "MatMul_8"}, (2, 2)),
        ("attention", {"Conv_0", "MatMul_5", "MatMul_8"}, (2, 2)),
        ("skip-arms", {"Conv_0", "MatMul_8"}, (1, 2)),
        ("fused-arms", {"Conv_0", "MatMul_8"}, (2, 0)),
        ("no-arms", {"Conv_0", "MatMul_8"}, (0, 0)),
        ("convolutions", {"Conv_0"}, (0, 0)),
        ("wide", {"Conv_0"}, (2, 2)),
        ("wide-attention", {"Conv_0", "MatMul_5"}, (2, 2)),
        ("linear", {"MatMul_8"}, (0, 0)),
    ],
)
def test_what_each_placement_quantizes(
    network: ir.Model, name: str, integer: set[str], arms: tuple[int, int]
) -> None:
    plan = plan_quantization(network, placed(TENSORRT, name))
    assert set(plan.integer_nodes) == integer
    read = [reader for q in plan.quantizers for reader, _ in q.readers]
    assert (read.count("Add_1"), read.count("Add_7")) == arms


def stand_in(kernels: dict[int, int], refused: int = -1) -> Any:
    """STAND-IN for the compiler: so many kernels for graphs with so many QuantizeLinear nodes."""

    def compile_for(python: str, path: Path, capability: str) -> tuple[Plan, str]:
        assert (python, capability) == ("python", "SM86")
        nodes = onnx.load(path).graph.node
        count = sum(node.op_type == "QuantizeLinear" for node in nodes)
        built = count != refused
        return Plan(built, kernels=kernels.get(count, 50), kinds={"runtime_fusion": count}), "1.0"

    return compile_for


def candidates(network: ir.Model, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[Candidate]:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 16, 4, 4)).astype(np.float32)} for _ in range(4)]
    monkeypatch.setattr(placement, "compile_for", stand_in(**how))
    return try_placements(
        network, calibrate(network, feeds), TENSORRT, lambda: feeds, "python", "SM86"
    )


def test_every_placement_is_compiled_and_measured(
    network: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {c.name: c for c in candidates(network, monkeypatch, kernels={})}
    assert list(found) == list(PLACEMENTS)
    # 16 pixels of 16 by 16, 16 by 16 tokens of 16, 16 rows of 16 by 4
    conv, inner, linear = 4096, 4096, 1024
    total = conv + inner + linear
    assert found["default"].integer_macs == pytest.approx((conv + linear) / total)
    assert found["attention"].integer_macs == 1
    assert found["convolutions"].integer_macs == pytest.approx(conv / total)
    assert all(c.sqnr_db is not None and 10 < c.sqnr_db < 80 for c in found.values())
    assert all(c.built and c.kernels == 50 and c.fused > 0 for c in found.values())


def test_equal_graphs_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        plain (float[1,16,4,4] x) => (float[1,16,4,4] c) { c = Conv<kernel_shape=[1,1]>(x, w) }"""
    )
    weight = np.random.default_rng(0).standard_normal((16, 16, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.node[0].name = "Conv_0"
    found = candidates(ir.from_proto(model), monkeypatch, kernels={})
    assert [c.name for c in found] == ["default", "linear"]


def candidate(name: str, kernels: int, macs: float, noise: float | None, built: bool = True) -> Any:
    return Candidate(name, built, kernels, 0, 0, macs, noise)


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([candidate("linear", 90, 0.5, 45.0)], "linear"),
        ([candidate("linear", 101, 0.5, 45.0)], "default"),
        ([candidate("linear", 70, 0.4, 45.0)], "default"),  # hardly anything is integer
        ([candidate("attention", 90, 1.0, 27.0)], "default"),  # fewer kernels, less accurate
        ([candidate("attention", 90, 1.0, 29.6)], "attention"),  # within the noise
        ([candidate("linear", 90, 0.5, None)], "linear"),  # equal to float
        ([candidate("linear", 90, 0.5, 45.0), candidate("no-arms", 90, 0.9, 30.0)], "no-arms"),
        ([candidate("no-arms", 100, 0.9, 31.0)], "no-arms"),  # alike, but for noise
        ([candidate("linear", 0, 0.5, 45.0, built=False)], "default"),
    ],
)
def test_the_fewest_kernels_at_equal_accuracy_win(others: list[Candidate], chosen: str) -> None:
    found = [candidate("default", 100, 0.9, 30.0), *others]
    assert best(found).name == chosen
    kept = note(found, best(found))
    assert json.loads(json.dumps(kept))["chosen"] == chosen
    assert len(kept["candidates"]) == len(found)


def test_where_the_compiler_refuses_all_the_default_stays() -> None:
    found = [candidate(name, 0, 0.5, 30.0, built=False) for name in PLACEMENTS]
    assert best(found).name == "default"


def exported(tiny_onnx: Path, images: Path, preprocess: Path, out: Path, **more: Any) -> Any:
    return edgec.compile(
        str(tiny_onnx),
        target="jetson",
        precision="int8",
        calib=str(images),
        preprocess=str(preprocess),
        out=str(out),
        **more,
    )


def test_a_named_placement_is_followed(
    tiny_onnx: Path,
    image_folder: Path,
    preprocess_json: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "none")
    bundle = exported(
        tiny_onnx, image_folder, preprocess_json, tmp_path / "b", placement="convolutions"
    )
    graph = onnx.load(bundle.path / "onnx" / "model_int8.onnx").graph
    makers = {output: node for node in graph.node for output in node.output}
    integer = {
        node.op_type
        for node in graph.node
        for name in node.input
        if name in makers and makers[name].op_type == "DequantizeLinear"
    }
    assert integer == {"Conv"}


def test_other_runtimes_have_no_placements(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        edgec.compile(str(tiny_onnx), target="x86", placement="linear", out=str(tmp_path / "b"))
    assert caught.value.code == "EC271"


@pytest.mark.needs_tool
@pytest.mark.skipif(
    proxy_python() is None, reason="needs TensorRT for RTX: pip install 'edgec[trt-check]'"
)
def test_the_real_compiler_chooses(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    bundle = exported(tiny_onnx, image_folder, preprocess_json, tmp_path / "b")
    report = (bundle.path / "report.txt").read_text("utf-8")
    rows = [line for line in report.splitlines() if line.endswith("chosen")]
    assert len(rows) == 1
    assert rows[0].split()[0] in PLACEMENTS
