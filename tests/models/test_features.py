"""Stage outputs: the tensors inside the plain network, with the facts that the registry states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgec.export.errors import UsageError
from edgec.models import create_model, get_spec, list_models
from edgec.models.efficientformer import EfficientFormer
from edgec.models.emo import EMO
from edgec.models.features import Backbone, Staged
from edgec.models.mobileformer import mobile_former_26m
from edgec.models.mobilevitv2 import mobilevitv2
from edgec.models.random_init import randomize
from edgec.models.stages import check_wanted, make_stages, select_stages


def _distinct() -> list[str]:
    """One name of each architecture; those that differ in the window alone have equal stages."""
    seen: dict[str, str] = {}
    for name in list_models():
        spec = get_spec(name)
        options = {key: value for key, value in spec.arguments.items() if key != "window"}
        seen.setdefault(f"{spec.family} {spec.factory} {options}", name)
    return sorted(seen.values())


@pytest.mark.parametrize("name", _distinct())
def test_the_registry_states_stride_and_channels(name: str) -> None:
    spec = get_spec(name)
    with torch.device("meta"):
        network = create_model(name)
        image = torch.empty(1, *spec.input_shape)
    assert isinstance(network, Staged)
    with torch.no_grad():
        maps = list(network.stage_maps(image))
    size = spec.input_shape[1]
    expected = [(s.channels, size // s.stride, size // s.stride) for s in spec.stages]
    assert [tuple(y.shape[1:]) for y in maps] == expected
    assert [s.number for s in spec.stages] == list(range(1, len(maps) + 1))


def test_every_network_of_the_zoo_has_stages() -> None:
    assert [name for name in list_models() if not get_spec(name).stages] == []


Build = Callable[[], nn.Module]
# network, edge of its image, and the modules whose outputs the stages are
SMALL: dict[str, tuple[Build, int, list[str]]] = {
    "emov2": (
        lambda: create_model("emov2_cifar10"),
        32,
        ["stage1.0", "stage2.0", "stage3.2", "stage4.1"],
    ),
    "emo": (
        lambda: EMO((1, 1, 2, 2), (16, 16, 32, 40), (2, 2, 3, 4), (16, 16, 16, 20)),
        64,
        ["stage1.0", "stage2.0", "stage3.1", "stage4.1"],
    ),
    "edgenext": (lambda: create_model("edgenext_cifar10"), 32, [f"stages.{i}" for i in range(4)]),
    "mobilevit": (lambda: create_model("mobilevit_cifar10"), 32, [f"stages.{i}" for i in range(4)]),
    "mobilevitv2": (lambda: mobilevitv2(0.25), 64, [f"stages.{i}" for i in range(5)]),
    "efficientformer": (
        lambda: EfficientFormer((1, 1, 1, 2), (16, 16, 24, 32), 1, image=64),
        64,
        [f"stages.{i}" for i in range(4)],
    ),
    "efficientformerv2": (
        lambda: create_model("efficientformerv2_cifar10"),
        32,
        [f"stages.{i}" for i in range(3)],
    ),
    "mobileformer": (mobile_former_26m, 64, ["features.1", "features.3", "features.6"]),
    "mcuformer": (lambda: create_model("mcuformer_cifar10"), 32, ["blocks"]),
}


@pytest.mark.parametrize("family", SMALL)
def test_stage_outputs_are_the_tensors_inside_the_plain_network(family: str) -> None:
    build, size, modules = SMALL[family]
    network = build().eval()
    randomize(network, 3)
    seen: dict[str, Tensor] = {}
    for path in modules:

        def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            seen[path] = output[0] if isinstance(output, tuple) else output

        network.get_submodule(path).register_forward_hook(keep)
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, Staged)
    with torch.no_grad():
        logits = network(image)
        hooked = dict(seen)
        seen.clear()
        maps = list(network.stage_maps(image))
    assert logits.shape[0] == 2
    # a Sequential that is run child by child calls no hook: then the child was named
    assert list(hooked) == [path for path in modules if path in hooked]
    assert len(hooked) == len(modules)
    if family == "mobileformer":
        maps = maps[: len(modules)]
    assert len(maps) == len(modules)
    for number, (y, path) in enumerate(zip(maps, modules, strict=True), 1):
        want = hooked[path]
        if family == "mcuformer":
            want = want[:, 1:]  # the class token is no pixel
        if want.ndim == 3:
            want = want.transpose(1, 2).unflatten(2, y.shape[2:])
        assert y.ndim == 4
        assert torch.equal(y, want), f"stage {number}"
        assert float(y.std()) > 0


def test_a_backbone_stops_behind_its_last_stage() -> None:
    network = create_model("emov2_cifar10")
    stages = get_spec("emov2_cifar10").stages
    ran: list[str] = []
    for path in ("stage2", "stage3", "stage4"):
        first = network.get_submodule(path).get_submodule("0")
        first.register_forward_hook(lambda *_, path=path: ran.append(path))
    backbone = Backbone(network, (stages[0], stages[2]))
    with torch.no_grad():
        found = backbone(torch.zeros(1, 3, 32, 32))
    assert {name: tuple(y.shape) for name, y in found.items()} == {
        "stage1": (1, 24, 16, 16),
        "stage3": (1, 64, 8, 8),
    }
    assert ran == ["stage2", "stage3"]


def test_other_networks_are_no_backbones() -> None:
    with pytest.raises(TypeError, match="stage_maps"):
        Backbone(nn.Linear(2, 2), make_stages([(4, 2)]))


def test_stages_are_chosen_by_number_and_by_stride() -> None:
    stages = make_stages([(2, 8), (4, 16), (4, 24), (8, 32)])

    def numbers(*wanted: str) -> list[int]:
        return [s.number for s in select_stages(stages, wanted, network="net")]

    assert numbers("all") == [1, 2, 3, 4]
    assert numbers("4", "2", "2") == [2, 4]
    assert numbers("/4") == [3], "the deepest map of a stride"
    assert numbers("/8", "1") == [1, 4]
    for wrong in ("5", "/16"):
        with pytest.raises(UsageError, match=r"EC227(?s:.*)4 \(stride 8, 32 channels\)"):
            select_stages(stages, [wrong], network="net")


@pytest.mark.parametrize("entry", ["", "x", "0", "/0", "-1", "//4", "1.5", "²"])
def test_what_is_no_stage_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        check_wanted([entry])
    check_wanted(["all", "2", "/16"])
