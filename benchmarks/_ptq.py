"""What the post-training quantization benchmarks share: variants, statistics of pairs, tables."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.errors import InputError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.kernels import count_integer_kernels, emulation_options
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import Recipe
from edgec.export.quantize.scheme import QuantScheme

Feed = Mapping[str, NDArray[np.float32]]
T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """One way to quantize: make(calibration feeds) gives the model's bytes.

    `emulated` variants are made for another processor and run as written, not with this
    machine's integer kernels; their latency means nothing and is not measured.
    """

    name: str
    make: Callable[[Sequence[Feed]], bytes]
    emulated: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Percentages and points over `samples`; `seconds` of CPU time to quantize, with `calibration`
    samples; `latency_ratio` to float.
    """

    name: str
    metric: float
    drop: float
    standard_error: float
    agreement: float
    latency_ratio: float | None
    megabytes: float
    integer_convs: int | None
    convs: int | None
    seconds: float
    calibration: int
    samples: int


@dataclass(frozen=True)
class Scores:
    """A quantized network over all folds.

    Attributes:
        correct: per sample, shape (samples,).
        agreement: share, up to 1, of samples or time steps with the float network's class.
        seconds: of CPU time to quantize the last fold.
        calibration: samples that the last fold was calibrated on, 0 for the float network.
        data: the ONNX file of the last fold.
    """

    correct: NDArray[np.bool_]
    agreement: float
    seconds: float
    calibration: int
    data: bytes


def by_recipe(
    name: str, model: ir.Model, recipe: Recipe, scheme: QuantScheme, *, emulated: bool = False
) -> Variant:
    """edgec's quantizer with a recipe."""

    def make(feeds: Sequence[Feed]) -> bytes:
        graph, _ = transform(model, recipe, lambda: feeds, scheme)
        ranges = calibrate(graph, feeds, method=recipe.calib_method)
        return serialize(quantize_by(recipe, graph, ranges, lambda: feeds, scheme).graph)

    return Variant(name, make, emulated or scheme.emulated)


def serialize(model: ir.Model) -> bytes:
    """The ONNX file of a graph."""
    return bytes(ir.to_proto(model).SerializeToString())


def runner(data: bytes, *, emulated: bool = False) -> ort.InferenceSession:
    """Single-threaded session; `emulated` runs Q/DQ graphs without integer kernels."""
    options = emulation_options() if emulated else ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def row(name: str, found: Scores, reference: NDArray[np.bool_], latency_ratio: float | None) -> Row:
    """Percentages of what was found against the float network's `reference` on the same samples.

    The standard error of the drop counts only samples on which the two differ (McNemar).
    """
    n = len(reference)
    discordant = int((found.correct != reference).sum())
    try:
        counts = count_integer_kernels(ir.from_proto(onnx.load_from_string(found.data)))
    except InputError:  # a peer's graph that ONNX Runtime runs, but cannot save optimized
        convs = None
    else:
        convs = counts["weighted"]["Conv"]
    return Row(
        name=name,
        metric=100.0 * float(found.correct.mean()),
        drop=100.0 * float(reference.mean() - found.correct.mean()),
        standard_error=100.0 * math.sqrt(discordant) / n,
        agreement=100.0 * found.agreement,
        latency_ratio=latency_ratio,
        megabytes=len(found.data) / 1e6,
        integer_convs=None if convs is None else convs["integer"],
        convs=None if convs is None else convs["integer"] + convs["float"],
        seconds=found.seconds,
        calibration=found.calibration,
        samples=n,
    )


def heading(title: str) -> None:
    """Print a title and the names of the columns of `line`."""
    print(title)
    print(
        f"{'variant':40} {'%':>6} {'drop':>6} {'±':>5} {'agree%':>7} {'latency':>8} {'MB':>6} "
        f"{'int convs':>9} {'s':>6}",
        flush=True,
    )


def line(r: Row) -> None:
    """Print a row."""
    latency = "-" if r.latency_ratio is None else f"{r.latency_ratio:.2f}×"
    kernels = "?" if r.convs is None else f"{r.integer_convs}/{r.convs}"
    print(
        f"{r.name:40} {r.metric:6.2f} {r.drop:+6.2f} {r.standard_error:5.2f} "
        f"{r.agreement:7.2f} {latency:>8} {r.megabytes:6.2f} "
        f"{kernels:>9} {r.seconds:6.1f}",
        flush=True,
    )


def save(
    title: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path | None
) -> None:
    """Write the records as JSON, if there is a path."""
    if path is not None:
        content = {"title": title, "facts": dict(facts), "rows": list(rows)}
        path.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on: versions, processor, and whether u8·s8 products are exact."""
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = cpuinfo.read_text()
    vnni = "avx512_vnni" in flags or "avx_vnni" in flags
    return {
        "onnxruntime": ort.__version__,
        "processor": platform.machine() + (" with VNNI" if vnni else " without VNNI"),
    }


def data_folder() -> Path | None:
    """EDGEC_BENCH_DATA, if it is set and there."""
    value = os.environ.get("EDGEC_BENCH_DATA")
    return Path(value) if value and Path(value).is_dir() else None


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """Result and CPU seconds of this process and of the programs that it ran."""
    start = _cpu_seconds()
    return make(), _cpu_seconds() - start


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
