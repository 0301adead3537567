"""``eval --explain`` on bundles: the block that was spoilt is found, and its fix is a command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import edgec
from edgec.export.bundle import Bundle
from edgec.export.diagnose.blocks import find_blocks
from edgec.export.diagnose.contributions import Judge, contributions
from edgec.export.diagnose.diagnose import diagnose, export_command, worst_blocks
from edgec.export.errors import AccuracyGateError, UsageError

OPTIONS = {"target": "x86", "precision": "int8"}


@pytest.fixture(scope="module")
def bundle(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path_factory: Any
) -> Bundle:
    return edgec.compile(
        str(tiny_onnx),
        **OPTIONS,
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path_factory.mktemp("explained") / "x86"),
    )


def graphs(bundle: Bundle) -> tuple[ir.Model, onnx.ModelProto]:
    master = ir.from_proto(onnx.load(bundle.file(bundle.artifact("fp32"))))
    return master, onnx.load(bundle.file(bundle.artifact("int8")))


def samples(bundle: Bundle, count: int = 12) -> list[Any]:
    rng = np.random.default_rng(4)
    tensor = bundle.manifest.inputs[0]
    shape = tensor.shape
    return [({tensor.name: rng.standard_normal(shape, np.float32)}, None) for _ in range(count)]


def test_the_spoilt_block_is_the_worst(bundle: Bundle) -> None:
    master, proto = graphs(bundle)
    weighted = [n.name for n in master.graph if n.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 3
    for spoilt in weighted:
        broken = onnx.ModelProto()
        broken.CopyFrom(proto)
        node = next(n for n in broken.graph.node if n.name == spoilt)
        weight = next(n for n in broken.graph.node if node.input[1] in n.output)
        (scale,) = (i for i in broken.graph.initializer if i.name == weight.input[1])
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 1.5, scale.name))
        found = worst_blocks(master, ir.from_proto(broken), samples(bundle))
        assert spoilt in found[0].block.nodes
        assert found[0].share > 0.5


def test_shares_add_up_and_noise_grows_behind_noise(bundle: Bundle) -> None:
    master, proto = graphs(bundle)
    judge = Judge(master, samples(bundle))
    found = contributions(judge, ir.from_proto(proto), find_blocks(master))
    assert sum(c.share for c in found) == pytest.approx(1)
    assert all((c.alone is None) == (c.integer_nodes == 0) for c in found)
    noisy = [c.sqnr_db for c in found if c.sqnr_db is not None]
    assert noisy
    assert all(10 < value < 80 for value in noisy)
    same = contributions(judge, master, find_blocks(master))
    assert all(c.sqnr_db is None and c.alone is None and c.share == 0 for c in same)


def test_the_record_and_its_text(bundle: Bundle, image_folder: Path, main: Any) -> None:
    record = diagnose(bundle, str(image_folder))
    assert record["count"] == 40
    assert [step["step"] for step in record["chain"]][:2] == [
        "rewritten graph, float",
        "int8 as written",
    ]
    shares = [row["share"] for row in record["blocks"]]
    assert shares == sorted(shares, reverse=True)
    code, out, _ = main("eval", bundle.path, "--data", image_folder, "--explain", "--json", "-q")
    assert code == 0
    found = json.loads(out)
    assert found.pop("schema") == "edgec.explain/1"
    assert found["blocks"] == record["blocks"]
    code, out, _ = main("eval", bundle.path, "--data", image_folder, "--explain", "-q")
    assert code == 0
    assert record["blocks"][0]["block"] in out
    if record["fix"] is not None:
        assert record["fix"]["command"] in out
        assert record["fix"]["cost"] < record["fix"]["before"]["cost"]


def test_the_suggested_command_does_what_it_says(
    bundle: Bundle, tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    record = diagnose(bundle, str(image_folder))
    fix = record["fix"]
    assert fix is not None
    words = shlex.split(fix["command"])
    assert words[:6] == ["edgec", "export", "--model", "tiny.onnx", "--target", "x86"]
    kept = [words[i + 1] for i, word in enumerate(words) if word == "--keep-float"]
    assert kept == fix["keep_float"]
    again = edgec.compile(
        str(tiny_onnx),
        **OPTIONS,
        keep_float=kept,
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path / "again"),
    )
    _, proto = graphs(again)
    quantized = {n.name for n in proto.graph.node if any("_dequantized" in i for i in n.input)}
    assert not quantized & set(kept)
    assert again.manifest.options["keep_float"]["value"] == kept


def test_commands_are_quoted(bundle: Bundle) -> None:
    command = export_command(bundle.manifest, keep_float=["a'b; rm -rf /", "c d"])
    words = shlex.split(command)
    assert words[-4:] == ["--keep-float", "a'b; rm -rf /", "--keep-float", "c d"]
    assert words[words.index("--precision") + 1] == "int8"


def test_a_failed_gate_names_the_worst_blocks(
    tiny_onnx: Path, misleading_calibration: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    options = {"calib": str(misleading_calibration), "preprocess": str(preprocess_json)}
    with pytest.raises(AccuracyGateError, match="worst blocks") as caught:
        edgec.compile(str(tiny_onnx), **OPTIONS, **options, max_drop=0.0, out=str(tmp_path / "b"))
    assert "--keep-float" in (caught.value.fix or "")


def test_bundles_without_int8_and_names_of_nothing_are_refused(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path, main: Any
) -> None:
    plain = edgec.compile(str(tiny_onnx), target="x86", out=str(tmp_path / "fp32"))
    code, _, err = main("eval", plain.path, "--data", image_folder, "--explain", "-q")
    assert code == 2
    assert "EC216" in err
    with pytest.raises(UsageError, match="nothing to exclude"):
        edgec.compile(
            str(tiny_onnx),
            **OPTIONS,
            keep_float=("nowhere",),
            calib=str(image_folder),
            preprocess=str(preprocess_json),
            out=str(tmp_path / "b"),
        )
    assert not (tmp_path / "b").exists()
