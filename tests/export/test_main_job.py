"""The main job: the command of the README, as its own process."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgec.models.registry import get_spec


@pytest.mark.slow
def test_emov2_5m_for_the_jetson(cli, tmp_path: Path) -> None:
    done = cli(
        "export",
        "--model",
        "emov2_5m",
        "--target",
        "jetson",
        "--weights",
        "random",
        "--json",
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["headline"].startswith("RANDOM WEIGHTS")
    graph = report["graph"]
    assert graph["shape_arithmetic"] == 0
    assert graph["nodes"] < graph["nodes_before"]
    # folding BatchNorm and layer scale removes parameters, duplicated branches remove MACs
    spec = get_spec("emov2_5m")
    assert 0.99 * spec.params < graph["parameters"] <= spec.params
    assert 0.98 * spec.macs < graph["macs"] <= spec.macs
    assert "BatchNormalization" not in graph["operators"]
    assert graph["operators"]["LayerNormalization"] == 13
    assert graph["operators"]["Gelu"] == 12
    folder = tmp_path / json.loads(done.stdout)["bundle"]
    for name in ("model.onnx", "model_fp16.onnx"):
        onnx.checker.check_model(str(folder / "onnx" / name), full_check=True)
    checks = {a["precision"]: a["checks"] for a in report["artifacts"] if a["format"] == "onnx"}
    assert checks["fp16"]["vs_fp32"]["sqnr_db"] > 40
    paths = {
        p.value
        for node in onnx.load(folder / "onnx" / "model.onnx").graph.node
        for p in node.metadata_props
        if p.key == "edgec.module"
    }
    assert "stage3.2.eops.0.v.conv" in paths


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(cli, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        done = cli(
            "export",
            "--model",
            "emov2_1m",
            "--target",
            "jetson",
            "--weights",
            "random",
            "--no-cache",
            "--out",
            tmp_path / seed,
            cwd=tmp_path,
            timeout=600,
            env={"PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
    names = sorted(
        p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file()
    )
    assert len(names) > 8
    for name in names:
        if name != Path("log.txt"):
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
