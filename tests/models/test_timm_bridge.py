"""The bridge to timm: clear refusals without it, parity with it."""

from __future__ import annotations

import sys
from importlib import util

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


@needs_timm
@pytest.mark.parametrize("name", ["mobilenetv4_conv_small_035", "mobileone_s0"])
def test_merged_branches_compute_the_same(name: str) -> None:
    timm = timm_bridge.import_timm()
    found = timm_bridge.load(name, "random", seed=3, input_size=(64, 64))
    assert found.input_shape == (3, 64, 64)
    assert found.weights["kind"] == "random"
    plain = timm.create_model(name)
    timm_bridge.randomize(plain, 3)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = plain.eval()(x)
        # merging re-associates sums: differences are relative to the size of the logits
        torch.testing.assert_close(
            found.network(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
    assert found.params <= sum(p.numel() for p in plain.parameters())
