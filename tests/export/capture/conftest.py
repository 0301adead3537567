"""Small torch modules and ONNX files for the capture tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import nn


class Block(nn.Module):
    """Convolution, BatchNorm, GELU and a residual, with every parameter random."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.act(self.norm(self.conv(x)))
        return out


class Net(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.stages = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.fixture
def net() -> nn.Module:
    network = Net()
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return network


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | onnx.ModelProto, name: str = "model.onnx") -> Path:
        proto = text if isinstance(text, onnx.ModelProto) else onnx.parser.parse_model(text)
        path = tmp_path / name
        path.write_bytes(proto.SerializeToString())
        return path

    return write


@pytest.fixture
def small_model() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, pooling and Gemm at opset 13."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        """<ir_version: 7, opset_import: ["" : 13]>
        net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
        { c = Conv<pads=[1, 1, 1, 1]>(image, w, b) n = BatchNormalization(c, g, o, m, v)
          r = Relu(n) p = GlobalAveragePool(r) f = Flatten(p) logits = Gemm(f, hw, hb) }"""
    )
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "g": (4,), "o": (4,), "m": (4,), "v": (4,)}
    for name, shape in {**shapes, "hw": (4, 5), "hb": (5,)}.items():
        array = np.abs(rng.standard_normal(shape)).astype(np.float32) + 0.1
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto
