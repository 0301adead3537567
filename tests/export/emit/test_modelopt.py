"""NVIDIA ModelOpt as an oracle: which products it computes on integers, and with which scales.

    EDGEC_MODELOPT=/path/to/python-with-modelopt pytest -m slow tests/export/emit/test_modelopt.py

nvidia-modelopt[onnx]==0.47.0 pins another onnx and has an interpreter of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.lint.base import DEQUANTIZE, QUANTIZE, WEIGHTED, array_of, is_standard
from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.placement import placed
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import TENSORRT
from edgec.export.rewrite.engine import run_stages
from edgec.export.source import capture

PYTHON = os.environ.get("EDGEC_MODELOPT")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_tool,
    pytest.mark.skipif(
        not PYTHON, reason="EDGEC_MODELOPT names no Python with nvidia-modelopt[onnx]==0.47.0"
    ),
]


def products(model: ir.Model) -> set[str]:
    """Names of products with both operands behind DequantizeLinear."""
    return {
        str(node.name)
        for node in model.graph
        if is_standard(node, *WEIGHTED)
        and all(v is not None and is_standard(v.producer(), DEQUANTIZE) for v in node.inputs[:2])
    }


def steps(model: ir.Model) -> dict[str, float]:
    """Tensor → scale of each QuantizeLinear with one scale."""
    found = {}
    for node in model.graph:
        scale = array_of(node.inputs[1]) if is_standard(node, QUANTIZE) else None
        if scale is not None and scale.size == 1 and node.inputs[0] is not None:
            found[str(node.inputs[0].name)] = float(scale.reshape(()))
    return found


@pytest.mark.parametrize(
    ("name", "placement"),
    [("emov2_cifar10", "wide-attention"), ("mobilevit_cifar10", "wide")],
)
def test_the_same_products_and_scales(
    name: str, placement: str, root: Path, tmp_path: Path
) -> None:
    assert PYTHON is not None
    captured = capture(name, ExportOptions(), needs_accuracy=False, reporter=Reporter(quiet=True))
    model = ir.from_proto(ir.to_proto(captured.graph))
    run_stages(model, target_opset=20)
    source, data, target = (tmp_path / n for n in ("float.onnx", "feeds.npz", "int8.onnx"))
    source.write_bytes(ir.to_proto(model).SerializeToString())
    (image,) = model.graph.inputs
    assert image.shape is not None
    feeds = np.random.default_rng(0).standard_normal((8, *image.shape.numpy())).astype(np.float32)
    np.savez(data, **{str(image.name): feeds})
    script = root / "benchmarks" / "_peer_modelopt.py"
    command = [PYTHON, str(script), str(source), str(data), str(target), "max"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = ir.from_proto(onnx.load(target))

    ranges = calibrate(model, [{str(image.name): feed} for feed in feeds])
    rules = placed(TENSORRT, placement)
    ours = quantize(model, ranges, rules)
    assert products(ours) == products(theirs)
    assert products(ours) == set(plan_quantization(model, rules).integer_nodes)
    mine, other = steps(ours), steps(theirs)
    # ModelOpt gives all inputs of a Concat one scale; TensorRT requantizes where they differ
    joined = {
        str(v.name) for node in model.graph if is_standard(node, "Concat") for v in node.inputs if v
    }
    common = sorted((set(mine) & set(other)) - joined)
    assert len(common) > 20
    for tensor in common:
        assert mine[tensor] == pytest.approx(other[tensor], rel=1e-4), tensor
