"""Trained hybrids of convolution and attention, entirely on integers, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.emit.c.lower import lower as lower_to_c
from edgec.export.emit.tflite.boundary import integer_ends
from edgec.export.emit.tflite.flavour import C
from edgec.export.emit.tflite.lower import emit
from edgec.export.emit.tflite.normalise import normalise
from edgec.export.emit.tflite.read import read_graph
from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import get_scheme
from edgec.export.rewrite.engine import run_stages
from edgec.export.source import capture
from edgec.export.tflite import Model


def integer_network(name: str) -> Model:
    """Quantized with noise for images: ranges do not matter here."""
    captured = capture(name, ExportOptions(), needs_accuracy=True, reporter=Reporter(quiet=True))
    model = ir.from_proto(ir.to_proto(captured.graph))
    run_stages(model, target_opset=20)
    image = model.graph.inputs[0]
    assert image.name is not None
    assert image.shape is not None
    rng = np.random.default_rng(0)
    shape = [int(d) for d in image.shape]
    feeds = [{image.name: rng.normal(size=shape).astype(np.float32)} for _ in range(4)]
    graph = quantize(model, calibrate(model, feeds), get_scheme("tflite-full"))
    read = normalise(read_graph(graph, C))
    integer_ends(read)
    return emit(read, C).model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "emov2_cifar10",
        "edgenext_cifar10",
        "mobilevit_cifar10",
        "efficientformerv2_cifar10",
        "mcuformer_cifar10",
    ],
)
def test_hybrids_run_on_integers(name: str, self_test: Callable[..., str]) -> None:
    model = integer_network(name)
    kernels = {call.kernel for call in lower_to_c(model).calls}
    # x · sigmoid(x) and GELU are tables
    assert "edgec_lookup_s8" in kernels
    assert self_test(model) == "edgec self-test: 3 samples agree\n"
