"""Activation statistics in one streaming pass, and the ranges chosen from them.

Each sample's activations are folded into histograms and dropped, so memory is bounded by one sample
plus a constant per tensor. Nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.errors import InputError, UsageError
from edgec.export.quantize.graph import module_of
from edgec.export.quantize.histogram import Histogram
from edgec.export.quantize.ranges import Method, Range, check_method, choose_range
from edgec.export.quantize.stream import FETCH_BYTES, run_activations


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
    histograms: dict[str, Histogram] = {}
    samples = 0
    for sample, values in run_activations(model, feeds, tensors, fetch_bytes=fetch_bytes):
        for name, value in values.items():
            observe(model, histograms.setdefault(name, Histogram()), name, value, sample)
        if on_progress is not None and sample >= samples:
            on_progress(sample + 1)
        samples = sample + 1
    return Calibration(histograms, method=method, percentile=percentile, samples=samples)


def observe(
    model: ir.Model,
    histogram: Histogram,
    name: str,
    values: NDArray[Any],
    sample: int,
    weights: NDArray[Any] | None = None,
) -> None:
    """Add the activations of one sample to a histogram.

    Raises:
        InputError: EC762, some of them are NaN or infinite; names the tensor and its module.
    """
    try:
        histogram.update(cast("NDArray[np.float32]", values), weights)
    except ValueError as error:
        bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
        raise InputError(
            "EC762",
            f"activation {name!r} has {bad} NaN or infinite of {np.size(values)} values",
            where=f"{module_of(model, name)}, calibration sample {sample}",
            why="the float network itself overflows or divides by zero on this sample",
            fix="check preprocessing and weights; `edgec run` on the float model shows the output",
        ) from error
