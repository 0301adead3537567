"""Two MAC counters against arithmetic by hand, against each other and against a peer."""

from __future__ import annotations

import ast

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.models import create_model, get_spec
from edgec.profiles.macs import count_graph_macs
from edgec.profiles.macs_torch import count_module_macs

# torch.onnx warns about its own use of torch.utils._pytree
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")


class Mixed(nn.Module):
    """One of everything that is counted, and things that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.inner = nn.Sequential(nn.Linear(6, 10, bias=False), nn.GELU(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.norm(self.conv(x)).relu())
        tokens = self.inner(x.flatten(2).transpose(1, 2))
        out: Tensor = tokens.transpose(1, 2) @ tokens
        return out


MIXED = {
    # (2, 4, 8, 8) -> (2, 8, 4, 4): every output is a sum over 4/2 channels and 3x3 taps
    "conv": 2 * 8 * 4 * 4 * 2 * 9,
    # every input of (2, 8, 4, 4) is spread over 6/2 channels and 2x2 taps
    "up": 2 * 8 * 4 * 4 * 3 * 4,
    "inner.0": 2 * 64 * 6 * 10,
    "inner.2": 2 * 64 * 10 * 3,
    "": 2 * 3 * 3 * 64,
}


def test_module_by_hand() -> None:
    count = count_module_macs(Mixed().eval(), torch.zeros(2, 4, 8, 8))
    assert count.by_module == MIXED
    assert count.total == sum(MIXED.values()) == sum(count.by_operator.values())
    assert count.under("inner") == MIXED["inner.0"] + MIXED["inner.2"]
    assert count.under("") == count.total
    assert count.under("inn") == 0
    assert count.by_operator["convolution"] == MIXED["conv"] + MIXED["up"]


def test_counting_leaves_no_hooks_behind() -> None:
    network = Mixed().eval()
    with pytest.raises(RuntimeError):
        count_module_macs(network, torch.zeros(2, 5, 8, 8))
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_fused_attention() -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.zeros(2, 3, 7, 16), torch.zeros(2, 3, 5, 16), torch.zeros(2, 3, 5, 16)
    count = count_module_macs(Attention(), q, k, v)
    assert count.total == 2 * 3 * 7 * 5 * (16 + 16)


def test_meta_device_counts_the_same() -> None:
    with torch.device("meta"):
        network = create_model("edgenext_xx_small")
        image = torch.empty(1, 3, 64, 64)
    on_cpu = count_module_macs(create_model("edgenext_xx_small"), torch.zeros(1, 3, 64, 64))
    assert count_module_macs(network, image) == on_cpu


def to_graph(network: nn.Module, *inputs: Tensor) -> ir.Model:
    """Export without any optimisation, with the module path on each node."""
    program = torch.onnx.export(
        network, inputs, dynamo=True, opset_version=20, optimize=False, verbose=False
    )
    assert program is not None
    model = program.model
    ir.passes.common.ShapeInferencePass()(model)
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes is not None:
            node.metadata_props[MODULE_KEY] = ast.literal_eval(scopes)[-2]
    return model


@pytest.mark.parametrize("name", ["edgenext_xx_small", "emov2_1m"])
def test_module_and_peer_agree(name: str) -> None:
    network, image = create_model(name), torch.zeros(1, *get_spec(name).input_shape)
    with FlopCounterMode(display=False) as peer, torch.no_grad():
        network(image)
    assert peer.get_total_flops() == 2 * count_module_macs(network, image).total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edgenext_xx_small", "emov2_1m"])
def test_module_and_graph_agree(name: str) -> None:
    network, image = create_model(name), torch.zeros(1, *get_spec(name).input_shape)
    graph = count_graph_macs(to_graph(network, image))
    assert graph.by_module == count_module_macs(network, image).by_module


def test_mixed_graph() -> None:
    assert count_graph_macs(to_graph(Mixed().eval(), torch.zeros(2, 4, 8, 8))).by_module == MIXED


def graph_of(
    op_type: str, shapes: list[list[int | str]], out: list[int], **attributes: object
) -> ir.Model:
    names = [f"x{i}" for i in range(len(shapes))]
    node = onnx.helper.make_node(op_type, names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=True)
    ]
    graph = onnx.helper.make_graph(
        [node], "g", infos, [onnx.helper.make_tensor_value_info("y", 1, out)]
    )
    return ir.serde.deserialize_model(onnx.helper.make_model(graph))


@pytest.mark.parametrize(
    ("op_type", "shapes", "out", "attributes", "macs"),
    [
        ("MatMul", [[5, 1, 2, 3], [7, 3, 4]], [5, 7, 2, 4], {}, 5 * 7 * 2 * 3 * 4),
        ("MatMul", [[3], [3, 4]], [4], {}, 12),
        ("Gemm", [[3, 2], [4, 3]], [2, 4], {"transA": 1, "transB": 1}, 24),
        ("Conv", [[1, 4, 9], [8, 2, 3]], [1, 8, 7], {"group": 2}, 8 * 7 * 2 * 3),
        ("Einsum", [[2, 3, 4], [2, 4, 5]], [2, 3, 5], {"equation": "bij,bjk->bik"}, 120),
        ("Einsum", [[6, 2, 3], [3, 4]], [6, 2, 4], {"equation": "...ij,jk->...ik"}, 144),
        ("Einsum", [[2, 3]], [3, 2], {"equation": "ij->ji"}, 0),
        ("Add", [[2, 3], [2, 3]], [2, 3], {}, 0),
    ],
)
def test_operators(
    op_type: str,
    shapes: list[list[int | str]],
    out: list[int],
    attributes: dict[str, object],
    macs: int,
) -> None:
    assert count_graph_macs(graph_of(op_type, shapes, out, **attributes)).total == macs


@pytest.mark.parametrize("dimension", ["batch", None])
def test_unknown_shapes(dimension: str | None) -> None:
    model = graph_of("MatMul", [["batch", 3], [3, 4]], [2, 4])
    if dimension is None:
        model.graph.inputs[0].shape = None
    with pytest.raises(UnsupportedError) as caught:
        count_graph_macs(model)
    assert caught.value.code == "EC320"
