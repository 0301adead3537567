"""One block of each kind of every family: float and int8, run in LiteRT beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from edgec.export.capture.torch_export import from_torch
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.flavour import INTEGER, LITERT, C
from edgec.export.emit.tflite.lower import lower
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL
from edgec.export.rewrite.engine import run_stages
from edgec.export.tflite import decode, encode
from edgec.export.tflite.layout_copies import layout_copies
from edgec.models import create_model, get_spec
from edgec.models.edgenext import EdgeNeXt
from edgec.models.efficientformer import EfficientFormer
from edgec.models.efficientformerv2 import EfficientFormerV2
from edgec.models.emov2 import EMOv2
from edgec.models.mcuformer import MCUFormer
from edgec.models.mcuformer_config import Config
from edgec.models.mobileformer import MobileFormer, Step
from edgec.models.mobilevit import MobileViT
from edgec.models.mobilevitv2 import MobileViTv2Block
from edgec.models.random_init import randomize
from edgec.runtime.onnx_runner import OnnxRunner

# network, input shape, TRANSPOSE operators of the float file
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "edgenext": (
        lambda: EdgeNeXt((1, 1, 1, 1), (16, 16, 24, 32), 4, patch=2, num_classes=10),
        (3, 32, 32),
        12,
    ),
    "efficientformer": (
        lambda: EfficientFormer((1, 2), (16, 24), 1, image=64, num_classes=10),
        (3, 64, 64),
        4,
    ),
    "efficientformerv2": (
        lambda: EfficientFormerV2(
            (16, 24), ((2,), (2,)), 1, heads=2, key=8, image=32, num_classes=10
        ),
        (3, 32, 32),
        20,
    ),
    "emov2": (
        lambda: EMOv2(
            (1, 1, 2, 2), (16, 16, 32, 32), (2, 2, 2, 2), (16, 16, 16, 16), window=4, num_classes=10
        ),
        (3, 64, 64),
        14,
    ),
    "mcuformer": (
        lambda: MCUFormer(Config(1, (4.0,), (2,), 48, 32, 8, 0.1, 0.4, num_classes=10)),
        (3, 32, 32),
        8,
    ),
    "mobileformer": (
        lambda: MobileFormer(
            8, (Step(2, 8, lite=True), Step(2, 12, 2)), (3, 32), 16, groups=2, num_classes=10
        ),
        (3, 32, 32),
        20,
    ),
    "mobilevit": (
        lambda: MobileViT((16, 16), (24,), (32,), (1,), ratio=2, final=32, strides=(2, 2, 2)),
        (3, 64, 64),
        8,
    ),
    "mobilevitv2": (lambda: MobileViTv2Block(16, 2), (16, 8, 8), 2),
}

# capturing a network takes seconds: three families stand for all in the fast tests
FAST = ("edgenext", "emov2", "mobilevit")
FAMILIES = [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in SMALL]


@cache
def rewritten(name: str) -> ir.Model:
    build, shape, _ = SMALL[name]
    network = build().eval()
    randomize(network, 0)
    model = from_torch(network, shape)
    run_stages(model, target_opset=20, verify=False)
    return model


def feeds(model: ir.Model, count: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(1)
    value = model.graph.inputs[0]
    assert value.shape is not None
    shape = tuple(value.shape.numpy())
    return [{str(value.name): rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_float(name: str, same: Callable[..., Any]) -> None:
    model = rewritten(name)
    file = same(model, feeds=feeds(model, 1)[0])
    assert file.lowered.operators.get("TRANSPOSE", 0) <= SMALL[name][2]
    assert layout_copies(file.lowered.model).between_spatial == 0


@pytest.mark.parametrize("scheme", ["tflite", "tflite-full"])
@pytest.mark.parametrize("name", FAMILIES)
def test_int8(
    name: str,
    scheme: str,
    as_predicted: Callable[[Any, Any], None],
) -> None:
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    model = rewritten(name)
    data = feeds(model, 6)
    full = scheme == "tflite-full"
    made = quantize(model, calibrate(model, data), TFLITE_FULL if full else TFLITE)
    file = convert(made, precision="int8", flavour=INTEGER if full else LITERT)
    assert layout_copies(file.lowered.model).between_spatial == 0
    floats = OnnxRunner(serialize(model, ""))
    emulated = OnnxRunner(serialize(made, ""), emulate=True)
    for kernels in ("xnnpack", "builtin"):
        runner = TfliteArtifactRunner(file.content, kernels=kernels)
        if kernels == "xnnpack":
            as_predicted(file, runner)
            assert full or len(runner.runner.partitions()) == 1
        noise = error = 0.0
        for feed in data:
            want, exact = floats.run(feed), emulated.run(feed)
            got = runner.run(feed)
            for key, array in want.items():
                noise += float(np.square(exact[key] - array).sum())
                error += float(np.square(got[key] - array).sum())
        # rounding differs in each kernel, but the file is as good as what it was made from
        assert error <= 2.0 * noise


@pytest.mark.parametrize("name", ["edgenext", "mobilevit"])
def test_composites_stay_whole_for_the_c_backend(name: str) -> None:
    model = rewritten(name)
    norms = sum(node.op_type == "LayerNormalization" for node in model.graph)
    lowered = lower(model, C).model
    custom = [op for op in lowered.main.operators if op.code == "CUSTOM"]
    assert len(custom) == norms
    assert {op.custom_code for op in custom} == {"LayerNormalization"}
    made = quantize(model, calibrate(model, feeds(model, 2)), TFLITE_FULL)
    integer = lower(made, C).model.main
    whole = [op for op in integer.operators if op.code == "CUSTOM"]
    assert len(whole) == norms
    types = [{integer.tensors[i].dtype for i in (op.inputs[0], op.outputs[0])} for op in whole]
    # those between quantized tensors are integer; a view behind one keeps the scheme from that
    assert {"INT8"} in types
    assert all(len(kinds) == 1 for kinds in types)


def test_equal_graphs_give_equal_bytes() -> None:
    model = rewritten("mobilevit")
    one, other = (convert(ir.from_proto(ir.to_proto(model))).content for _ in range(2))
    assert one == other
    assert encode(decode(one)) == one


@pytest.mark.parametrize("name", FAMILIES)
def test_written_again(name: str, written_again: Callable[..., Any]) -> None:
    written_again(rewritten(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "edgenext_xx_small",
        "edgenext_xx_small_bn_hs",
        "efficientformer_l1",
        "efficientformerv2_s0",
        "emo_1m",
        "emov2_1m",
        "emov2repo_emo1_1m",
        "mcuformer_t_e",
        "mobile_former_26m",
        "mobilevit_xxs",
        "mobilevitv2_050",
    ],
)
def test_whole_network(
    name: str, same: Callable[..., Any], written_again: Callable[..., Any]
) -> None:
    network = create_model(name).eval()
    randomize(network, 0)
    model = from_torch(network, tuple(get_spec(name).input_shape))
    run_stages(model, target_opset=20, verify=False)
    file = same(model, feeds=feeds(model, 1)[0], tolerance=1e-4)
    assert layout_copies(file.lowered.model).between_spatial == 0
    written_again(model)
