"""Mixed precision of a small network with one block that integers spoil."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.errors import BudgetError, InputError, UsageError
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import LearnedWeight
from edgec.export.quantize.mixed.choice import block_costs, executable_precisions
from edgec.export.quantize.mixed.price import Prices, predicted_on
from edgec.export.quantize.mixed.search import search_mixed
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.rounding.blocks import find_blocks
from edgec.export.quantize.scheme import ORT_X86_VNNI
from edgec.export.quantize.sensitivity.measured import damage, run
from edgec.targets.registry import get_target

SPOILED = "m1"


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(48)]


@pytest.fixture
def network(hybrid) -> ir.Model:
    """Modules small enough for four blocks."""
    for node in hybrid.graph:
        name = str(node.outputs[0].name)
        body = "head" if name in ("g", "y") else "attn" if name > "a2" or name == "a3" else "conv"
        if name in ("c0", "r0"):
            body = "stem"
        if name in ("c1", "s1", "m1", "c2", "a2"):
            body = "conv"
        node.metadata_props["edgec.module"] = f"{body}.{name}"
    return hybrid


@pytest.fixture
def calibration(network, samples) -> Calibration:
    """The range of one tensor is a hundredth of what it should be."""
    found = calibrate(network, samples[:16])
    span = found.range(SPOILED)
    return found.with_ranges({SPOILED: Range(span.low / 100, span.high / 100)})


def agreement(model, other, samples) -> float:
    return damage(run(prepared_copy(model), samples), run(other, samples)).agreement


def test_the_spoiled_block_stays_float_and_the_rest_does_not(network, calibration, samples):
    train, held = samples[:24], samples[24:]
    plan = search_mixed(network, calibration, ORT_X86_VNNI, train, held, max_drop=10.0)
    assert plan.met
    precisions = plan.chosen.precisions
    floats = [name for name, precision in precisions.items() if precision == "float"]
    assert len(precisions) >= 3
    assert 1 <= len(floats) < len(precisions)
    assert max(plan.sensitivity, key=lambda n: plan.sensitivity[n]["int8"]) in floats
    model = plan.quantize(network, calibration)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert 100 * (1 - agreement(network, model, held)) == pytest.approx(plan.chosen.held_out_drop)
    whole = quantize(network, calibration, ORT_X86_VNNI)
    assert agreement(network, whole, held) < agreement(network, model, held)


def test_front_is_ordered_and_ends_in_int8_and_float(network, calibration, samples):
    plan = search_mixed(
        network, calibration, ORT_X86_VNNI, samples[:16], samples[16:24], max_drop=0.0
    )
    few = search_mixed(
        network, calibration, ORT_X86_VNNI, samples[:4], samples[16:20], max_drop=0.0, points=3
    )
    assert len(few.front) == 3 < len(plan.front)
    assert (few.front[0].bytes, few.front[-1].bytes) == (plan.front[0].bytes, plan.front[-1].bytes)
    costs = [point.bit_operations for point in plan.front]
    assert costs == sorted(costs)
    assert set(plan.front[0].precisions.values()) == {"int8"}
    assert set(plan.front[-1].precisions.values()) == {"float"}
    assert plan.front[-1].drop == plan.front[-1].divergence == plan.front[-1].predicted == 0
    assert plan.front[0].predicted == pytest.approx(
        sum(found["int8"] for found in plan.sensitivity.values())
    )
    assert json.loads(json.dumps(plan.to_json()))["met"] == plan.met


def test_bytes_bound_the_choice(network, calibration, samples):
    def search(limit: int):
        return search_mixed(
            network, calibration, ORT_X86_VNNI, samples[:16], samples[16:24], max_bytes=limit
        )

    whole = search(10_000_000)
    assert set(whole.chosen.precisions.values()) == {"float"}
    least = whole.front[0].bytes
    tight = search(least)
    assert tight.chosen.bytes == least
    middle = search((least + whole.front[-1].bytes) // 2)
    assert least < middle.chosen.bytes <= (least + whole.front[-1].bytes) // 2
    assert middle.chosen.divergence <= tight.chosen.divergence
    with pytest.raises(BudgetError, match="EC582"):
        search(least - 1)


def test_costs_are_the_bytes_of_the_file(network):
    copy = prepared_copy(network)
    plan = plan_quantization(copy, ORT_X86_VNNI)
    blocks = find_blocks(copy, plan)
    costs = block_costs(copy, plan, blocks, ("float", "int8", "int4"))
    elements = 8 * 3 * 9 + 8 * 9 + 64 + 8 * 24 + 64 + 80
    channels = 8 + 8 + 8 + 24 + 8 + 10
    total = {p: sum(c[p].bytes for c in costs) for p in ("float", "int8", "int4")}
    assert total == {
        "float": 4 * elements,
        "int8": elements + 4 * channels,
        "int4": elements // 2 + 4 * channels,
    }
    operations = {p: sum(c[p].bit_operations for c in costs) for p in total}
    assert operations["float"] == 16 * operations["int8"] == 32 * operations["int4"]


def test_labels_turn_agreement_into_accuracy(network, calibration, samples):
    held = samples[24:]
    classes = run(prepared_copy(network), held)[0].argmax(1)
    wrong = [int(c + 1) % 10 for c in classes]
    plan = search_mixed(
        network, calibration, ORT_X86_VNNI, samples[:16], held, max_drop=100.0, holdout_labels=wrong
    )
    assert plan.chosen.held_out_drop is not None
    assert plan.chosen.held_out_drop <= 0  # nothing right can become wrong
    right = list(run(prepared_copy(network), samples[:16])[0].argmax(1))
    plan = search_mixed(
        network, calibration, ORT_X86_VNNI, samples[:16], held, max_drop=0.0, labels=right
    )
    assert plan.front[0].drop == pytest.approx(
        100 * (1 - agreement(network, quantize(network, calibration, ORT_X86_VNNI), samples[:16]))
    )


def test_learned_weights_are_kept_for_integer_blocks_only(network, calibration, samples):
    copy = prepared_copy(network)
    weights = {
        (w.tensor, w.axis): LearnedWeight(None, np.full(shape, 0.02, np.float32))
        for w in plan_quantization(copy, ORT_X86_VNNI).weights
        if not w.operand
        for shape in [copy.graph.initializers[w.tensor].const_value.shape[w.axis]]
    }
    plan = search_mixed(
        network,
        calibration,
        ORT_X86_VNNI,
        samples[:16],
        samples[16:24],
        max_drop=10.0,
        learned=weights,
    )
    floats = {n for n, p in plan.chosen.precisions.items() if p == "float"}
    blocks = find_blocks(copy, plan_quantization(copy, ORT_X86_VNNI))
    for block in blocks:
        assert all((key in plan.learned) == (block.name not in floats) for key in block.weights)
    plan.quantize(network, calibration)


def test_int4_only_where_the_runtime_has_it(network):
    newer = network.clone()
    newer.graph.opset_imports[""] = 21
    assert executable_precisions(newer, {"int8", "int4"}) == ("float", "int8", "int4")
    assert executable_precisions(newer, {"int8"}) == ("float", "int8")
    assert executable_precisions(network, {"int8", "int4"}) == ("float", "int8")


def test_time_bounds_the_choice(network, calibration, samples):
    def price(floating, integers, blocks, precisions):
        assert not any(node.op_type == "QuantizeLinear" for node in floating.graph)
        assert any(node.op_type == "QuantizeLinear" for node in integers.graph)
        slow = {"float": 4.0, "int8": 1.0}
        times = tuple({p: slow[p] for p in precisions} for _ in blocks)
        return Prices(times, dict.fromkeys(slow, 0.5), dict.fromkeys(slow, 2.0), "a clock")

    def search(limit: float):
        return search_mixed(
            network,
            calibration,
            ORT_X86_VNNI,
            samples[:16],
            samples[16:24],
            max_latency=limit,
            price=price,
        )

    whole = search(1000.0)
    count = len(whole.chosen.precisions)
    assert set(whole.chosen.precisions.values()) == {"float"}
    assert whole.latency_basis == whole.to_json()["latency_basis"] == "a clock"
    assert [point.latency_ms for point in whole.front] == sorted(
        count + 3.0 * sum(p == "float" for p in point.precisions.values()) for point in whole.front
    )
    one = search(count + 3.0)
    assert [name for name, p in one.chosen.precisions.items() if p == "float"] == [
        max(one.sensitivity, key=lambda name: one.sensitivity[name]["int8"])
    ]
    assert one.chosen.latency_interval_ms == ((count + 3.0) / 2, (count + 3.0) * 2)
    with pytest.raises(BudgetError, match=f"fastest is predicted to take {count} ms"):
        search(count - 0.5)


def test_misuse_is_named(network, calibration, samples):
    def search(*data, **options):
        return search_mixed(network, calibration, ORT_X86_VNNI, *data, **options)

    some = samples[:2]
    for options in (
        {},
        {"max_drop": 1.0, "max_bytes": 9},
        {"max_drop": -1.0},
        {"max_latency": 1.0},
        {"max_drop": 1.0, "price": predicted_on(get_target("raspberry-pi-5"))},
    ):
        with pytest.raises(UsageError, match="EC266"):
            search(some, some, **options)
    with pytest.raises(UsageError, match="3 labels for 2"):
        search(some, some, max_drop=1.0, labels=[0, 1, 2])
    with pytest.raises(UsageError, match="1 labels for 2"):
        search(some, some, max_drop=1.0, holdout_labels=[0])
    for data in (([], some), (some, [])):
        with pytest.raises(InputError, match="EC760"):
            search(*data, max_drop=1.0)


def test_what_stays_float_in_any_case_is_no_choice(network, calibration, samples):
    train, held = samples[:24], samples[24:]

    def search(most: int):
        return search_mixed(
            network, calibration, ORT_X86_VNNI, train, held, max_bytes=most, exclude=("Conv",)
        )

    cheapest = min(search(10**6).front, key=lambda point: point.bytes)
    plan = search(cheapest.bytes)
    assert set(plan.chosen.precisions.values()) == {"int8"}
    model = plan.quantize(network, calibration)
    weighted = {n.op_type for n in model.graph if len(n.inputs) > 1 and _dequantized(n.inputs[1])}
    assert "MatMul" in weighted
    assert "Conv" not in weighted
    # what the search measured is what is written
    found = damage(run(prepared_copy(network), train), run(model, train)).divergence
    assert found == pytest.approx(plan.chosen.divergence)


def _dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
