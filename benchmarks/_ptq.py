"""What the post-training quantization benchmarks share: peers, pairing statistics, tables."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.errors import InputError
from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import count_integer_kernels, emulation_options
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import Recipe
from edgec.export.quantize.scheme import QuantScheme

Feed = Mapping[str, NDArray[np.float32]]
T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """One way to quantize: make(calibration, calibration feeds) gives the model's bytes.

    `emulated` variants are made for another processor and run as written, not with this
    machine's integer kernels; their latency means nothing and is not measured. `calibrated`
    variants read the shared calibration, whose time counts for each of them.
    """

    name: str
    make: Callable[[Calibration, Sequence[Feed]], bytes]
    emulated: bool = False
    calibrated: bool = True


@dataclass(frozen=True)
class Row:
    """One line of the result."""

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


def edgec(
    name: str,
    model: ir.Model,
    scheme: QuantScheme,
    method: str,
    percentile: float = 99.99,
    *,
    emulated: bool = False,
    corrected: bool = False,
    **options: Any,
) -> Variant:
    """edgec's quantizer with a scheme, a calibration rule and optional bias correction."""

    def make(calibration: Calibration, feeds: Sequence[Feed]) -> bytes:
        chosen = calibration.with_method(method, percentile)
        source = correct_biases(model, feeds, scheme, **options) if corrected else model
        return serialize(quantize(source, chosen, scheme, **options))

    return Variant(name, make, emulated)


def by_recipe(
    name: str, model: ir.Model, recipe: Recipe, scheme: QuantScheme, *, emulated: bool = False
) -> Variant:
    """edgec's quantizer with a recipe; calibrates the graph that the recipe transformed."""

    def make(_: Calibration, feeds: Sequence[Feed]) -> bytes:
        graph, _notes = transform(model, recipe, lambda: feeds, scheme)
        ranges = calibrate(graph, feeds, method=recipe.calib_method)
        return serialize(quantize_by(recipe, graph, ranges, lambda: feeds, scheme).graph)

    return Variant(name, make, emulated or scheme.emulated, calibrated=False)


def onnxruntime_static(
    name: str, model: ir.Model, method: str, *, reduce_range: bool, per_channel: bool = True
) -> Variant:
    """onnxruntime.quantization.quantize_static, QDQ format, u8 activations, s8 weights."""
    from onnxruntime import quantization as q

    methods = {
        "minmax": q.CalibrationMethod.MinMax,
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Sequence[Feed]) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            feed = next(self.feeds, None)
            return None if feed is None else dict(feed)

    def make(_: Calibration, feeds: Sequence[Feed]) -> bytes:
        logging.getLogger().setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(serialize(model))
            q.quantize_static(
                str(source),
                str(target),
                Reader(feeds),
                quant_format=q.QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=reduce_range,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
                calibrate_method=methods[method],
                extra_options={"CalibPercentile": 99.999} if method == "percentile" else {},
            )
            return target.read_bytes()

    return Variant(name, make, calibrated=False)


def nncf_quantize(name: str, model: ir.Model, python: str, *, transformer: bool) -> Variant:
    """nncf.quantize, by an interpreter of its own: NNCF pins other versions of onnx.

    Its CPU time includes starting the interpreter and importing the package.
    """

    def make(_: Calibration, feeds: Sequence[Feed]) -> bytes:
        script = Path(__file__).with_name("_peer_nncf.py")
        with tempfile.TemporaryDirectory() as folder:
            source, data, target = (Path(folder) / n for n in ("a.onnx", "feeds.npz", "b.onnx"))
            source.write_bytes(serialize(model))
            np.savez(data, **{key: np.stack([feed[key] for feed in feeds]) for key in feeds[0]})
            command = [python, str(script), str(source), str(data), str(target)]
            subprocess.run(command + ["transformer"] * transformer, check=True, capture_output=True)
            return target.read_bytes()

    return Variant(name, make, calibrated=False)


def serialize(model: ir.Model) -> bytes:
    """The ONNX file of a graph."""
    return bytes(ir.to_proto(model).SerializeToString())


def runner(data: bytes, *, emulated: bool = False) -> ort.InferenceSession:
    """Single-threaded session; `emulated` runs Q/DQ graphs without integer kernels."""
    options = emulation_options() if emulated else ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def row(
    name: str,
    data: bytes,
    correct: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    agreement: float,
    latency_ratio: float | None,
    seconds: float,
) -> Row:
    """Percentages of `correct` against the float network's `reference` on the same samples.

    The standard error of the drop counts only samples on which the two differ (McNemar).
    """
    n = len(correct)
    discordant = int((correct != reference).sum())
    try:
        counts = count_integer_kernels(ir.from_proto(onnx.load_from_string(data)))
    except InputError:  # a peer's graph that ONNX Runtime runs, but cannot save optimized
        convs = None
    else:
        convs = counts["weighted"]["Conv"]
    return Row(
        name=name,
        metric=100.0 * float(correct.mean()),
        drop=100.0 * float(reference.mean() - correct.mean()),
        standard_error=100.0 * math.sqrt(discordant) / n,
        agreement=100.0 * agreement,
        latency_ratio=latency_ratio,
        megabytes=len(data) / 1e6,
        integer_convs=None if convs is None else convs["integer"],
        convs=None if convs is None else convs["integer"] + convs["float"],
        seconds=seconds,
    )


def report(title: str, rows: Sequence[Row], facts: Mapping[str, Any], path: Path | None) -> None:
    """Print the table and write it as JSON."""
    facts = {**facts, **machine()}
    print("; ".join(f"{key}: {value}" for key, value in facts.items()))
    table(title, rows)
    save(title, [asdict(r) for r in rows], facts, path)


def table(title: str, rows: Sequence[Row]) -> None:
    """Print one line per row."""
    print(title)
    print(
        f"{'variant':40} {'%':>6} {'drop':>6} {'±':>5} {'agree%':>7} {'latency':>8} {'MB':>6} "
        f"{'int convs':>9} {'s':>6}"
    )
    for r in rows:
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
