"""Numerical equality of graphs: seeded inputs, execution in ONNX Runtime, comparison.

This is the check behind every rewrite and behind capture: a graph may change in any way as long as
the numbers that come out do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.errors import UnsupportedError
from edgec.profiles.macs import count_graph_macs

Array = NDArray[Any]

RELATIVE_TOLERANCE: Mapping[str, float] = {
    # Reordering float32 sums of n terms over d layers moves the result by about eps·sqrt(n·d):
    # n = 5000, d = 100 gives 4e-5 of the output's scale; 1e-4 keeps a factor of two to that, while
    # a wrong weight, axis or epsilon moves it by 1e-3 and more.
    "float32": 1e-4,
    "float64": 1e-6,  # folded constants pass through float32 in some operators' attributes
    "float16": 2e-2,  # 10 bits of mantissa, eps 1e-3, same argument
    "bfloat16": 1e-1,  # 7 bits
}
"""Largest allowed difference as a fraction of max |reference|, by dtype; other dtypes are exact."""

QUANTIZED_TOLERANCE = 2e-2
"""The same for graphs with quantizers, whose result a rounding error in float32 can move to the
neighbouring step: two and a half steps of an 8-bit output."""

NOISE_FACTOR = 3.0
"""Where rounding alone moves an output by much, so many times that is allowed."""

MOST_NOISE = 100.0
"""Limit of that, in tolerances: what is off by more than 1e-2 in float32 is never rounding."""

ABSOLUTE_FLOOR = 1e-6
"""Differences below this pass even where the reference is all zeros."""

HEAVY_MACS = 2e9
"""Networks above this are checked on one input: a run takes seconds, and compares many values."""

RANDOM_OPS = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators of the standard domain whose output differs from call to call."""


@dataclass(frozen=True)
class Mismatch:
    """The first output that differs.

    Attributes:
        output: its name.
        reason: what differs, in words.
        max_abs: largest absolute difference (nan if it cannot be computed).
        allowed: the tolerance it exceeds.
    """

    output: str
    reason: str
    max_abs: float = float("nan")
    allowed: float = 0.0


def tolerance(reference: Array, *, quantized: bool = False) -> float:
    """Largest allowed absolute difference from `reference`."""
    relative = RELATIVE_TOLERANCE.get(str(reference.dtype))
    if relative is None:
        return 0.0
    if quantized:
        relative = max(relative, QUANTIZED_TOLERANCE)
    finite = np.abs(reference[np.isfinite(reference)].astype(np.float64))
    scale = float(finite.max()) if finite.size else 0.0
    return relative * scale + ABSOLUTE_FLOOR


def compare(
    names: Sequence[str],
    reference: Sequence[Array],
    actual: Sequence[Array],
    *,
    quantized: bool = False,
    noise: Sequence[float] | None = None,
) -> Mismatch | None:
    """First difference beyond `tolerance` between two lists of outputs, or None.

    NaN and infinities must be at the same places. `noise` tells for each output how far rounding
    alone moves it (see `NOISE_FACTOR`).
    """
    noises = noise or [0.0] * len(names)
    for name, want, got, moved in zip(names, reference, actual, noises, strict=True):
        if not isinstance(want, np.ndarray) or want.dtype == object:
            if not np.array_equal(np.asarray(want, object), np.asarray(got, object)):
                return Mismatch(name, "values differ")
            continue
        if want.shape != got.shape or want.dtype != got.dtype:
            return Mismatch(
                name, f"{want.dtype}{list(want.shape)} became {got.dtype}{list(got.shape)}"
            )
        allowed = tolerance(want, quantized=quantized)
        if allowed == 0.0:
            if not np.array_equal(want, got):
                return Mismatch(name, "integer or boolean values differ")
            continue
        allowed = max(allowed, min(NOISE_FACTOR * moved, MOST_NOISE * allowed))
        finite = np.isfinite(want)
        if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
            return Mismatch(name, "NaN or infinity at other places")
        a, b = want[finite].astype(np.float64), got[finite].astype(np.float64)
        worst = float(np.abs(a - b).max()) if a.size else 0.0
        if not worst <= allowed:
            return Mismatch(name, f"differs by {worst:.3g}", worst, allowed)
    return None


def is_chaotic(
    reference: Sequence[Array], noise: Sequence[float], *, quantized: bool = False
) -> bool:
    """Whether rounding moves an output so far that a comparison on this input says nothing."""
    return any(
        NOISE_FACTOR * moved > MOST_NOISE * allowed > 0
        for want, moved in zip(reference, noise, strict=True)
        if isinstance(want, np.ndarray) and want.dtype != object
        for allowed in [tolerance(want, quantized=quantized)]
    )


def is_heavy(model: ir.Model) -> bool:
    """Whether each run costs so much that one input has to do (`HEAVY_MACS`)."""
    try:
        return count_graph_macs(model).total > HEAVY_MACS
    except UnsupportedError:  # unknown shapes
        return False


def seeded_inputs(model: ir.Model, seed: int) -> dict[str, Array]:
    """One random value per graph input: N(0, 1) floats, small non-negative integers, fair booleans.

    Raises:
        UnsupportedError: an input is no tensor of static shape.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape = value.shape
        if value.dtype is None or shape is None or not all(isinstance(d, int) for d in shape.dims):
            raise UnsupportedError(
                "EC343",
                "the graph cannot be executed for a check",
                where=f"input {value.name}",
                why=f"its type is {value.type} with shape {shape}",
                fix="Fix every dimension, e.g. with --shape, or switch the check off.",
            )
        dims = tuple(int(d) for d in shape.dims)  # type: ignore[arg-type]
        dtype = value.dtype.numpy()
        if value.dtype == ir.DataType.BOOL:
            array: Array = rng.integers(0, 2, dims).astype(bool)
        elif value.dtype.is_integer():
            array = rng.integers(0, 2, dims).astype(dtype)
        elif value.dtype == ir.DataType.STRING:
            array = np.full(dims, "a", dtype=object)
        else:
            array = rng.standard_normal(dims).astype(dtype)
        feeds[value.name or ""] = array
    return feeds


def nudged(feeds: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """The same inputs with each float moved by about its last bit, up or down at random."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            step = rng.choice([-1.0, 1.0], array.shape) * np.finfo(array.dtype).eps
            array = (array * (1 + step)).astype(array.dtype)
        found[name] = array
    return found


def is_deterministic(model: ir.Model) -> bool:
    """Whether no operator draws random numbers (Dropout in training mode included)."""
    return not any(
        node.domain in ("", "ai.onnx")
        and (
            node.op_type in RANDOM_OPS
            or (node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None)
        )
        for node in model.graph.all_nodes()
    )


def is_quantized(model: ir.Model) -> bool:
    """Whether activations are rounded to integers on the way."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())


def serialize(model: ir.Model) -> bytes:
    """The model as protobuf bytes.

    Raises:
        UnsupportedError: it is larger than protobuf's 2 GiB.
    """
    try:
        return onnx_bytes(ir.to_proto(model))
    except ValueError as error:
        raise UnsupportedError(
            "EC345", "the graph is larger than 2 GiB", why=str(error), fix="Use a smaller network."
        ) from error


def onnx_bytes(proto: onnx.ModelProto) -> bytes:
    """Deterministic protobuf serialization (map fields in key order)."""
    return bytes(proto.SerializeToString(deterministic=True))


def session_options(*, optimize: bool = False) -> ort.SessionOptions:
    """Quiet and single-threaded; unoptimized unless asked for.

    Without optimization ONNX Runtime executes the graph as written, so that a fusion of its own can
    neither hide nor cause a difference; creating the session is also several times faster.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    # an arena grows in powers of two for runs to come, so do blocks planned for all activations and
    # weights packed anew; a check has one or two runs
    options.enable_cpu_mem_arena = options.enable_mem_pattern = optimize
    if not optimize:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def session(model: bytes, *, optimize: bool = False) -> ort.InferenceSession:
    """A CPU session with `session_options`."""
    options = session_options(optimize=optimize)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, feeds: Sequence[Mapping[str, Array]]) -> list[Array]:
    """All outputs for each of `feeds`, concatenated into one flat list.

    Raises:
        onnxruntime exceptions: the graph does not load or run.
    """
    runner = session(model)
    return [array for feed in feeds for array in runner.run(None, dict(feed))]
