"""Every network equals the one its authors published: keys, shapes, parameters, MACs, outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgec.models import create_model, get_spec, list_models
from edgec.profiles.macs_torch import count_module_macs


def registry_name(golden_name: str) -> str:
    return golden_name.removeprefix("timm_")


def build_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def adapt_keys(name: str, published: Mapping[str, Any]) -> dict[str, Any]:
    """Published keys to ours, where the family renames any."""
    adapt = getattr(import_module(f"edgec.models.{get_spec(name).family}"), "adapt_keys", None)
    return adapt(published)[0] if adapt else dict(published)


def test_state_dict(golden_name: str, golden_shapes: dict[str, tuple[int, ...]]) -> None:
    name = registry_name(golden_name)
    network = build_meta(name)
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == adapt_keys(name, golden_shapes)


def test_parameters_and_macs(golden_name: str, golden: dict[str, Any]) -> None:
    name = registry_name(golden_name)
    network = build_meta(name)
    assert sum(p.numel() for p in network.parameters()) == golden["params"]
    # two published heads run as one: the second is not computed
    second_head = getattr(network, "head_dist", None)
    saved = second_head.weight.numel() if second_head is not None else 0
    for size, values in golden["sizes"].items():
        image = torch.empty(1, 3, int(size), int(size), device="meta")
        assert count_module_macs(network, image).total == values["macs"] - saved
    facts = get_spec(name)
    assert facts.params == golden["params"]
    at_default = golden["sizes"].get(str(facts.input_shape[1]))
    assert at_default is None or facts.macs == at_default["macs"] - saved


def test_logits(
    golden_name: str,
    golden: dict[str, Any],
    golden_shapes: dict[str, tuple[int, ...]],
    fill: Callable[..., dict[str, Tensor]],
    image: Callable[..., Tensor],
) -> None:
    name = registry_name(golden_name)
    network = build_meta(name)  # saves drawing weights that are replaced
    # types by our keys, draws by the published ones
    types = network.state_dict()
    ours = adapt_keys(name, {key: key for key in golden_shapes})
    like = {published: types[key] for key, published in ours.items()}
    state = adapt_keys(name, fill(like, golden))
    network.load_state_dict(state, strict=True, assign=True)
    for size, values in golden["sizes"].items():
        tolerance = 1e-4 * max(1.0, values["std"])
        for seed, expected in values["logits"].items():
            with torch.no_grad():
                logits = network(image(int(size), int(seed))).double().numpy()[0]
            assert logits.shape == (1000,)
            np.testing.assert_allclose(logits[:16], expected, rtol=0, atol=tolerance)
            if seed == "123":
                assert logits.sum() == pytest.approx(values["sum"], abs=10 * tolerance)
                assert logits.mean() == pytest.approx(values["mean"], abs=tolerance)
                assert logits.std(ddof=1) == pytest.approx(values["std"], abs=tolerance)


def test_registry_facts(other_name: str) -> None:
    """What the registry states is true of the networks that no golden test compares with it."""
    spec = get_spec(other_name)
    network = build_meta(other_name)
    image = torch.empty(1, *spec.input_shape, device="meta")
    assert network(image).shape == (1, spec.num_classes)
    assert sum(p.numel() for p in network.parameters()) == spec.params
    assert count_module_macs(network, image).total == spec.macs


def test_every_registered_network_is_covered(golden_names: frozenset[str]) -> None:
    """Each one has golden outputs, or differs from one that has in the input size alone."""

    def architecture(name: str) -> tuple[str, dict[str, Any]]:
        spec = get_spec(name)
        return spec.factory, {k: v for k, v in spec.arguments.items() if k != "window"}

    covered = [architecture(registry_name(golden)) for golden in golden_names]
    for name in list_models():
        # ours, published nowhere else; or subnets, covered by test_mcuformer.py
        if not name.endswith("_cifar10") and get_spec(name).family != "mcuformer":
            assert architecture(name) in covered, name
