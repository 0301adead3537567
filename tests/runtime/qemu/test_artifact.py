"""Counts of a bundle's C artifact, in the names of the user's modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import edgec
from edgec.export.page.describe import page as page_of
from edgec.export.profile import measured_by_module
from edgec.runtime.modules import ModuleNames
from edgec.runtime.qemu.artifact import count_bundle
from edgec.runtime.qemu.run import COMPILER, SIMULATOR

needs_tools = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(SIMULATOR) is None,
    reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)


@needs_tools
@pytest.mark.needs_tool
def test_counts_carry_the_names_of_steps_and_modules(
    small_bundle: edgec.Bundle, tmp_path: Path
) -> None:
    record = count_bundle(small_bundle, "mps2-an386")
    (artifact,) = (a for a in small_bundle.manifest.artifacts if a.format == "c")
    layers = record["layers"]
    assert sorted(row["name"] for row in layers) == sorted(artifact.checks["step_names"])
    assert sorted(row["instructions"] for row in layers) == sorted(record["steps"])
    assert [row["instructions"] for row in layers] == sorted(record["steps"], reverse=True)
    by_module = {row["module"]: row["instructions"] for row in layers}
    assert {"stem.conv", "block", "head"} <= set(by_module)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    unit, sums = measured_by_module(path)
    assert unit == "instructions"
    assert sums["stem.conv"] == by_module["stem.conv"]
    assert sum(sums.values()) == record["instructions"]
    page = str(page_of([(record, None, None)]))
    assert "stem.conv" in page
    assert "step 0" not in page


def test_modules_of_values(small_bundle: edgec.Bundle) -> None:
    names = ModuleNames(small_bundle)
    graph = onnx.load(small_bundle.path / "onnx" / "model.onnx").graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    assert names.of(conv.output[0]) == "stem.conv"
    assert names.of(conv.output[0] + "/padded") == "stem.conv"
    relu = next(node for node in graph.node if node.op_type == "Relu")
    assert names.of(relu.output[0]) is None, "the network itself is no module"
    assert names.of_step(f"CONV_2D {relu.output[0]}_dequantized") == "stem.conv"
    assert names.of("nothing of this network") is None
    assert names.of("") is None
