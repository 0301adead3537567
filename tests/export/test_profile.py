"""``edgec profile``: what is read from the user, what is printed, what an export says."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import edgec
from edgec.export.errors import InputError, UsageError
from edgec.export.profile import measured_by_module, need_target, read_anchors, side_by_side
from edgec.export.progress import Reporter
from edgec.profiles.layers import Layer, StaticProfile
from edgec.targets import get_target

TARGET = "raspberry-pi-4"


def anchor_file(path: Path, *entries: tuple[str, float]) -> Path:
    rows = [{"model": model, "latency_ms": latency} for model, latency in entries]
    path.write_text(json.dumps({"device": "d", "threads": 4, "measurements": rows}))
    return path


def test_anchors_by_name_and_by_file(tmp_path: Path, tiny_onnx: Path) -> None:
    target = get_target(TARGET)
    path = anchor_file(
        tmp_path / "a.json", ("mobilenet_v2", 30.0), ("resnet18", 80.0), (str(tiny_onnx), 0.1)
    )
    anchors = read_anchors(path, "fp32", target, Reporter(quiet=True))
    assert anchors is not None
    assert anchors.fit.threads == "several"
    assert [a.name for a in anchors.measured] == ["mobilenet_v2", "resnet18", str(tiny_onnx)]
    assert all(a.work.shape == (1, len(anchors.fit.features)) for a in anchors.measured)
    assert (anchors.device, anchors.threads) == ("d", 4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[]", "TypeError"),
        ("{", "JSONDecodeError"),
        ('{"measurements": [{"model": "resnet18"}]}', "latency_ms"),
        ('{"measurements": []}', "0 measurements"),
        (
            json.dumps({"measurements": [{"model": "resnet18", "latency_ms": 1}] * 3}),
            "listed twice",
        ),
        (
            json.dumps({"measurements": [{"model": m, "latency_ms": -1} for m in ("a", "b", "c")]}),
            "no latency",
        ),
    ],
)
def test_broken_anchors_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "anchors.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_anchors(path, "fp32", get_target(TARGET), Reporter(quiet=True))
    assert caught.value.code == "EC732"
    assert word in str(caught.value)


def test_anchors_of_a_gpu_calibrate_nothing(tmp_path: Path) -> None:
    path = anchor_file(tmp_path / "a.json", ("a", 1.0), ("b", 2.0), ("c", 3.0))
    assert read_anchors(path, "fp16", get_target("jetson"), Reporter(quiet=True)) is None


def test_predicted_and_measured_meet_at_the_measured_module(tmp_path: Path) -> None:
    layers = (
        Layer("a", "Conv", "3x3", "stem", macs=10),
        Layer("b", "Conv", "1x1", "stage.0.qk", macs=20),
        Layer("c", "Conv", "1x1", "stage.0.v", macs=30),
        Layer("d", "Gemm", "linear", "head", macs=5),
    )
    mine = [("stage.0", 2.0), ("stage.0", 1.0), ("stem", 0.5), (None, 0.25)]
    results = [
        {"artifact": "other", "layers": [{"module": "x", "ms": 9}]},
        {"artifact": "whole", "latency": {}},
        {"artifact": "mine", "layers": [{"module": m, "ms": ms} for m, ms in mine]},
    ]
    record = {"results": results}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert measured_by_module(path, "whole") == ("ms", {"x": 9.0})
    unit, measured = measured_by_module(path, "mine")
    assert (unit, measured) == ("ms", {"stage.0": 3.0, "stem": 0.5, "": 0.25})
    profile = StaticProfile("net", layers, 0, "", "fp32")
    rows = {r["module"]: r for r in side_by_side(profile, (0.1, 0.2, 0.3, 0.4), measured)}
    assert list(rows) == ["stem", "stage.0", "head", ""]
    assert rows["stage.0"]["predicted_ms"] == pytest.approx(0.5)
    assert rows["stage.0"]["macs"] == 50
    assert (rows["head"]["predicted_ms"], rows["head"]["measured"]) == (0.4, None)
    assert (rows[""]["predicted_ms"], rows[""]["measured"]) == (None, 0.25)


@pytest.mark.parametrize("text", ["{}", "{", '{"results": [{"latency": {}}]}', "[1]"])
def test_records_without_layers_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        measured_by_module(path)
    assert caught.value.code == "EC733"


def test_anchors_need_a_target() -> None:
    with pytest.raises(UsageError, match="needs a target"):
        need_target(None, "--anchors")


def test_the_verb_on_a_file(main, tiny_onnx: Path, tmp_path: Path) -> None:
    svg = tmp_path / "waterline.svg"
    code, out, _ = main("profile", tiny_onnx, "-t", TARGET, "--svg", svg, "--json")
    assert code == 0
    data = json.loads(out)
    assert data["schema"] == "edgec.profile/1"
    assert data["profile"]["macs"] == sum(x["macs"] for x in data["profile"]["layers"])
    # nothing of this size was fitted
    assert data["latency"]["latency_ms"] is None
    assert "the constants were fitted to" in data["latency"]["refused"]
    ET.parse(svg)
    code, out, _ = main("profile", tiny_onnx, "--layers", "0")
    assert code == 0
    assert "peak memory" in out
    assert "latency" not in out


def test_the_verb_with_anchors_and_a_record(main, tiny_onnx: Path, tmp_path: Path) -> None:
    anchors = anchor_file(
        tmp_path / "a.json", ("mobilenet_v2", 30.0), ("resnet18", 80.0), ("squeezenet", 33.0)
    )
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"layers": [{"module": "x", "instructions": 12}]}))
    code, out, _ = main(
        *("profile", tiny_onnx, "-t", TARGET, "--anchors", anchors, "--measured", record)
    )
    assert code == 0
    assert "calibrated by 3 measurements on d" in out
    assert "resnet50" in out
    assert "instructions measured" in out


def test_an_export_says_what_is_predicted(tiny_onnx: Path, tmp_path: Path, main) -> None:
    out = tmp_path / "bundle"
    edgec.compile(str(tiny_onnx), target=TARGET, precision="fp32", out=str(out))
    report = json.loads((out / "report.json").read_text())
    predicted = report["latency"]["predicted"]
    assert predicted["artifact"] == "onnx/model.onnx"
    assert predicted["latency_ms"] is None
    assert predicted["line"] in (out / "report.txt").read_text()
    # a bundle's own target is used
    code, text, _ = main("profile", out)
    assert code == 0
    assert "ncnn fp32 on Cortex-A72" in text
