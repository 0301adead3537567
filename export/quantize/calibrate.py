"""Activation statistics in one streaming pass, and the ranges chosen from them.

The network runs in ONNX Runtime with the tensors of interest exposed as outputs. Each sample's
activations are folded into histograms and dropped, so memory is bounded by one sample plus a
constant per tensor. Nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.export.quantize.graph import input_specs, module_of, prepared_copy
from edgec.export.quantize.histogram import Histogram
from edgec.export.quantize.ranges import Method, Range, check_method, choose_range

# Bytes of activations fetched per run; a larger set is fetched in several runs per sample.
FETCH_BYTES = 1 << 30


@dataclass(frozen=True)
class Calibration:
    """What calibration saw, and how ranges are to be chosen from it.

    Ranges are data: `range` computes them on demand from the histograms, `with_method` asks
    the same histograms another question without another pass, and `with_ranges` overrides
    single tensors (a search over ranges ends in such a mapping).

    Attributes:
        histograms: one per calibrated tensor, by name.
        method, percentile: how a range is chosen, see `edgec.export.quantize.ranges`.
        samples: number of batches fed.
        ranges: fixed ranges that take precedence over the histograms.
    """

    histograms: Mapping[str, Histogram]
    method: Method = "minmax"
    percentile: float = 99.99
    samples: int = 0
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def range(self, name: str, *, levels: int = 256, symmetric: bool = False) -> Range:
        """Range of one tensor for a grid of `levels` integers.

        Raises:
            UsageError: EC262, the tensor was not calibrated.
        """
        if name in self.ranges:
            fixed = self.ranges[name]
            return fixed.symmetric() if symmetric else fixed
        histogram = self.histograms.get(name)
        if histogram is None:
            raise UsageError(
                "EC262",
                f"tensor {name!r} was not calibrated",
                why=f"the calibration holds {len(self.histograms)} other tensors",
                fix="calibrate the same graph that is quantized, without restricting `tensors`",
            )
        return choose_range(
            histogram,
            self.method,
            levels=levels,
            symmetric=symmetric,
            percentile=self.percentile,
        )

    def with_method(self, method: Method, percentile: float | None = None) -> Calibration:
        """The same statistics read with another rule."""
        percentile = self.percentile if percentile is None else percentile
        check_method(method, percentile)
        return replace(self, method=method, percentile=percentile)

    def with_ranges(self, ranges: Mapping[str, Range]) -> Calibration:
        """The same statistics with some tensors' ranges given."""
        return replace(self, ranges={**self.ranges, **ranges})

    def extremes(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest value seen, or None for a tensor that was not observed."""
        histogram = self.histograms.get(name)
        return None if histogram is None else (histogram.minimum, histogram.maximum)

    def to_json(self) -> dict[str, Any]:
        """Method, sample count and every tensor's extremes and chosen range."""
        tensors = {}
        for name in sorted({*self.histograms, *self.ranges}):
            chosen = self.range(name)
            entry: dict[str, Any] = {"range": [chosen.low, chosen.high]}
            extremes = self.extremes(name)
            if extremes is not None:
                entry["extremes"] = list(extremes)
            tensors[name] = entry
        return {
            "method": self.method,
            "percentile": self.percentile if self.method == "percentile" else None,
            "samples": self.samples,
            "tensors": tensors,
        }


def calibrate(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    tensors: Collection[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
    fetch_bytes: int = FETCH_BYTES,
) -> Calibration:
    """Run `model` over `feeds` once and collect a histogram per activation tensor.

    Args:
        model: float32 graph; it is not modified.
        feeds: one mapping input name → array per batch, consumed once.
        method, percentile: default rule of the returned calibration.
        tensors: names to observe; None observes every float32 activation of the main graph.
        on_progress: called with the number of batches done after each one.
        fetch_bytes: activations held at once; more is fetched by running a batch repeatedly.

    Raises:
        UsageError: EC260, EC261 (method), EC263 unknown tensor names.
        InputError: EC760 no feeds, EC761 a feed does not fit the inputs, EC762 an activation is
            NaN or infinite, EC763 the graph does not run.
        KeyboardInterrupt: passed through; there is nothing to clean up.
    """
    check_method(method, percentile)
    model = prepared_copy(model)  # with every value's type
    available = activation_names(model)
    wanted = available if tensors is None else _select(available, tensors)
    session = _session(model, wanted)
    inputs = input_specs(model)
    groups = _fetch_groups(model, [t for t in wanted if t not in inputs], fetch_bytes)
    histograms = {name: Histogram() for name in wanted}
    samples = 0
    for feed in feeds:
        checked = _check_feed(feed, inputs, samples)
        for name in wanted:
            if name in checked:
                _observe(model, histograms, name, checked[name], samples)
        for group in groups:
            try:
                values = session.run(group, checked)
            except Exception as error:  # ORT raises its own unrelated classes
                raise InputError(
                    "EC763",
                    "the network failed to run on a calibration sample",
                    where=f"calibration sample {samples}",
                    why=str(error),
                ) from error
            for name, value in zip(group, values, strict=True):
                _observe(model, histograms, name, value, samples)
            del values
        samples += 1
        if on_progress is not None:
            on_progress(samples)
    if samples == 0:
        raise InputError(
            "EC760",
            "calibration got no samples",
            why="the data source yielded nothing",
            fix="give a folder, zip or npz that holds at least one image",
        )
    return Calibration(histograms, method=method, percentile=percentile, samples=samples)


def activation_names(model: ir.Model) -> list[str]:
    """Float32 tensors of the main graph that depend on an input, in graph order."""
    names = [
        v.name
        for v in model.graph.inputs
        if v.name and v.dtype == ir.DataType.FLOAT and v.name not in model.graph.initializers
    ]
    varying = {v for v in model.graph.inputs if v.name not in model.graph.initializers}
    for node in model.graph:
        if not any(v in varying for v in node.inputs if v is not None):
            continue
        for value in node.outputs:
            varying.add(value)
            if value.name and value.dtype == ir.DataType.FLOAT:
                names.append(value.name)
    return names


def _select(available: Sequence[str], tensors: Collection[str]) -> list[str]:
    unknown = sorted(set(tensors) - set(available))
    if unknown:
        raise UsageError(
            "EC263",
            f"no float32 activation is called {unknown[0]!r}",
            why=f"{len(unknown)} of {len(tensors)} names are not in the graph",
        )
    return [name for name in available if name in tensors]


def _session(model: ir.Model, outputs: Sequence[str]) -> ort.InferenceSession:
    proto = ir.to_proto(model)
    present = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name not in present
    )
    options = ort.SessionOptions()
    # One thread: the order of float additions, and with it every scale, must not depend on
    # the machine's core count.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise InputError(
            "EC763",
            "ONNX Runtime cannot load the network for calibration",
            why=str(error),
            fix="check the model with `edgec check`",
        ) from error


def _fetch_groups(model: ir.Model, names: Sequence[str], limit: int) -> list[list[str]]:
    size = {}
    for node in model.graph:
        for value in node.outputs:
            shape = value.shape
            dims = [d for d in shape if isinstance(d, int)] if shape is not None else []
            size[value.name] = 4 * int(np.prod(dims, dtype=np.int64))
    groups: list[list[str]] = []
    held = 0
    for name in names:
        if not groups or held + size[name] > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size[name]
    return groups


def _check_feed(
    feed: Mapping[str, NDArray[Any]], inputs: Mapping[str, Any], index: int
) -> dict[str, NDArray[Any]]:
    where = f"calibration sample {index}"
    missing = sorted(set(inputs) - set(feed))
    if missing:
        raise InputError(
            "EC761",
            f"no value for input {missing[0]!r}",
            where=where,
            why=f"the sample has {', '.join(sorted(feed)) or 'nothing'}",
        )
    unknown = sorted(set(feed) - set(inputs))
    if unknown:
        raise InputError(
            "EC761",
            f"the network has no input {unknown[0]!r}",
            where=where,
            fix=f"its inputs are {', '.join(inputs)}",
        )
    checked = {}
    for name, spec in inputs.items():
        array = np.asarray(feed[name])
        problem = spec.mismatch(array)
        if problem:
            raise InputError("EC761", f"input {name!r}: {problem}", where=where)
        checked[name] = array
    return checked


def _observe(
    model: ir.Model,
    histograms: Mapping[str, Histogram],
    name: str,
    values: NDArray[Any],
    sample: int,
) -> None:
    try:
        histograms[name].update(cast("NDArray[np.float32]", values))
    except ValueError as error:
        bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
        raise InputError(
            "EC762",
            f"activation {name!r} has {bad} NaN or infinite of {np.size(values)} values",
            where=f"{module_of(model, name)}, calibration sample {sample}",
            why="the float network itself overflows or divides by zero on this sample",
            fix="check preprocessing and weights; `edgec run` on the float model shows the output",
        ) from error


def require_float32(model: ir.Model) -> None:
    """Raise UnsupportedError EC360 if the graph computes in another float type."""
    for node in model.graph:
        for value in node.outputs:
            if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
                raise UnsupportedError(
                    "EC360",
                    f"the graph computes in {value.dtype.name.lower()}",
                    where=f"{node.op_type} {node.name}",
                    why="quantization and conversion to float16 start from float32",
                    fix="export the network in float32",
                )
