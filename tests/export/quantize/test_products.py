"""Layers as products: patches, their means and the layouts of weights, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.export.quantize.products import Product
from edgec.export.quantize.sensitivity.measured import run

# input shape, weight shape, attributes
LAYERS: dict[str, tuple[list[int], tuple[int, ...], dict[str, Any]]] = {
    "Conv": ([2, 4, 7, 6], (6, 4, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    "Conv grouped": ([2, 4, 7, 6], (6, 2, 3, 2), {"group": 2, "dilations": [2, 1]}),
    "Conv depthwise": ([2, 4, 7, 6], (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "Conv in 1-D": ([2, 4, 9], (6, 4, 3), {"strides": [2], "pads": [2, 0]}),
    "Gemm": ([8, 4], (6, 4), {"transB": 1}),
    "Gemm straight": ([8, 4], (4, 6), {}),
    "MatMul": ([2, 3, 4], (4, 6), {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_product_is_the_layer(build: Any, node: Any, name: str) -> None:
    size, shape, attributes = LAYERS[name]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).astype(np.float32)
    layer = node(name.split()[0], ["x", "w"], ["y"], **attributes)
    model = build([layer], {"x": size}, {"y": [None] * len(size)}, {"w": weight})
    x = rng.standard_normal(size).astype(np.float32)
    wanted = run(model, [{"x": x}])[0]
    product = Product.of(model.graph[0])
    assert product is not None
    rows = product.rows(weight)
    np.testing.assert_array_equal(product.weight(rows), weight)
    patches = product.patches(x, 10**6, rng)
    found = np.einsum("gpk,gmk->gmp", patches, rows)
    found = found.reshape(-1, patches.shape[1])  # (outputs, patches)
    channels = wanted if name[0] != "C" else np.moveaxis(wanted, 1, -1)
    np.testing.assert_allclose(found.T, channels.reshape(-1, len(found)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(product.mean_patch(x), patches.mean(axis=1), rtol=1e-4, atol=1e-5)
    few = product.patches(x, 5, np.random.default_rng(3))
    assert few.shape[1] == 5
    again = product.patches(x, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(few, again)
    known = {tuple(patch) for patch in patches[0]}
    assert all(tuple(patch) in known for patch in few[0])


@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("ConvTranspose", (4, 6, 3, 3), {}),
        ("Conv", (6, 4, 3, 3), {"auto_pad": "SAME_UPPER"}),
        ("MatMul", (2, 4, 6), {}),
        ("Gemm", (4, 6), {"transA": 1}),
        ("Gemm", (4, 6), {"alpha": 0.5}),
    ],
)
def test_other_forms_are_none(
    build: Any, node: Any, op: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    size = [2, 4, 6, 6] if "Conv" in op else [2, 4, 4] if op == "MatMul" else [4, 4]
    layer = node(op, ["x", "w"], ["y"], **attributes)
    weight = np.ones(shape, np.float32)
    model = build([layer], {"x": size}, {"y": [None] * len(size)}, {"w": weight})
    assert Product.of(model.graph[0]) is None
