"""Sensitivity by trial: quantize one block, leave the rest float, and look at the output.

This is what second-order estimates approximate. It sees activations as well as weights, costs one
run of the samples per block, and needs neither gradients nor labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.fisher import LEAST_PROBABILITY, MIN_CLASSES, are_probabilities
from edgec.export.quantize.graph import input_specs, prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.rounding.blocks import Block
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import check_feed, no_samples

Arrays = list[NDArray[np.float32]]
"""One array per graph output, samples concatenated on the first axis."""


@dataclass(frozen=True)
class Damage:
    """Distance of a quantized network's output from the float one's.

    Attributes:
        divergence: mean KL(softmax float ‖ softmax quantized) over rows of logits, in nats; for
            outputs that are no logits half the mean squared error over the float variance.
        sqnr: signal to quantization noise ratio of the raw outputs, in dB.
        agreement: share of logit rows with the same largest class; 1 where there are none.
    """

    divergence: float
    sqnr: float
    agreement: float


def measured_sensitivity(
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    blocks: Sequence[Block],
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    exclude: Collection[str] = (),
    learned: Learned | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Damage]:
    """Damage of quantizing each block alone, by block name.

    Args:
        model: float32 graph; not modified.
        calibration: ranges of its activations.
        scheme: grids and placement.
        blocks: from `find_blocks` on the same graph.
        feeds: samples, read once and held.
        exclude: node names, operator types or module paths that stay float in any case.
        learned: weights that are not rounded to nearest; those outside the block are left out.
        on_progress: called with the number of blocks done and their count.

    Raises:
        InputError: EC760, no samples; EC761, a sample does not fit; otherwise as `quantize`.
    """
    samples = [dict(feed) for feed in feeds]
    if not samples:
        raise no_samples()
    copy = prepared_copy(model)
    integer = plan_quantization(copy, scheme, exclude).integer_nodes
    reference = run(copy, samples)
    result = {}
    for done, block in enumerate(blocks):
        inside = set(block.nodes)
        others = (*exclude, *(name for name in integer if name not in inside))
        chosen = {k: v for k, v in (learned or {}).items() if k in block.weights}
        quantized = quantize(copy, calibration, scheme, exclude=others, learned=chosen)
        result[block.name] = damage(reference, run(quantized, samples))
        if on_progress is not None:
            on_progress(done + 1, len(blocks))
    return result


def run(model: ir.Model, samples: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """Outputs over all samples, Q/DQ as written (no integer kernels of this machine).

    Raises:
        InputError: EC761, a sample does not fit the inputs.
    """
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(),
        emulation_options(),
        providers=["CPUExecutionProvider"],
    )
    inputs = input_specs(model)
    checked = (check_feed(sample, inputs, i) for i, sample in enumerate(samples))
    found = [session.run(None, sample) for sample in checked]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def damage(reference: Arrays, other: Arrays) -> Damage:
    """Compare outputs; divergences of several outputs add up, the other two are the worst."""
    divergence, sqnr, agreement = 0.0, math.inf, 1.0
    for a, b in zip(reference, other, strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        noise = float(((y - x) ** 2).sum())
        if noise > 0:
            sqnr = min(sqnr, 10 * math.log10(max(float((x**2).sum()), 1e-300) / noise))
        if a.ndim in (2, 3) and a.shape[-1] >= MIN_CLASSES:
            if are_probabilities(x):  # another Softmax would hide every difference
                x, y = (np.log(np.maximum(v, LEAST_PROBABILITY)) for v in (x, y))
            p, q = _log_softmax(x), _log_softmax(y)
            divergence += float((np.exp(p) * (p - q)).sum(axis=-1).mean())
            agreement = min(agreement, float((x.argmax(-1) == y.argmax(-1)).mean()))
        elif noise > 0:
            divergence += 0.5 * noise / max(float(((x - x.mean()) ** 2).sum()), 1e-300)
    return Damage(divergence, sqnr, agreement)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
