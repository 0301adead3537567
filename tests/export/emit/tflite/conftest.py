"""Small graphs from ONNX text, lowered and run in LiteRT beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.export.capture import from_tflite
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.delegates.partition import predict
from edgec.export.emit.tflite.flavour import FLAVOURS, INTEGER, LITERT, Flavour
from edgec.export.emit.tflite.write import TfliteFile, TflitePrecision, convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL, TFLITE_INT16X8, QuantScheme
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.legalise.opset import WIDE_MASTER
from edgec.export.tflite import decode
from edgec.runtime.onnx_runner import OnnxRunner

Arrays = dict[str, np.ndarray[Any, Any]]


def _graph(text: str, weights: Mapping[str, np.ndarray] | None = None, opset: int = 20) -> ir.Model:
    header = f'<ir_version: 9, opset_import: ["" : {opset}]>\n'
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    known = {v.name: v for v in model.graph.inputs}
    for name, array in (weights or {}).items():
        value = known[name]
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.dtype = value.const_value.dtype
        model.graph.register_initializer(value)
    infer_shapes(model)
    for number, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def _feeds(model: ir.Model, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        str(v.name): rng.standard_normal(tuple(v.shape.numpy())).astype(np.float32)
        for v in model.graph.inputs
    }


@pytest.fixture(scope="session")
def graph() -> Callable[..., ir.Model]:
    """graph(text, weights, opset) -> ir.Model; `weights` name inputs that become initializers."""
    return _graph


def _as_predicted(file: TfliteFile, runner: Any) -> None:
    """The interpreter divides the file between XNNPACK and its own kernels as predicted."""
    found = predict(file.lowered.model.main, "xnnpack", file.lowered.modules)
    real = runner.runner.partitions()
    left = [(one.code, one.why) for one in found.left]
    assert sorted(map(list, found.parts)) == sorted(map(list, real)), left


@pytest.fixture(scope="session")
def as_predicted() -> Callable[[TfliteFile, Any], None]:
    return _as_predicted


@pytest.fixture(scope="session")
def same() -> Callable[..., TfliteFile]:
    """Lower a float graph, run it with and without XNNPACK, compare with ONNX Runtime, and the
    delegate's parts with the prediction."""
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    def check(
        model: ir.Model, tolerance: float = 1e-5, feeds: Arrays | None = None, **options: Any
    ) -> TfliteFile:
        feeds = feeds or _feeds(model)
        want = OnnxRunner(serialize(model, "")).run(feeds)
        file = convert(model, **options)
        for kernels in ("xnnpack", "builtin"):
            runner = TfliteArtifactRunner(file.content, kernels=kernels)
            if kernels == "xnnpack":
                _as_predicted(file, runner)
            got = runner.run(feeds)
            assert list(got) == list(want)
            for name, array in want.items():
                assert got[name].shape == array.shape
                scale = max(1.0, float(np.abs(array).max(initial=0)))
                difference = np.abs(got[name].astype(np.float64) - array).max(initial=0)
                assert difference <= tolerance * scale, (kernels, name, difference)
        return file

    return check


@pytest.fixture(scope="session")
def near() -> Callable[..., TfliteFile]:
    """Quantize a graph, lower it, compare with ONNX Runtime's emulation in output steps.

    Every output of the graph is dequantized; `limit` is in steps of its grid.
    """
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    def check(
        model: ir.Model,
        scheme: QuantScheme,
        limit: float = 1.0,
        flavour: Flavour | None = None,
        **options: Any,
    ) -> TfliteFile:
        feeds = [_feeds(model, seed) for seed in range(4)]
        made = quantize(model, calibrate(model, feeds, method="minmax"), scheme)
        flavour = flavour or (INTEGER if scheme.name == "tflite-full" else LITERT)
        file = convert(made, precision="int8", flavour=flavour, **options)
        reference = OnnxRunner(serialize(made, ""), emulate=True)
        for kernels in ("xnnpack", "builtin"):
            runner = TfliteArtifactRunner(file.content, kernels=kernels)
            if kernels == "xnnpack":
                _as_predicted(file, runner)
            for feed in feeds:
                want, got = reference.run(feed), runner.run(feed)
                for name, array in want.items():
                    step = runner.steps[name]
                    assert np.abs(got[name] - array).max() <= (limit + 1e-3) * step, (kernels, name)
        return file

    return check


def _every_precision(model: ir.Model) -> dict[str, tuple[ir.Model, TflitePrecision, Flavour]]:
    calibration = calibrate(model, [_feeds(model, seed) for seed in range(2)], method="minmax")
    wide = ir.from_proto(ir.to_proto(model))
    wide.opset_imports[""] = WIDE_MASTER  # operators of opset 20 mean the same
    found: dict[str, tuple[ir.Model, TflitePrecision, Flavour]] = {
        "fp32": (model, "fp32", LITERT),
        "fp16": (model, "fp16", LITERT),
        "dyn8": (model, "dyn8", LITERT),
    }
    for scheme in (TFLITE, TFLITE_FULL):
        made = quantize(model, calibration, scheme)
        found[scheme.name] = (made, "int8", FLAVOURS[scheme.name])
    made = quantize(wide, calibration, TFLITE_INT16X8)
    found["int16x8"] = (made, "int16x8", FLAVOURS[TFLITE_INT16X8.name])
    return found


def _difference(one: bytes, other: bytes) -> str:
    models = decode(one), decode(other)
    for kind in ("operators", "tensors"):
        first, second = (
            [getattr(part, "code", None) or part.name for part in getattr(m.main, kind)]
            for m in models
        )
        for place, (a, b) in enumerate(zip(first, second, strict=False)):
            if a != b:
                return f"{kind[:-1]} {place} of {len(first)} and {len(second)}: {a}, {b}"
    return f"{len(one)} and {len(other)} bytes"


@pytest.fixture(scope="session")
def written_again() -> Callable[[ir.Model], list[bytes]]:
    """Write a float graph in every precision, read the files, write those graphs: equal bytes.

    Returns the files.
    """

    def check(model: ir.Model) -> list[bytes]:
        files = []
        for name, (made, precision, flavour) in _every_precision(model).items():
            options: list[dict[str, Any]] = [{}]
            if precision == "int8":
                options.append({"ends": "integer"})
            for more in options:
                first = convert(made, precision=precision, flavour=flavour, **more).content
                read = from_tflite(decode(first))
                again = convert(read, precision=precision, flavour=flavour, **more).content
                if again != first:
                    pytest.fail(f"{name}{more}: {_difference(first, again)}")
                files.append(first)
        return files

    return check
