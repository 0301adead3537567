"""Layers of .tflite files, against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.export.errors import InputError
from edgec.export.tflite.encode import encode
from edgec.export.tflite.model import Model, Operator, Subgraph, Tensor
from edgec.profiles.from_tflite import profile_tflite


def tensor(name: str, *shape: int, dtype: str = "INT8", constant: bool = False) -> Tensor:
    kind = {"INT8": np.int8, "INT32": np.int32}[dtype]
    return Tensor(name, shape, dtype, np.ones(shape, kind) if constant else None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A convolution, a depthwise one, a view, and a fully connected layer."""
    tensors = [
        tensor("x", 1, 8, 8, 3),
        tensor("w1", 16, 3, 3, 3, constant=True),
        tensor("b1", 16, dtype="INT32", constant=True),
        tensor("net/block/conv", 1, 4, 4, 16),
        tensor("w2", 1, 3, 3, 16, constant=True),
        tensor("net/block/dw", 1, 4, 4, 16),
        tensor("flat", 1, 256),
        tensor("w3", 10, 256, constant=True),
        tensor("net/head", 1, 10),
    ]
    stride = {"stride_h": 1, "stride_w": 1, "padding": "SAME"}
    operators = [
        Operator("CONV_2D", [0, 1, 2], [3], {**stride, "stride_h": 2, "stride_w": 2}),
        Operator("DEPTHWISE_CONV_2D", [3, 4], [5], {**stride, "depth_multiplier": 1}),
        Operator("RESHAPE", [5], [6], {"new_shape": [1, 256]}),
        Operator("FULLY_CONNECTED", [6, 7], [8]),
    ]
    path = tmp_path / "small.tflite"
    path.write_bytes(encode(Model([Subgraph(tensors, [0], [8], operators)])))
    return path


def test_operators_become_layers(file: Path) -> None:
    profile = profile_tflite(file)
    conv, depthwise, head = profile.layers
    assert (conv.kind, conv.macs, conv.stride) == ("3x3", 16 * 16 * 27, 2)
    assert (depthwise.kind, depthwise.macs, depthwise.groups) == ("depthwise", 256 * 9, 16)
    assert (head.kind, head.macs, head.weights) == ("linear", 2560, 2560)
    assert conv.weight_bytes == 16 * 27 + 16 * 4
    assert (conv.in_bytes, conv.out_bytes) == (192, 256)
    assert conv.module == "net/block"
    assert profile.precision == "int8"
    assert profile.parameters == 16 * 27 + 16 + 144 + 2560
    # both convolutions' tensors are live while the second runs
    assert profile.peak_bytes == 512


def test_channels_put_together_tell_what_divides_them(tmp_path: Path) -> None:
    tensors = [tensor("a", 1, 4, 4, 12), tensor("b", 1, 4, 4, 20), tensor("c", 1, 4, 4, 32)]
    join = Operator("CONCATENATION", [0, 1], [2], {"axis": 3})
    path = tmp_path / "join.tflite"
    path.write_bytes(encode(Model([Subgraph(tensors, [0, 1], [2], [join])])))
    (layer,) = profile_tflite(path).layers
    assert (layer.kind, layer.in_ch) == ("move", 4)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError):
        profile_tflite(path)
