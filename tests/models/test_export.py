"""What the networks are written for: a graph without shape arithmetic or high ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgec.models.edgenext import EdgeNeXt
from edgec.models.emo import EMO
from edgec.models.emov2 import EMOv2

# torch.onnx warns about its own use of torch.utils._pytree
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")

# The published block types and shapes at a fraction of the depth: export time grows with it.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "emov2": (
        lambda: EMOv2((1, 1, 2, 2), (16, 16, 32, 40), (2, 2, 3, 4), (16, 16, 16, 20)),
        224,
        5,
    ),
    "emov2 padded": (
        lambda: EMOv2((1, 1, 2, 2), (16, 16, 32, 40), (2, 2, 3, 4), (16, 16, 16, 20), window=8),
        224,
        5,
    ),
    "emo": (lambda: EMO((1, 1, 2, 2), (16, 16, 32, 40), (2, 2, 3, 4), (16, 16, 16, 20)), 224, 5),
    "edgenext": (lambda: EdgeNeXt((1, 1, 1, 1), (16, 16, 24, 32), 4), 128, 4),
    "edgenext_bn_hs": (
        lambda: EdgeNeXt((1, 1, 1, 1), (16, 16, 24, 32), 4, batch_norm=True),
        128,
        4,
    ),
}
SHAPE_ARITHMETIC = {"Shape", "Gather", "Range", "Mod", "Where", "Expand", "ConstantOfShape"}
CONSTANT_BEFORE_EXPORT = {"CumSum", "Sin", "Cos", "Pow"}


@pytest.mark.parametrize("name", NETWORKS)
def test_graph(name: str) -> None:
    build, size, max_rank = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    for key, value in network.state_dict().items():
        if "gamma" in key:
            value.fill_(0.5)
    image = torch.randn(1, 3, size, size)
    program = torch.onnx.export(network, (image,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    model = onnx.shape_inference.infer_shapes(program.model_proto)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & (SHAPE_ARITHMETIC | CONSTANT_BEFORE_EXPORT)
    if name != "emov2 padded":
        assert "Pad" not in operators
    ranks = [len(value.type.tensor_type.shape.dim) for value in model.graph.value_info]
    assert max(ranks) <= max_rank
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(image).numpy(), rtol=1e-4, atol=1e-4)
