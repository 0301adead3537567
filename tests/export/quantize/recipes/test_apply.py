"""Every recipe ends in a valid Q/DQ graph of the same float network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec
from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import Recipe, builtin_recipes
from edgec.export.quantize.scheme import ORT_X86, TENSORRT
from edgec.export.rewrite import numerics
from edgec.runtime.onnx_runner import OnnxRunner

Feeds = list[dict[str, Any]]


@pytest.fixture(scope="module")
def network(tiny_onnx: Path) -> tuple[ir.Model, Feeds]:
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 16, 16), np.float32)} for _ in range(16)]
    return prepared_copy(ir.from_proto(onnx.load(tiny_onnx))), feeds


def noise(graph: ir.Model, model: ir.Model, feeds: Feeds) -> float:
    """Noise power over signal power at the output."""
    floats = numerics.run(numerics.serialize(model), feeds)
    runner = OnnxRunner(numerics.serialize(graph), emulate=True)
    found = [next(iter(runner.run(feed).values())) for feed in feeds]
    power = sum(float((a**2).sum()) for a in floats)
    return sum(float(((a - b) ** 2).sum()) for a, b in zip(floats, found, strict=True)) / power


@pytest.mark.parametrize("scheme", [ORT_X86, TENSORRT], ids=lambda s: s.name)
@pytest.mark.parametrize("name", builtin_recipes())
def test_builtin_recipes(network: tuple[ir.Model, Feeds], name: str, scheme: Any) -> None:
    model, feeds = network
    before = numerics.serialize(model)
    recipe = builtin_recipes()[name]
    recipe = replace(recipe, finetune=min(recipe.finetune, 10))
    graph, notes = transform(model, recipe, lambda: feeds, scheme)
    names = ["logits"] * len(feeds)
    floats = [numerics.run(numerics.serialize(g), feeds) for g in (model, graph)]
    assert numerics.compare(names, *floats) is None
    assert [note["step"] for note in notes] == list(recipe.transforms)
    ranges = calibrate(graph, feeds, method=recipe.calib_method)
    made = quantize_by(recipe, graph, ranges, lambda: feeds, scheme)
    onnx.checker.check_model(ir.to_proto(made.graph), full_check=True)
    assert noise(made.graph, model, feeds) < 1e-3  # 30 dB
    assert numerics.serialize(model) == before, "the float graph was modified"
    json.dumps(made.notes + notes)


def test_the_default_is_calibration_and_corrected_biases(network: tuple[ir.Model, Feeds]) -> None:
    model, feeds = network
    ranges = calibrate(model, feeds, method="mse")
    want = quantize(correct_biases(model, feeds, ORT_X86), ranges, ORT_X86)
    found = quantize_by(Recipe("default"), model, ranges, lambda: feeds, ORT_X86)
    assert numerics.serialize(found.graph) == numerics.serialize(want)
    assert found.notes == []


def test_learned_weights_are_what_biases_are_corrected_for(network: tuple[ir.Model, Feeds]) -> None:
    """Corrected for rounding to nearest, biases would shift the mean the wrong way."""
    model, feeds = network
    ranges = calibrate(model, feeds)
    scheme = replace(ORT_X86, pair_safe=False).with_bits(4, 8)
    learned = quantize_by(
        Recipe("r", rounding="adaround", bias_correction=True),
        model,
        ranges,
        lambda: feeds,
        scheme,
    )
    plain = quantize_by(Recipe("r", bias_correction=True), model, ranges, lambda: feeds, scheme)
    assert noise(learned.graph, model, feeds) < 1.1 * noise(plain.graph, model, feeds)


def test_keep_float_is_added_to(network: tuple[ir.Model, Feeds]) -> None:
    model, feeds = network
    gemm = next(str(n.name) for n in model.graph if n.op_type == "Gemm")
    recipe = Recipe("r", keep_float=("Conv",))
    ranges = calibrate(model, feeds)
    graph = quantize_by(recipe, model, ranges, lambda: feeds, ORT_X86, exclude=(gemm,)).graph
    readers = [n for n in graph.graph if n.op_type in ("Conv", "Gemm")]
    assert all(n.inputs[1].producer() is None for n in readers if n.inputs[1] is not None)


def test_an_export_tells_its_recipe(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path, main: Any
) -> None:
    code, out, _ = main(
        "export", "--model", tiny_onnx, "--target", "x86", "--precision", "int8", "-q",
        "--calib", image_folder, "--preprocess", preprocess_json, "--recipe", "equalized",
        "--calib-method", "minmax", "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0
    assert "method minmax, recipe equalized (asked for)" in out
    made = edgec.load(tmp_path / "b")
    assert made.manifest.calibration is not None
    kept = made.manifest.calibration["recipe"]
    assert kept["recipe"]["calib_method"] == "minmax"
    assert [step["step"] for step in kept["steps"]] == ["equalize"]
    assert {"changed", "refused"} <= set(kept["steps"][0])
    code, _, err = main(
        "export", "--model", tiny_onnx, "--target", "x86", "--precision", "int8", "-q",
        "--calib", image_folder, "--preprocess", preprocess_json, "--recipe", "best",
        "--out", tmp_path / "c",
    )  # fmt: skip
    assert code == 2
    assert "EC270" in err
    assert not (tmp_path / "c").exists()
