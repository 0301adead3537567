"""Small TFLite models, made in memory."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.export.tflite import Model, Operator, Quantization, Signature, Subgraph, Tensor


@pytest.fixture
def small() -> Model:
    """int8 image (1, 8, 8, 3) → 3x3 convolution with 4 channels, ReLU6 → mean → 5 classes."""
    rng = np.random.default_rng(0)

    def integers(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape, dtype=np.int8)

    tensors = [
        Tensor("image", (1, 8, 8, 3), "INT8", None, Quantization.per_tensor(0.02, -3)),
        Tensor(
            "conv/weight",
            (4, 3, 3, 3),
            "INT8",
            integers(4, 3, 3, 3),
            Quantization(rng.random(4, np.float32) * 0.01 + 1e-3, np.zeros(4, np.int64), 0),
        ),
        Tensor("conv/bias", (4,), "INT32", np.arange(4, dtype=np.int32) * 100),
        Tensor("conv", (1, 8, 8, 4), "INT8", None, Quantization.per_tensor(6 / 255, -128)),
        Tensor("axes", (2,), "INT32", np.array([1, 2], np.int32)),
        Tensor("pooled", (1, 4), "INT8", None, Quantization.per_tensor(0.02, -128)),
        Tensor("fc/weight", (5, 4), "INT8", integers(5, 4), Quantization.per_tensor(0.01)),
        Tensor("logits", (1, 5), "INT8", None, Quantization.per_tensor(0.05, 4)),
    ]
    weight = tensors[1].quantization
    assert weight is not None
    tensors[2].quantization = Quantization(
        (weight.scale * np.float32(0.02)).astype(np.float32), np.zeros(4, np.int64), 0
    )
    operators = [
        Operator(
            "CONV_2D",
            [0, 1, 2],
            [3],
            {
                "padding": "SAME",
                "stride_w": 1,
                "stride_h": 1,
                "fused_activation_function": "RELU6",
            },
            version=3,
        ),
        Operator("MEAN", [3, 4], [5], {"keep_dims": False}, version=2),
        Operator("FULLY_CONNECTED", [5, 6, -1], [7], version=4),
    ]
    return Model(
        [Subgraph(tensors, [0], [7], operators, "main")],
        description="small",
        metadata={"labels": b"a\nb\nc\nd\ne", "note": b""},
        signatures=[Signature("serving_default", {"image": 0}, {"logits": 7})],
    )
