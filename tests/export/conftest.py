"""Fixtures shared by the tests of the export pipeline."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.export.files import atomic_write


@pytest.fixture(scope="session")
def backend_cases(run_folder: Path) -> list[Any]:
    """The node tests that ship with the onnx package; building them takes ten seconds."""
    built = run_folder / "backend-cases.pickle"
    if built.is_file():
        return pickle.loads(built.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite overflows on purpose while it is built
        from onnx.backend.test.loader import load_model_tests

        cases = [case for case in load_model_tests(kind="node") if case.data_sets]
    atomic_write(built, pickle.dumps(cases))
    return cases


@pytest.fixture(scope="session")
def spread_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modules; in ``body`` one channel is 200 times as large as the others, and the
    next weights take that back: eight bits of activation hold the one channel alone. Input x:
    1×3×12×12, output y: 10 classes."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 20]>
        spread (float[1,3,12,12] x) => (float[1,10] y) {
          s = Conv<pads=[1,1,1,1]>(x, ws, bs)
          r = Relu(s)
          e = Conv(r, we, be)
          a = Relu(e)
          d = Conv<pads=[1,1,1,1], group=16>(a, wd, bd)
          p = Conv(d, wp, bp)
          t = Add(p, r)
          h = Conv<strides=[2,2]>(t, wh, bh)
          q = Relu(h)
          f = Flatten(q)
          y = Gemm<transB=1>(f, wy, by)
        }"""
    )
    rng = np.random.default_rng(3)
    shapes = {"s": (8, 3, 3, 3), "e": (16, 8, 1, 1), "d": (16, 1, 3, 3), "p": (8, 16, 1, 1)}
    for name, shape in (shapes | {"h": (12, 8, 3, 3), "y": (10, 300)}).items():
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        bias = 0.02 * rng.standard_normal(shape[0])
        if name == "e":
            weight[0], bias[0] = 200 * weight[0], 200.0
        if name == "d":
            weight[0] /= 200
            weight[1:] *= 4
        for letter, number in (("w", weight), ("b", bias)):
            array = number.astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, letter + name))
    modules = {**dict.fromkeys("sr", "stem"), **dict.fromkeys("eadpt", "body")}
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "edgec.module", modules.get(node.output[0], "head")
    model = onnx.shape_inference.infer_shapes(model)
    path = tmp_path_factory.mktemp("spread") / "spread.onnx"
    onnx.save(model, path)
    return path
