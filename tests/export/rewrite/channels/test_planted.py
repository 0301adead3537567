"""Random networks with dead and constant channels: equal in float, bit-exact in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgec.export.rewrite import numerics
from edgec.export.rewrite.channels.remove_channels import RemoveChannels
from edgec.export.rewrite.inference import infer_shapes
from edgec.profiles.macs import count_graph_macs

SEEDS = st.integers(0, 2**20)


def removed(model: ir.Model) -> RemoveChannels:
    """Run the pass; what it leaves must be a valid graph with the same interface."""
    interface = [(v.name, v.shape, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    rewrite = RemoveChannels()
    rewrite(model)
    noted = {v.name: v.shape for node in model.graph for v in node.outputs}
    infer_shapes(model)
    assert noted == {v.name: v.shape for node in model.graph for v in node.outputs}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = [(v.name, v.shape, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    assert after == interface
    return rewrite


@given(SEEDS)
@example(390)  # several tensors lose every channel: which one stays has to fit between them
@settings(max_examples=25, deadline=None)
def test_float_networks(random_network: Callable[[int], ir.Model], seed: int) -> None:
    model = random_network(seed)
    feeds = [numerics.seeded_inputs(model, s) for s in (1, 2)]
    want = numerics.run(numerics.serialize(model), feeds)
    before = count_graph_macs(model).total
    rewrite = removed(model)
    got = numerics.run(numerics.serialize(model), feeds)
    assert numerics.compare(["y", "y"], want, got) is None
    assert count_graph_macs(model).total <= before
    assert not rewrite.matches or count_graph_macs(model).total < before
    again = RemoveChannels()
    again(model)
    assert not again.matches  # a fixed point


@pytest.mark.parametrize("scheme", ["ort-x86", "ort-arm"])
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_quantized_networks(
    random_network: Callable[[int], ir.Model],
    quantized: Callable[[ir.Model, str], ir.Model],
    integers: Any,
    scheme: str,
    seed: int,
) -> None:
    model = quantized(random_network(seed), scheme)
    feed = numerics.seeded_inputs(model, 7)
    want, _ = integers(model)(feed)
    removed(model)
    got, _ = integers(model)(feed)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scheme", ["ort-x86", "ort-arm"])
def test_half_silent_separable_network(
    separable_network: Callable[..., ir.Model],
    quantized: Callable[[ir.Model, str], ir.Model],
    integers: Any,
    scheme: str,
) -> None:
    """As in MLPerf Tiny's visual wake words network, a third of all channels never fires."""
    model = quantized(separable_network(3, silent=0.5), scheme)
    feeds = [numerics.seeded_inputs(model, seed) for seed in (1, 2)]
    want = [integers(model)(feed) for feed in feeds]
    before = count_graph_macs(model).total
    rewrite = removed(model)
    assert before / count_graph_macs(model).total >= 1.94
    assert "M MACs" in rewrite.note
    for (outputs, trace), feed in zip(want, feeds, strict=True):
        got, after = integers(model)(feed)
        np.testing.assert_array_equal(outputs[0], got[0])
        # and tensor by tensor: what is left is what was there
        for a, b in zip(trace, after, strict=True):
            kept = {channel.tobytes() for channel in np.moveaxis(a, 1, 0)}
            assert {channel.tobytes() for channel in np.moveaxis(b, 1, 0)} <= kept
    # ONNX Runtime's own integer kernels agree up to the float steps between them
    runs = [numerics.run(numerics.serialize(m), feeds) for m in (model,)]
    assert np.abs(runs[0][0] - want[0][0][0]).max() < 0.1 * np.abs(want[0][0][0]).max()
