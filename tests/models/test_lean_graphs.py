"""Captured and rewritten, the networks keep their numbers and need no wasteful operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from torch import nn

from edgec.export.capture.torch_export import from_torch
from edgec.export.rewrite.engine import run_stages
from edgec.models import create_model, get_spec
from edgec.models.efficientformer import EfficientFormer
from edgec.models.efficientformerv2 import EfficientFormerV2
from edgec.models.mcuformer import MCUFormer
from edgec.models.mcuformer_config import Config
from edgec.models.mobileformer import MobileFormer, Step
from edgec.models.mobilevit import MobileViT
from edgec.models.mobilevitv2 import MobileViTv2Block
from edgec.models.random_init import randomize

# Copies, index arithmetic and spelled-out norms: what the networks are written to avoid.
WASTEFUL = {
    *("Shape", "Gather", "GatherND", "GatherElements", "Range", "Mod", "Where", "Expand", "Pad"),
    *("ConstantOfShape", "Split", "Tile", "CumSum", "Pow", "Sqrt", "BatchNormalization"),
}

# The published block types at a fraction of the depth: capture time grows with it.
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "efficientformer": (
        lambda: EfficientFormer((1, 2), (16, 24), 1, image=64, num_classes=10),
        (3, 64, 64),
        55,
    ),
    "efficientformerv2": (
        lambda: EfficientFormerV2(
            (16, 24), ((2,), (2,)), 1, heads=2, key=8, image=32, num_classes=10
        ),
        (3, 32, 32),
        80,
    ),
    "mcuformer": (
        lambda: MCUFormer(Config(1, (4.0,), (2,), 48, 32, 8, 0.1, 0.4, num_classes=10)),
        (3, 32, 32),
        70,
    ),
    "mobileformer": (
        lambda: MobileFormer(
            8, (Step(2, 8, lite=True), Step(2, 12, 2)), (3, 32), 16, groups=2, num_classes=10
        ),
        (3, 32, 32),
        116,
    ),
    "mobilevit": (
        lambda: MobileViT((16, 16), (24,), (32,), (1,), ratio=2, final=32, strides=(2, 2, 2)),
        (3, 64, 64),
        93,
    ),
    "mobilevitv2": (lambda: MobileViTv2Block(16, 2), (16, 8, 8), 46),
}
# MCUFormer: one for the patches among the queries, one among the weights of attention, one before
# the mean. Mobile-Former: the first token, once per block and once in the classifier.
SLICES = {"mcuformer": 3, "mobileformer": 2}
# Nodes that the whole smallest member of each family may have, some Slice (as above), and the rank:
# the rewrite stage may keep rank 5 where fewer transposes would move more bytes.
WHOLE = {
    "efficientformer_l1": (153, 0, 4),
    "efficientformerv2_s0": (196, 0, 4),
    "mcuformer_t_e": (710, 25, 4),
    "mobile_former_26m": (700, 9, 4),
    "mobilevit_xxs": (380, 0, 5),
    "mobilevitv2_050": (245, 0, 5),
}


def check(
    network: nn.Module,
    shape: tuple[int, int, int],
    max_nodes: int,
    *,
    slices: int,
    max_rank: int = 4,
) -> None:
    randomize(network, 0)
    model = from_torch(network, shape)  # compares with torch
    report = run_stages(model, target_opset=20)  # compares after every pass
    assert report.verified
    operators = Counter(node.op_type for node in model.graph)
    assert not WASTEFUL & set(operators), operators
    assert operators["Slice"] == slices
    assert report.nodes_after <= max_nodes, operators
    for node in model.graph:
        for value in node.outputs:
            assert value.shape is not None
            assert len(value.shape) <= max_rank, f"{node.op_type} of {node.metadata_props}"


@pytest.mark.parametrize("name", SMALL)
def test_one_of_each_block(name: str) -> None:
    build, shape, max_nodes = SMALL[name]
    check(build().eval(), shape, max_nodes, slices=SLICES.get(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_smallest_of_each_family(name: str) -> None:
    network = create_model(name)
    max_nodes, slices, max_rank = WHOLE[name]
    shape = get_spec(name).input_shape
    check(network, shape, max_nodes, slices=slices, max_rank=max_rank)
