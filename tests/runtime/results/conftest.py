"""Records as the verbs write them, cut to what is read."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def measurement() -> dict[str, Any]:
    """A record of edgec bench with two artifacts."""
    latency = {"min_ms": 1.0, "median_ms": 2.0, "p90_ms": 3.0, "runs": 50, "samples_ms": [2.0]}
    result = {"precision": "fp32", "bytes": 100, "latency": latency}
    return {
        "schema": "edgec.bench/1",
        "device": "local",
        "model": "net",
        "peak_rss_bytes": 4096,
        "results": [
            {"artifact": "onnx/model.onnx", **result},
            {"artifact": 'tflite/"quoted".tflite', **result, "bytes": None},
        ],
    }


@pytest.fixture
def export() -> dict[str, Any]:
    """A report of edgec export."""
    checks = {"vs_fp32": {"top1": 90.0, "top1_agreement": 99.0, "sqnr_db": None}, "drop": 0.5}
    return {
        "schema": "edgec.report/1",
        "model": {"name": "net"},
        "target": {"name": "x86"},
        "graph": {"macs": 10, "parameters": 5, "nodes": 3, "operators": {"Conv": 2, "Add": 1}},
        "artifacts": [
            {"path": "onnx/model.onnx", "bytes": 100, "checks": {}},
            {"path": "onnx/model_int8.onnx", "bytes": 30, "checks": checks},
        ],
    }
