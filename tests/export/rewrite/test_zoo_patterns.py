"""Patterns found in networks of the zoo are as many as their modules say.

What to expect is counted while the network runs in torch: every call of an attention, a gate or an
activation module is one pattern.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgec import models
from edgec.export.capture import from_torch
from edgec.export.rewrite.base import Options
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.recognise.patterns import counts, patterns, recognised
from edgec.export.rewrite.stages import RECOGNISE
from edgec.models import (
    edgenext,
    efficientformer,
    efficientformerv2,
    emo,
    emov2,
    mcuformer,
    mobileformer,
    mobilevit,
    mobilevitv2,
)
from edgec.models.random_init import randomize


def windows_of(shape: torch.Size, window: int) -> int:
    return -(-shape[2] // window) * -(-shape[3] // window)


def spanning(module: Any, x: torch.Tensor) -> dict[str, int]:
    kind = "window_attention" if windows_of(x.shape, module.window) > 1 else "attention"
    return {kind: 2 if module.branches == "hybrid" else 1}


def emo_block(module: Any, x: torch.Tensor) -> dict[str, int]:
    if module.qk is None:
        return {}
    return {"window_attention" if windows_of(x.shape, module.window) > 1 else "attention": 1}


EXPECTED: dict[type[nn.Module], Callable[[Any, torch.Tensor], dict[str, int]]] = {
    nn.SiLU: lambda m, x: {"silu": 1},
    nn.GELU: lambda m, x: {"gelu": 1},
    nn.Hardswish: lambda m, x: {"hard_swish": 1},
    edgenext.XCA: lambda m, x: {"cross_covariance_attention": 1, "l2_norm": 2},
    efficientformer.Attention: lambda m, x: {"attention": 1},
    efficientformerv2.Attention: lambda m, x: {"attention": 1},
    efficientformerv2.DownsampleAttention: lambda m, x: {"attention": 1},
    emo.Block: emo_block,
    emo.SqueezeExcite: lambda m, x: {"squeeze_excite": 1},
    emov2.SpanningAttention: spanning,
    mcuformer.Attention: lambda m, x: {"attention": 1},
    mobileformer.DynamicReLU: lambda m, x: {"dynamic_relu": 1},
    mobileformer.GlobalBlock: lambda m, x: {"attention": 1},
    mobileformer.GlobalToLocal: lambda m, x: {"attention": 1},
    mobileformer.LocalToGlobal: lambda m, x: {"attention": 1},
    mobilevit.Attention: lambda m, x: {"window_attention": 1},
    mobilevit.MobileViTBlock: lambda m, x: {"unfold": 1, "fold": 1},
    mobilevitv2.MapNorm: lambda m, x: {"group_norm": 1},
    mobilevitv2.MobileViTv2Block: lambda m, x: {"unfold": 1, "fold": 1},
    mobilevitv2.SeparableAttention: lambda m, x: {"separable_attention": 1},
}

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "emov2": (lambda: models.create_model("emov2_cifar10"), 32),
    "edgenext": (lambda: models.create_model("edgenext_cifar10"), 32),
    "mobilevit": (lambda: models.create_model("mobilevit_cifar10"), 32),
    "efficientformerv2": (lambda: models.create_model("efficientformerv2_cifar10"), 32),
    "mcuformer": (lambda: models.create_model("mcuformer_cifar10"), 32),
    # at 64 pixels the last stage has one patch: nothing to unfold, and attention over one position
    "mobilevitv2": (lambda: mobilevitv2.MobileViTv2(0.25, num_classes=10), 128),
    "efficientformer": (
        lambda: efficientformer.EfficientFormer(
            (1, 1, 1, 2), (16, 24, 32, 48), 1, image=64, num_classes=10
        ),
        64,
    ),
    "mobile_former": (
        lambda: mobileformer.MobileFormer(
            8,
            [
                mobileformer.Step(2, 8, lite=True),
                mobileformer.Step(2, 16, 2),
                mobileformer.Step(2, 16),
            ],
            (3, 32),
            64,
            num_classes=10,
        ),
        32,
    ),
    "emo": (
        lambda: emo.EMO(
            (1, 1, 2, 2),
            (16, 24, 32, 48),
            (2, 2, 2, 2),
            (8, 8, 16, 16),
            stem=8,
            window=2,
            num_classes=10,
        ),
        64,
    ),
}


def expected(network: nn.Module, size: int) -> Counter[str]:
    """Patterns that one run of the network calls for."""
    total: Counter[str] = Counter()

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        total.update(EXPECTED[type(module)](module, inputs[0]))

    handles = [
        module.register_forward_pre_hook(hook)
        for module in network.modules()
        if type(module) in EXPECTED
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return +total


def check(name: str, model: ir.Model | None = None) -> ir.Model:
    """`model`: the network's graph where there is one already."""
    build, size = NETWORKS[name]
    network = build()
    randomize(network, 1)
    network.eval()
    want = expected(network, size)
    if model is None:
        model = from_torch(network, (3, size, size), verify=False)
    for pass_class in RECOGNISE:
        instance = pass_class()
        instance.configure(Options(target_opset=20))
        instance(model)
    found = counts(model)
    assert {kind: found.get(kind, 0) for kind in want} == want
    kinds = {k for k in found if "attention" in k or k in ("squeeze_excite", "dynamic_relu")}
    assert kinds <= want.keys()
    return model


def test_marks_last_through_the_whole_stage(captured: Callable[[str], ir.Model]) -> None:
    """At opset 13 every GELU and LayerNormalization is spelled out, and still known."""
    model = check("emov2", captured("emov2_cifar10"))
    before = counts(model)
    assert before["attention"] == 2  # stage 4 has one window: close and remote are the same
    for node in model.graph:
        node.metadata_props.pop("edgec.pattern", None)
    report = run_stages(model, target_opset=13, max_rank=4)
    assert report.verified
    assert counts(model) == before | {"attention": 1}
    assert recognised(model).startswith("recognised: 1 attention, 4 window attention, 5 GELU")
    for pattern in patterns(model):
        assert pattern.inputs
        assert pattern.outputs
        if pattern.kind == "window_attention":
            assert pattern.facts["windows"] == 4
            assert pattern.facts["heads"] == 4
        if pattern.kind == "gelu":
            assert pattern.facts == {"approximate": "none"}
            assert len(pattern.inputs) == len(pattern.outputs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "emov2"])
def test_as_many_patterns_as_modules(name: str) -> None:
    model = check(name)
    before = counts(model)
    assert run_stages(model, target_opset=13, max_rank=4).verified
    after = counts(model)
    views = ("unfold", "fold")  # views are composed with their neighbours
    assert {k: n for k, n in after.items() if k not in views} == {
        k: n for k, n in before.items() if k not in views
    }
