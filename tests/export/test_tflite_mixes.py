"""Times of precision mixes: what is compared, what is reported, what the flag changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import edgec
from edgec.export import tflite_artifacts, tflite_mixes
from edgec.export.emit.tflite.flavour import LITERT
from edgec.export.emit.tflite.write import convert
from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.page.assemble import gather
from edgec.export.page.describe import page
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.scheme import TFLITE
from edgec.export.report import UNTIMED, mix_lines
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.tflite import load
from edgec.export.tflite_cut import Split, Timed
from edgec.export.tflite_mixes import (
    TIE,
    Ground,
    Mix,
    MixTimes,
    held_up,
    seconds_alone,
    time_mixes,
)
from edgec.runtime.litert_profile import NotProfiled

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
net (float[1,8,8,8] x, float[16,8,3,3] w, float[16,4] v) => (float[1,64,4] y)
<int64[3] s = {1,64,16}> {
  c = Conv<pads=[1,1,1,1]>(x, w)
  g = Gelu(c)
  t = Transpose<perm=[0,2,3,1]>(g)
  r = Reshape(t, s)
  y = MatMul(r, v)
}"""


def feed(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((1, 8, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def ground() -> Ground:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    rng = np.random.default_rng(7)
    for name in ("w", "v"):
        value = next(v for v in model.graph.inputs if v.name == name)
        assert value.shape is not None
        array = rng.standard_normal(tuple(value.shape.numpy())).astype(np.float32)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    infer_shapes(model)
    for node in model.graph:
        node.name = str(node.op_type)
        node.metadata_props["edgec.module"] = f"net.{node.op_type.lower()}"
    ranges = calibrate(model, [feed(seed) for seed in range(4)], method="minmax")
    return Ground(model, ranges, TFLITE, LITERT)


@pytest.fixture(scope="module")
def plain(ground: Ground) -> list[Mix]:
    file = convert(ground.master)
    return [Mix("fp32", file.content, file.lowered), ground.mix("int8")]


def types(mix: Mix, code: str) -> set[str]:
    main = mix.lowered.model.main
    return {main.tensors[op.outputs[0]].dtype for op in main.operators if op.code == code}


def test_a_mix_keeps_what_it_names_in_float(ground: Ground) -> None:
    mix = ground.mix("int8 convolutions", Split(("MatMul",)))
    assert types(mix, "CONV_2D") == {"INT8"}
    assert types(mix, "FULLY_CONNECTED") == {"FLOAT32"}


def test_operators_alone_are_timed_where_the_profiler_tells_nothing(
    plain: list[Mix], ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert")

    def refuse(*_: object, **__: object) -> list[float]:
        raise NotProfiled("another order")

    monkeypatch.setattr(tflite_mixes, "milliseconds", refuse)
    monkeypatch.setattr(tflite_mixes, "ENOUGH", 0.0)  # int8 may be fast here
    mix = ground.mix("stored", Split(("Conv",)))
    operators = mix.lowered.model.main.operators
    assert operators[0].code == "DEQUANTIZE", "of the weights, folded when the file is loaded"
    assert seconds_alone(mix.lowered, 1)[0] == 0.0
    assert all(time > 0 for time in seconds_alone(mix.lowered, 1)[1:])
    assert "int8 linear layers" in time_mixes(plain, ground, feed(9), rounds=2).found["ratios"]


def test_what_holds_int8_up_is_named_with_its_share(plain: list[Mix]) -> None:
    floating, integer = plain[0].lowered, plain[1].lowered
    codes = [op.code for op in integer.model.main.operators]
    seconds = [{"GELU": 5.0, "CONV_2D": 1.0, "FULLY_CONNECTED": 2.0}.get(c, 0.5) for c in codes]
    before = [4.0 if op.code == "CONV_2D" else 2.0 for op in floating.model.main.operators]
    found = held_up(Timed(integer, seconds), Timed(floating, before))
    named = [one["what"] for one in found]
    assert named[0] == "float GELU"
    assert "conversions" in named
    assert "int8 FULLY_CONNECTED" in named  # as slow as in float
    assert "int8 CONV_2D" not in named  # a quarter of the float time
    assert found[0]["share"] == round(5.0 / sum(seconds), 3)
    assert found[0]["first"] == "net.gelu"


@pytest.mark.parametrize("enough", [0.0, 1e9])
def test_mixes_are_timed_and_told(
    enough: float, plain: list[Mix], ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixes are looked for where int8 takes more than `ENOUGH`, whatever it takes here."""
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(tflite_mixes, "ENOUGH", enough)
    times = time_mixes(plain, ground, feed(9), rounds=5)
    found = times.found
    mixes = {"int8 convolutions", "int8 linear layers"}
    assert mixes & set(found["ratios"]) == (set() if enough else mixes)
    assert {"fp32", "int8"} <= set(found["ratios"])
    assert found["ratios"]["fp32"] == 1.0
    assert found["rounds"] == 5
    assert found["fastest"] == min(found["ratios"], key=found["ratios"].__getitem__)
    assert ("held_up_by" in found) == (not enough)
    assert mix_lines(found)[0].startswith("time over fp32 here (LiteRT, 1 thread, ")
    assert ("best" in found) == (times.best is not None)
    if times.best is not None:
        assert found["best"] == times.best[0]
        assert found["ratios"][times.best[0]] <= found["ratios"]["int8"] - TIE


def test_lines_say_how_to_get_the_mix() -> None:
    found = {
        "cpu": "Cortex-A76",
        "threads": 2,
        "ratios": {"fp32": 1.0, "int8": 0.9, "int8 convolutions": 0.6},
        "fastest": "int8 convolutions",
        "best": "int8 convolutions",
        "keep_float": ["MatMul", "Gemm"],
        "eager": [],
        "tied": [],
        "held_up_by": [{"what": "int8 MUL", "share": 0.3, "over_fp32": 1.26, "first": "m"}],
    }
    assert mix_lines(found) == [
        "time over fp32 here (LiteRT, 2 threads, Cortex-A76): int8 0.90, int8 convolutions 0.60",
        "int8 is held up by int8 MUL 30 % (1.3x fp32's) of its operators' time",
        "fastest: int8 convolutions; --fastest-mix makes this file int8 convolutions",
    ]
    written = mix_lines(found | {"written": "int8 convolutions"})
    assert written[-1] == "fastest: int8 convolutions; this file is int8 convolutions"
    other = mix_lines(found | {"fastest": "fp16", "tied": ["dyn8"]})
    assert other[-1] == (
        "fastest: fp16 (not measurably slower: dyn8); "
        "--fastest-mix makes this file int8 convolutions"
    )


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_report_has_the_times(
    precision: str, compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path
) -> None:
    """Calibration data give an int8 file whatever the precision of the others."""
    pytest.importorskip("ai_edge_litert")
    bundle = compile_tiny(
        tmp_path / "bundle",
        target="raspberry-pi-5",
        precision=precision,
        formats="tflite",
        time_mixes=True,
    )
    artifact = next(a for a in bundle.manifest.artifacts if a.path.endswith("model_int8.tflite"))
    assert {"fp32", "fp16", "dyn8", "int8"} <= set(artifact.checks["mixes"]["ratios"])
    text = (bundle.path / "report.txt").read_text("utf-8")
    assert "time over fp32 here" in text
    assert UNTIMED not in text
    (shown,) = page(gather([str(bundle.path)], None))["results"]
    timed = next(s for s in shown["sections"] if s["title"] == "Precision mixes")
    bars, said = timed["blocks"]
    assert {row["label"] for row in bars["rows"]} == set(artifact.checks["mixes"]["ratios"])
    assert said["texts"] == mix_lines(artifact.checks["mixes"])[1:]


def test_the_file_is_the_fastest_mix_where_that_is_asked_for(
    compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which mix is fastest is this machine's business, and not of the test."""
    pytest.importorskip("ai_edge_litert")
    found = {
        "cpu": "a cpu",
        "threads": 1,
        "fp32_ms": 1.0,
        "ratios": {"fp32": 1.0, "int8": 1.1, "int8 linear layers": 0.8},
        "fastest": "int8 linear layers",
        "best": "int8 linear layers",
        "keep_float": ["Conv"],
        "eager": [],
        "tied": [],
    }
    times = MixTimes(found, ("int8 linear layers", Split(("Conv",))))
    monkeypatch.setattr(tflite_artifacts, "time_mixes", lambda *_: times)
    options = {"target": "raspberry-pi-5", "precision": "int8", "formats": "tflite"}
    plain = compile_tiny(tmp_path / "plain", **options, time_mixes=True)
    fast = compile_tiny(tmp_path / "fast", **options, fastest_mix=True)
    kinds, texts = [], []
    for bundle in (plain, fast):
        artifact = bundle.artifact("tflite/model_int8.tflite")
        main = load(bundle.file(artifact)).main
        kinds.append(
            {main.tensors[op.outputs[0]].dtype for op in main.operators if op.code == "CONV_2D"}
        )
        texts.append((bundle.path / "report.txt").read_text("utf-8"))
        assert artifact.checks["vs_fp32"]["sqnr_db"] > 20
    assert kinds == [{"INT8"}, {"FLOAT32"}]
    assert "--fastest-mix makes this file int8 linear layers" in texts[0]
    assert "int8, fastest mix (tflite)" in texts[1]
    assert "this file is int8 linear layers" in texts[1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"target": "jetson", "precision": "int8"}, "with XNNPACK"),
        ({"target": "raspberry-pi-5", "precision": "int8", "formats": "onnx"}, "formats"),
        ({"target": "raspberry-pi-5", "precision": "mixed"}, "mixed chooses"),
        ({"target": "raspberry-pi-5", "precision": "fp32", "calib": None}, "no int8"),
    ],
)
def test_a_fastest_mix_of_nothing_is_refused(
    options: dict[str, Any], why: str, compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nothing to choose from") as error:
        compile_tiny(tmp_path / "bundle", **options, fastest_mix=True)
    assert error.value.code == "EC285"
    assert why in str(error.value.why)


def test_times_that_cannot_be_had_cost_no_export(
    compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert")

    def refuse(*_: object) -> MixTimes:
        raise UnsupportedError("EC302", "LiteRT refuses the model")

    monkeypatch.setattr(tflite_artifacts, "time_mixes", refuse)
    options = {"target": "raspberry-pi-5", "precision": "int8", "formats": "tflite"}
    bundle = compile_tiny(tmp_path / "plain", **options, time_mixes=True)
    assert "mixes" not in bundle.artifact("tflite/model_int8.tflite").checks
    assert UNTIMED in (bundle.path / "report.txt").read_text("utf-8")
    assert "int8 was not timed beside float" in (bundle.path / "log.txt").read_text("utf-8")
    with pytest.raises(UnsupportedError, match="refuses"):
        compile_tiny(tmp_path / "fast", **options, fastest_mix=True)
