"""Blocks with 16-bit activations: offered, chosen where a block needs them, and exact in files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.emit.c import execute
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.tflite.boundary import integer_ends
from edgec.export.emit.tflite.flavour import INTEGER, LITERT, C
from edgec.export.emit.tflite.lower import emit
from edgec.export.emit.tflite.normalise import normalise
from edgec.export.emit.tflite.read import read_graph
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.finetune.freedom import Freedom, own_biases
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.mixed.result import MixedPlan
from edgec.export.quantize.mixed.search import search_mixed
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import (
    C_INT16X8,
    TFLITE,
    TFLITE_FULL,
    TFLITE_INT16X8,
    QuantScheme,
)
from edgec.export.quantize.sensitivity.measured import damage, run
from edgec.export.tflite_artifacts import at_opset
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.regions import ANY_RAM
from edgec.runtime.litert_runner import dequantized
from edgec.runtime.tflite_artifact import as_integers

Feeds = list[dict[str, np.ndarray]]
BOTH = replace(TFLITE_FULL, wide=TFLITE_INT16X8)
IN_C = replace(TFLITE_FULL, wide=C_INT16X8)


@pytest.fixture(scope="module")
def network(spread_onnx: Path) -> ir.Model:
    return at_opset(ir.from_proto(onnx.load(spread_onnx)), 21)


@pytest.fixture(scope="module")
def samples() -> Feeds:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(64)]


@pytest.fixture(scope="module")
def calibration(network: ir.Model, samples: Feeds) -> Calibration:
    return calibrate(network, samples[:32])


def in_body(network: ir.Model, scheme: QuantScheme) -> QuantScheme:
    """16 bits in the module ``body``."""
    names = [str(n.name) for n in network.graph if n.metadata_props["edgec.module"] == "body"]
    return replace(scheme, wide_nodes=frozenset(names))


def searched(
    network: ir.Model, calibration: Calibration, samples: Feeds, scheme: QuantScheme, **options: Any
) -> MixedPlan:
    options = {"precisions": ("float", "int16x8", "int8"), "max_drop": 7.0} | options
    return search_mixed(
        network, calibration, scheme, samples[:32], samples[32:], max_layers=3, **options
    )


@pytest.mark.parametrize("scheme", [TFLITE, TFLITE_FULL], ids=lambda s: s.name)
def test_the_block_that_needs_them_has_16_bits(
    network: ir.Model, calibration: Calibration, samples: Feeds, scheme: QuantScheme
) -> None:
    found = searched(network, calibration, samples, replace(scheme, wide=TFLITE_INT16X8))
    assert found.met
    assert found.chosen.precisions["body"] == "int16x8"
    assert set(found.chosen.precisions.values()) == {"int8", "int16x8"}
    assert 0.1 > found.sensitivity["body"]["int16x8"] * 10 < found.sensitivity["body"]["int8"]
    narrow = next(p for p in found.front if set(p.precisions.values()) == {"int8"})
    # the same weights, and activations of the one block twice as wide
    assert found.chosen.bytes == narrow.bytes
    assert narrow.activation_bytes < found.chosen.activation_bytes < 2 * narrow.activation_bytes
    assert narrow.bit_operations < found.chosen.bit_operations < 2 * narrow.bit_operations
    made = found.quantize(network, calibration)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    held = samples[32:]
    kept = damage(run(prepared_copy(network), held), run(made, held)).agreement
    assert 100 * (1 - kept) == pytest.approx(found.chosen.held_out_drop)
    assert "int16x8" in json.dumps(found.to_json())
    without = searched(
        network, calibration, samples, replace(scheme, wide=TFLITE_INT16X8),
        precisions=("float", "int8"),
    )  # fmt: skip
    assert without.chosen.precisions["body"] == "float"
    assert without.chosen.bit_operations > found.chosen.bit_operations


def test_conversions_stand_between_the_widths(network: ir.Model, calibration: Calibration) -> None:
    scheme = in_body(network, BOTH)
    planned = plan_quantization(prepared_copy(network), scheme)
    borders = [(q.tensor, q.wide, q.readers) for q in planned.quantizers if q.converts]
    # r feeds the branch and the sum, both of 16 bits: it is widened once
    assert borders == [
        ("r", True, (("node_e", 0), ("node_t", 1))),
        ("t", False, (("node_h", 0),)),
    ]
    made = quantize(network, calibration, scheme)
    types = {str(n.inputs[0].name): n.outputs[0].dtype for n in made.graph if n.op_type[0] == "Q"}
    wide = {name for name, dtype in types.items() if dtype == ir.DataType.INT16}
    assert wide == {"r_dequantized", "a", "d", "p", "t"}
    # behind r stands the integer it already is, on another grid
    steps = {str(v.name): v.const_value for v in made.graph.initializers.values()}
    assert float(steps["r_wide_scale"].numpy()) < float(steps["r_scale"].numpy()) / 100


def test_only_grids_of_8_bits_are_fine_tuned(network: ir.Model, calibration: Calibration) -> None:
    scheme, model = in_body(network, BOTH), own_biases(prepared_copy(network), BOTH, ())
    made = quantize(model, calibration, scheme)
    freedom = Freedom(model, made, calibration, scheme)
    # t is written with 16 bits, and its 8-bit copy follows
    assert set(freedom.ranges) == {"x", "r", "q", "y"}


def test_what_a_backend_cannot_execute_is_not_offered(
    network: ir.Model, calibration: Calibration, samples: Feeds
) -> None:
    def without_sums(graph: ir.Model) -> bool:
        """As a runtime that lacks ADD on int16."""
        add = next(n for n in graph.graph if n.op_type == "Add")
        return add.inputs[0].producer().inputs[0].dtype != ir.DataType.INT16

    found = searched(network, calibration, samples, BOTH, executes=without_sums)
    assert found.chosen.precisions["body"] == "float"
    assert "int16x8" not in found.sensitivity["body"]
    assert all("int16x8" in other for n, other in found.sensitivity.items() if n != "body")


@pytest.mark.parametrize("flavour", [INTEGER, LITERT], ids=lambda f: f.name)
def test_the_file_is_exact(
    network: ir.Model, calibration: Calibration, samples: Feeds, flavour: Any
) -> None:
    """LiteRT's plain kernels compute what the integer reference does, to the last bit."""
    litert = pytest.importorskip("edgec.runtime.litert_runner")
    pytest.importorskip("ai_edge_litert")
    from edgec.export.tflite.reference.executor import run as run_integers
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    base = BOTH if flavour is INTEGER else replace(TFLITE, wide=TFLITE_INT16X8)
    made = quantize(network, calibration, in_body(network, base))
    file = convert(made, precision="int8", ends="integer", flavour=flavour)
    main = file.lowered.model.main
    kinds = Counter(
        (main.tensors[o.inputs[0]].dtype, main.tensors[o.outputs[0]].dtype)
        for o in main.operators
        if o.code == "QUANTIZE"
    )
    assert kinds[("INT8", "INT16")] == kinds[("INT16", "INT8")] == 1
    inside = {o.code for o in main.operators if main.tensors[o.outputs[0]].dtype == "INT16"}
    assert inside == {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "QUANTIZE"}
    tensor = main.tensors[main.inputs[0]]
    for feed in samples[:4]:
        stored = {"x": as_integers(feed["x"].transpose(0, 2, 3, 1), tensor)}
        want = litert.LiteRTRunner(file.lowered.model, kernels="reference").run(stored)
        np.testing.assert_array_equal(run_integers(file.lowered.model, stored)["y"], want["y"])
    ends = convert(made, precision="int8", flavour=flavour)
    for kernels in ("xnnpack", "builtin"):
        runner = TfliteArtifactRunner(ends.content, kernels=kernels)
        (wanted,) = run(made, samples[:1])
        (found,) = runner.run(samples[0]).values()
        assert np.abs(found - wanted).max() <= 2.01 * runner.steps["y"]


def test_the_c_is_exact(network: ir.Model, calibration: Calibration, samples: Feeds) -> None:
    """The plan, byte by byte in its arena, computes what the reference does."""
    made = quantize(network, calibration, in_body(network, IN_C))
    read = normalise(read_graph(made, C))
    integer_ends(read)
    model = emit(read, C).model
    lowered = lower(model)
    kernels = Counter(call.kernel for call in lowered.calls)
    assert kernels["edgec_widen_s16"] == kernels["edgec_narrow_s16"] == 1
    assert kernels["edgec_conv_s8"] == kernels["edgec_conv_s16"] == 2
    planned = plan(lowered.program, [ANY_RAM], time_limit=2)
    tensor, end = (model.main.tensors[i] for i in (*model.main.inputs, *model.main.outputs))
    feeds = [{"x": as_integers(feed["x"].transpose(0, 2, 3, 1), tensor)} for feed in samples[:3]]
    golden = [(feed, reference(model, feed)) for feed in feeds]
    execute.check(model, lowered, planned, golden)
    assert end.quantization is not None
    for (_, got), feed in zip(golden, samples, strict=False):
        wanted = run(made, [feed])[0]
        assert np.abs(dequantized(got["y"], end) - wanted).max() <= 2.01 * end.quantization.scale[0]


@pytest.mark.parametrize("wide", ["n", "m"])
def test_norms_between_widths(build: Any, node: Any, wide: str) -> None:
    """C has norms on int8 or int16: one between both computes on int16."""
    rng = np.random.default_rng(2)
    constants = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "vw"}
    constants |= {"g": rng.random(8).astype(np.float32), "b": rng.random(8).astype(np.float32)}
    nodes = [
        node("MatMul", ["x", "v"], ["n"]),
        node("LayerNormalization", ["n", "g", "b"], ["l"], axis=-1),
        node("MatMul", ["l", "w"], ["m"]),
    ]
    model = build(nodes, {"x": [6, 8]}, {"m": [6, 8]}, constants, opset=21)
    feeds = [{"x": rng.standard_normal((6, 8)).astype(np.float32)} for _ in range(4)]
    scheme = replace(IN_C, wide_nodes=frozenset({f"node_{wide}"}))
    made = quantize(model, calibrate(model, feeds), scheme)
    read = normalise(read_graph(made, C))
    integer_ends(read)
    model = emit(read, C).model
    kernels = [call.kernel for call in lower(model).calls]
    assert "edgec_layer_norm_s16" in kernels
    assert {"edgec_widen_s16", "edgec_narrow_s16"} & set(kernels)
    tensor, end = (model.main.tensors[i] for i in (*model.main.inputs, *model.main.outputs))
    assert end.quantization is not None
    for feed in feeds:
        got = reference(model, {"x": as_integers(feed["x"], tensor)})["m"]
        wanted = run(made, [feed])[0]
        step = end.quantization.scale[0] * (256 if end.dtype == "INT16" else 1)
        assert np.abs(dequantized(got, end) - wanted).max() <= 2.01 * step
