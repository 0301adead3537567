"""Bridge blocks from the graph alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec import models
from edgec.export.capture import from_torch
from edgec.export.quantize.bridges import Bridge, find_bridges
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.models.registry import get_spec

CONSTANTS = {
    "w1": (8, 8, 1, 1),
    "w3": (8, 8, 3, 3),
    "dense": (8, 8),
    "gamma": (8,),
}


def graph(body: str, shape: str = "1, 8, 4, 4") -> ir.Model:
    """x → y with the constants above and the shapes written in the body."""
    names = sorted({word.strip("(),") for word in body.split()} & set(CONSTANTS))
    given = ", ".join(f"float[{', '.join(map(str, CONSTANTS[n]))}] {n}" for n in names)
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    net (float[{shape}] x{", " if given else ""}{given}) => (y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    for name in names:
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.ones(CONSTANTS[name], np.float32), name=name)
        model.graph.register_initializer(value)
    for i, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{i}"
    return model


def directions(bridges: list[Bridge]) -> list[str]:
    return [bridge.direction for bridge in bridges]


TOKENS = """
    c = Conv(x, w1) a = Relu(c)
    s = Constant<value_ints = [1, 8, 16]>() r = Reshape(a, s) t = Transpose<perm = [0, 2, 1]>(r)
    n = LayerNormalization(t, gamma) m = MatMul(n, dense)
"""


def test_into_tokens_and_back() -> None:
    body = (
        TOKENS
        + """
    z = Add(t, m) b = Transpose<perm = [0, 2, 1]>(z)
    q = Constant<value_ints = [1, 8, 4, 4]>() i = Reshape(b, q) y = Conv(i, w1)
    """
    )
    there, back = find_bridges(graph(body))
    assert (there.direction, back.direction) == ("to_tokens", "to_map")
    assert [name.split("_")[0] for name in there.layers] == ["Conv", "MatMul"]
    assert there.entries == ("x",)
    # the residual connection reads the tokens before the norm
    assert there.exits == ("t", "m")
    assert [name.split("_")[0] for name in back.layers] == ["MatMul", "Conv"]
    assert back.exits == ("y",)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (
            "channel shuffle",
            """c = Conv(x, w1) s = Constant<value_ints = [1, 2, 4, 4, 4]>() r = Reshape(c, s)
            t = Transpose<perm = [0, 2, 1, 3, 4]>(r) q = Constant<value_ints = [1, 8, 4, 4]>()
            i = Reshape(t, q) y = Conv(i, w1)""",
        ),
        (
            "pixel shuffle",
            "c = Conv(x, w1) d = SpaceToDepth<blocksize = 2>(c) "
            "e = DepthToSpace<blocksize = 2>(d) y = Conv(e, w1)",
        ),
        (
            "channels last",
            "c = Conv(x, w3) t = Transpose<perm = [0, 2, 3, 1]>(c) n = LayerNormalization(t, gamma)"
            " m = MatMul(n, dense) b = Transpose<perm = [0, 3, 1, 2]>(m) y = Conv(b, w1)",
        ),
        (
            "classifier",
            "c = Conv(x, w1) g = GlobalAveragePool(c) f = Flatten(g) y = MatMul(f, dense)",
        ),
    ],
)
def test_layouts_that_stay_maps(kind: str, body: str) -> None:
    assert find_bridges(graph(body)) == []


def test_patches_of_rank_4_are_tokens() -> None:
    """As in MobileViTv2: pixels × patches, with 1×1 convolutions for linear layers."""
    body = """
    c = Conv(x, w1) s = Constant<value_ints = [8, 2, 2, 2, 2]>() r = Reshape(c, s)
    t = Transpose<perm = [0, 2, 4, 1, 3]>(r) p = Constant<value_ints = [1, 8, 4, 4]>()
    u = Reshape(t, p) n = Relu(u) m = Conv(n, w1)
    d = Constant<value_ints = [8, 2, 2, 2, 2]>() e = Reshape(m, d)
    f = Transpose<perm = [0, 3, 1, 4, 2]>(e) q = Constant<value_ints = [1, 8, 4, 4]>()
    i = Reshape(f, q) y = Conv(i, w1)
    """
    assert directions(find_bridges(graph(body))) == ["to_tokens", "to_map"]


def test_query_key_and_value_are_one_transition() -> None:
    body = """
    q0 = Conv(x, w1) k0 = Conv(x, w1) v0 = Conv(x, w1)
    s = Constant<value_ints = [1, 8, 16]>() q1 = Reshape(q0, s)
    k = Reshape(k0, s) v = Reshape(v0, s)
    q = Transpose<perm = [0, 2, 1]>(q1) a = MatMul(q, k) p = Softmax(a)
    o = MatMul(v, p) i = Constant<value_ints = [1, 8, 4, 4]>() m = Reshape(o, i) y = Conv(m, w1)
    """
    there, back = find_bridges(graph(body))
    assert there.direction == "to_tokens"
    assert len(there.layers) == 3
    assert there.exits == ("a", "o")
    assert back.direction == "to_map"


def test_modules_name_bridges_but_are_not_needed() -> None:
    model = graph(TOKENS + "y = Identity(m)")
    assert find_bridges(model)[0].module is None
    for node in model.graph:
        node.metadata_props[MODULE_KEY] = f"stage.1.{node.op_type.lower()}"
    assert find_bridges(model)[0].name == "stage.1"


# Table I of Q-HyViT counts 3 blocks for MobileViT v1 and v2, 1 for EfficientFormerV1, 2 for V2 and
# 15 for Mobile-Former. The first three are the transitions into tokens. EfficientFormerV2 has no
# part that stays in tokens: each attention lays its maps out for itself and turns back, so the
# graph has as many bridges as attention modules, in the two stages that the table counts.
# Mobile-Former's blocks have two bridges each (the network of 26 M has 8 blocks and a last
# local-to-global one; the table does not say which variant it counts).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to_tokens", "to_map", "stages"),
    [
        ("mobilevit_xxs", 3, 3, {"stages.2", "stages.3", "stages.4"}),
        ("mobilevitv2_050", 3, 3, {"stages.2", "stages.3", "stages.4"}),
        ("efficientformer_l1", 1, 0, {"stages.3"}),
        ("efficientformerv2_s0", 5, 5, {"stages.2", "stages.3"}),
        ("mobile_former_26m", 17, 8, None),
    ],
)
def test_zoo_networks(name: str, to_tokens: int, to_map: int, stages: set[str] | None) -> None:
    network = models.create_model(name).eval()
    captured = from_torch(network, tuple(get_spec(name).input_shape))
    before = directions(find_bridges(captured))
    run_stages(captured, target_opset=20, verify=False)
    bridges = find_bridges(captured)
    assert directions(bridges).count("to_tokens") == to_tokens
    assert directions(bridges).count("to_map") == to_map
    assert sorted(before) == sorted(directions(bridges))
    if stages is not None:
        entered = {b.name for b in bridges if b.direction == "to_tokens"}
        assert {".".join(entry.split(".")[:2]) for entry in entered} == stages
    else:
        attention = {m for b in bridges for m in b.views if "_local" in m or "local_" in m}
        assert len({m.split("/")[0] for m in attention}) == to_tokens
