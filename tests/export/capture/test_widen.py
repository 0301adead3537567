"""Networks in float16, bfloat16 and float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_tensor

from edgec.export.capture import WIDENED, from_onnx
from edgec.export.capture.widen import widen

NET = """<ir_version: 8, opset_import: ["" : 17]>
net ({kind}[1,3,8,8] x) => ({kind}[1,4,8,8] y) {{
  c = Conv<pads=[1,1,1,1]>(x, w)
  one = Constant<value=float {{1.5}}>()
  a = Add(c, one)
  wide = Cast<to=1>(a)
  s = Sigmoid(wide)
  back = Cast<to={number}>(s)
  y = Mul(a, back)
}}"""


def _network(kind: str, number: int) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(NET.format(kind=kind, number=number))
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)) * 0.3
    proto.graph.initializer.append(make_tensor("w", number, weight.shape, weight.ravel()))
    (one,) = (node for node in proto.graph.node if node.op_type == "Constant")
    one.attribute[0].t.CopyFrom(make_tensor("one", number, (), [1.5]))
    return proto


@pytest.mark.parametrize(
    ("kind", "name", "number"),
    [
        ("float16", "float16", TensorProto.FLOAT16),
        ("double", "float64", TensorProto.DOUBLE),
        ("bfloat16", "bfloat16", TensorProto.BFLOAT16),
    ],
)
def test_everything_becomes_float32(tmp_path: Path, kind: str, name: str, number: int) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(_network(kind, number), path)
    model = from_onnx(path, float32=True)
    assert model.metadata_props[WIDENED] == name
    kinds = {str(v.dtype) for node in model.graph for v in node.outputs}
    kinds |= {str(v.dtype) for v in (*model.graph.inputs, *model.graph.initializers.values())}
    assert kinds <= {"FLOAT", "INT64"}
    assert "Cast" not in {node.op_type for node in model.graph}


def test_float16_computes_the_same_up_to_its_rounding(tmp_path: Path) -> None:
    proto = _network("float16", TensorProto.FLOAT16)
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    assert widen(wide) == ("float16",)
    onnx.checker.check_model(wide, full_check=True)
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float16)
    results = [
        onnxruntime.InferenceSession(p.SerializeToString()).run(None, {"x": feed})[0]
        for p, feed in ((proto, x), (wide, x.astype(np.float32)))
    ]
    assert results[1].dtype == np.float32
    # eleven bits of mantissa through three operators
    np.testing.assert_allclose(results[0].astype(np.float32), results[1], rtol=0, atol=4e-3)


def test_float32_is_left_alone() -> None:
    proto = _network("float", TensorProto.FLOAT)
    before = proto.SerializeToString(deterministic=True)
    assert widen(proto) == ()
    assert proto.SerializeToString(deterministic=True) == before


def test_an_export_says_so_and_writes_every_format(tmp_path: Path, main: Any) -> None:
    path = tmp_path / "half.onnx"
    onnx.save(_network("float16", TensorProto.FLOAT16), path)
    code, out, err = main(
        "export", "--model", path, "--target", "generic-c99", "--precision", "fp32",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0, err
    assert "half.onnx computes in float16" in out + err
    assert (tmp_path / "b" / "c" / "half.c").is_file()
    code, out, _ = main(
        "export", "--model", path, "--target", "raspberry-pi-5", "--out", tmp_path / "p"
    )
    assert code == 0
    assert (tmp_path / "p" / "tflite" / "model_fp16.tflite").is_file()
