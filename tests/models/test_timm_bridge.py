"""The bridge to timm: clear refusals without it, parity with it."""

from __future__ import annotations

import sys
from importlib import util
from typing import Any

import pytest
import torch

from edgec.export.errors import MissingToolError, UsageError
from edgec.models import timm_bridge

needs_timm = pytest.mark.skipif(
    util.find_spec("timm") is None, reason="timm is not installed (extra: timm)"
)


def test_without_timm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingToolError) as caught:
        timm_bridge.load("repvit_m0_9", "random", seed=0)
    assert caught.value.code == "EC623"
    assert "edgec[timm]" in (caught.value.fix or "")


def test_the_command_line_says_so_too(main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = main("export", "--model", "timm:repvit_m0_9", "--target", "jetson")
    assert code == 6
    assert "EC623" in err


@needs_timm
def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(UsageError, match="mobilenetv9"):
        timm_bridge.load("mobilenetv9", "random", seed=0)


def _random(timm: Any, name: str, size: int) -> torch.nn.Module:
    """The network as timm builds it, with the bridge's random weights of seed 3."""
    network = timm.create_model(name).eval()
    timm_bridge.randomize(network, 3)
    timm_bridge.settle(network, (3, size, size), 3)
    return network


@needs_timm
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small_035", "mobileone_s0"])
def test_merged_branches_compute_the_same(name: str) -> None:
    timm = timm_bridge.import_timm()
    found = timm_bridge.load(name, "random", seed=3, input_size=(64, 64))
    assert found.input_shape == (3, 64, 64)
    assert found.weights["kind"] == "random"
    plain = _random(timm, name, 64)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = plain.eval()(x)
        # merging re-associates sums: differences are relative to the size of the logits
        torch.testing.assert_close(
            found.network(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
    assert found.params <= sum(p.numel() for p in plain.parameters())


@needs_timm
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small_035", "repvit_m0_9", "tiny_vit_5m_224"])
def test_feature_maps_are_timms_own(name: str) -> None:
    """Its ``features_only`` form with the weights of the whole network, branches merged."""
    timm = timm_bridge.import_timm()
    size = 224 if name.startswith("tiny_vit") else 64
    found = timm_bridge.load(name, "random", seed=3, input_size=(size, size), features=["all"])
    plain = _random(timm, name, size)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = found.network(x)
        _, expected = plain.eval().forward_intermediates(x, norm=False)
    assert list(maps) == [stage.name for stage in found.stages]
    assert "classifier" in found.weights["note"]
    by_size = {tuple(y.shape[1:]): y for y in expected}
    compared = 0
    for stage, y in zip(found.stages, maps.values(), strict=True):
        assert y.shape[1:] == (stage.channels, size // stage.stride, size // stage.stride)
        want = by_size.get(tuple(y.shape[1:]))
        if want is not None:
            compared += 1
            torch.testing.assert_close(y, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    assert compared >= 3
    last = timm_bridge.load(name, "random", seed=3, input_size=(size, size), features=["/16"])
    assert [stage.stride for stage in last.stages] == [16]


@needs_timm
def test_random_weights_keep_the_signal_of_deep_networks_alive() -> None:
    """As they are drawn, the logits of this one reach 1e9 and its attention is a tie-break."""
    found = timm_bridge.load("efficientvit_m0", "random", seed=0)
    x = torch.randn(2, *found.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = found.network(x)
    assert 0.1 < float(logits.std()) < 100
    assert not found.network.training


@needs_timm
def test_networks_of_timm_without_feature_maps_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        timm_bridge.load("mobilenetv4_conv_small_035", "random", seed=0, features=["9"])
    assert caught.value.code == "EC227"
    # which networks have none depends on timm's version
    timm = timm_bridge.import_timm()
    create = timm.create_model

    def refuse(name: str, *, features_only: bool = False, **options: Any) -> Any:
        if features_only:
            raise RuntimeError("features_only not implemented for this network")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UsageError) as caught:
        timm_bridge.load("mixer_s32_224", "random", seed=0, features=["all"])
    assert caught.value.code == "EC228"
    assert "not implemented" in str(caught.value.why)
