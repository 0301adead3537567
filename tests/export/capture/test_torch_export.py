"""Capture of torch networks: names, module paths, state, errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgec.export.capture import from_torch
from edgec.export.capture import torch_export as capture
from edgec.export.errors import InternalError, UnsupportedError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.graph import MODULE_KEY, shape_of

SHAPE = (3, 8, 8)


def test_graph_has_names_shapes_modules_and_the_numbers(net: nn.Module) -> None:
    model = from_torch(net, SHAPE)
    assert model.opset_imports[""] == 20
    assert [v.name for v in model.graph.inputs] == ["input"]
    assert [v.name for v in model.graph.outputs] == ["output"]
    modules = {n.op_type: n.metadata_props.get(MODULE_KEY) for n in model.graph}
    assert modules["Gelu"] == "stages.1.act"
    assert modules["BatchNormalization"] == "stages.1.norm"
    assert [n.metadata_props[MODULE_KEY] for n in model.graph if n.op_type == "Conv"] == [
        "stem",
        "stages.0.conv",
        "stages.1.conv",
    ]
    assert all(shape_of(v) is not None for n in model.graph for v in n.outputs)
    x = np.random.default_rng(9).standard_normal((1, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        want = net.eval()(torch.from_numpy(x)).numpy()
    got = numerics.run(numerics.serialize(model), [{"input": x}])[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_bytes_are_reproducible_and_tell_nothing_about_this_machine(net: nn.Module) -> None:
    first = numerics.serialize(from_torch(net, SHAPE, verify=False))
    second = numerics.serialize(from_torch(net, SHAPE, verify=False))
    assert first == second
    assert not re.search(rb"\.py\b|site-packages|/home|/tmp", first)
    assert str(Path(__file__).parents[3]).encode() not in first


def test_mode_and_gradients_are_left_as_found(net: nn.Module) -> None:
    net.train()
    net.get_submodule("stages.0").eval()
    net.get_parameter("head.weight").requires_grad_(False)
    modes = {n: m.training for n, m in net.named_modules()}
    gradients = {n: p.requires_grad for n, p in net.named_parameters()}
    statistics = {n: b.clone() for n, b in net.named_buffers()}
    from_torch(net, SHAPE)
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert {n: p.requires_grad for n, p in net.named_parameters()} == gradients
    assert all(torch.equal(b, statistics[n]) for n, b in net.named_buffers())


class Several(nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> Any:
        y = torch.where(mask > 0, image, -image)
        return {"a": y.sum(1), "rest": [y * 2, (y.mean(),)]}


def test_several_inputs_and_nested_outputs() -> None:
    example = (torch.zeros(1, 3, 4), torch.tensor([[[1], [0], [1]]]))
    model = from_torch(Several(), example)
    assert [v.name for v in model.graph.inputs] == ["image", "mask"]
    assert [v.name for v in model.graph.outputs] == ["output_0", "output_1", "output_2"]
    named = from_torch(
        Several(), example, input_names=["x", "m"], output_names=["p", "q", "r"], verify=False
    )
    assert [v.name for v in named.graph.outputs] == ["p", "q", "r"]


class SameTwice(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x.relu()
        return {"out": y, "out_kd": y}


def test_the_same_tensor_returned_twice() -> None:
    model = from_torch(SameTwice(), (4,))
    assert [v.name for v in model.graph.outputs] == ["output_0", "output_1"]


class ReturnsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


def test_input_as_output() -> None:
    model = from_torch(ReturnsInput(), (4,))
    assert [v.name for v in model.graph.inputs] == ["input"]
    assert [v.name for v in model.graph.outputs] == ["output_0", "output_1"]


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > 0 else x


class Inner(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


def test_data_dependent_control_flow_names_the_module() -> None:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Inner(Branches()), SHAPE)
    assert caught.value.code == "EC340"
    assert "body.1" in str(caught.value.where)


class Eigen(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x)


def test_operator_without_equivalent_is_named_with_its_module() -> None:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Inner(Eigen()), SHAPE)
    assert caught.value.code == "EC341"
    assert "eig" in caught.value.what
    assert "body.1" in str(caught.value.where)


def test_wrong_input_shape_for_the_network(net: nn.Module) -> None:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(net, (4, 8, 8))
    assert caught.value.code == "EC347"


@pytest.mark.parametrize("shape", [(), (3, 0, 8), (3.0, 8, 8), ("3", "8")])
def test_no_shape(net: nn.Module, shape: Any) -> None:
    with pytest.raises(UsageError) as caught:
        from_torch(net, shape)
    assert caught.value.code == "EC243"


def test_wrong_names_and_opset(net: nn.Module) -> None:
    for names in ({"output_names": ["a", "b"]}, {"input_names": ["x"], "output_names": ["x"]}):
        with pytest.raises(UsageError) as caught:
            from_torch(net, SHAPE, **names)
        assert caught.value.code == "EC242"
    with pytest.raises(UsageError):
        from_torch(net, SHAPE, opset=17)


def test_difference_from_torch_is_caught_and_dumped(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    model = from_torch(net, SHAPE, verify=False)
    weight = next(v for n, v in model.graph.initializers.items() if v.shape == [5, 4])
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.01, name=weight.name)  # type: ignore[union-attr]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        capture.verify_capture(net.eval(), model, (torch.zeros(1, *SHAPE),))
    assert caught.value.code == "EC140"
    dumped = {p.name for p in next(tmp_path.iterdir()).iterdir()}
    assert dumped == {
        "model.onnx",
        "input_input.npy",
        "torch_output.npy",
        "onnxruntime_output.npy",
    }


def test_rounding_noise_of_a_network_in_either_precision(net: nn.Module) -> None:
    example = (torch.zeros(1, *SHAPE),)
    (found,) = capture._rounding_noise(net.eval(), example, 1)
    assert 0 < found < 1e-4
    assert next(net.parameters()).dtype == torch.float32, "the network itself is left alone"

    class OnlyFloat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ torch.ones(x[0].numel(), 2)

    (found,) = capture._rounding_noise(OnlyFloat(), example, 1)
    assert 0 < found < 1e-3, "known from inputs moved by their last bit"
