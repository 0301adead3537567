"""Networks of the zoo through capture and rewrite: lean, low rank, same numbers at every opset."""

from __future__ import annotations

import time

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgec import models
from edgec.export.capture import from_torch
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.export.rewrite.stats import graph_stats
from edgec.models.registry import get_spec

# Nodes of the best of onnxsim 0.8.1 and onnxslim 0.1.98 on the default export, from
# benchmarks/graph.py with all parameters random.
BEST_PEER = {"emov2_5m": 515, "edgenext_xx_small": 197, "edgenext_xx_small_bn_hs": 149}


def randomised(name: str) -> nn.Module:
    """Every parameter and statistic random: zeros and ones would be folded away."""
    network = models.create_model(name)
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            if key.endswith("weight") and tensor.ndim > 1:
                tensor.copy_(1.4 * noise / tensor[0].numel() ** 0.5)
            else:
                base = 0.0 if key.endswith(("bias", "running_mean")) else 1.0
                tensor.copy_(base + 0.1 * noise)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", BEST_PEER)
def test_zoo_network(name: str) -> None:
    captured = from_torch(randomised(name), tuple(get_spec(name).input_shape))
    data = numerics.serialize(captured)

    started = time.process_time()
    report = run_stages(captured, target_opset=20, matrices=True)
    assert time.process_time() - started < 15
    assert report.verified
    stats = graph_stats(captured)
    assert stats.nodes <= BEST_PEER[name]
    assert stats.shape_arithmetic == 0
    assert stats.max_rank <= 5
    assert not set(stats.operators) & {
        "Expand",
        "Gather",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Identity",
    }
    assert all(not op.count("::") for op in stats.operators)
    weighted = [n for n in captured.graph if n.op_type in ("Conv", "MatMul", "Gemm")]
    assert all(n.metadata_props.get(MODULE_KEY) for n in weighted)

    for opset in (13, 17):
        model = ir.from_proto(onnx.load_from_string(data))
        run_stages(model, target_opset=opset, max_rank=4)
        assert graph_stats(model).max_rank <= 4
        assert model.opset_imports[""] == opset
