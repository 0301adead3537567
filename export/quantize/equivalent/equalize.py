"""Cross-layer equalization: the same range for channel c at both ends of a link.

Nagel, van Baalen, Blankevoort, Welling, "Data-free quantization through weight equalization and
bias correction", ICCV 2019, arXiv 1906.04721, section 4.1: with r1[c] the largest magnitude of the
weights that write channel c and r2[c] of those that read it, the factor sqrt(r1[c]·r2[c]) / r2[c]
makes both the same. A weight between two links takes part in both, so all links are passed over
until nothing changes. It matters where weights have one scale per tensor; it needs no data.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.equivalent.links import (
    Link,
    find_links,
    input_weight,
    rescale,
)
from edgec.export.quantize.equivalent.transformed import Change, Transformed
from edgec.export.quantize.graph import constant_of, prepared_copy
from edgec.export.rewrite.graph import module_of
from edgec.export.rewrite.linear import match_linear

_CLOSE = 1e-3


def equalize(
    model: ir.Model, *, rounds: int = 40, limit: float = 1e3, norms: bool = False
) -> Transformed:
    """Equalize the weights of every link between two linear operators.

    Args:
        model: float32 graph; not modified.
        rounds: passes over all links at most.
        limit: factors are kept within [1 / limit, limit] in all, so that a dead channel does not
            turn the weights of its reader into infinities.
        norms: also move the gain of LayerNormalization into its readers (r1 is then the gain).
    """
    copy = prepared_copy(model)
    links, refused = find_links(copy)
    links = [link for link in links if norms or link.linear is not None]
    factors = [np.ones(link.channels) for link in links]
    for _ in range(rounds):
        moved = 0.0
        for i, link in enumerate(links):
            step = _factors(link)
            step = np.clip(factors[i] * step, 1 / limit, limit) / factors[i]
            rescale(link, step)
            factors[i] *= step
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < math.log1p(_CLOSE):
            break
    changes = tuple(change(link, f) for link, f in zip(links, factors, strict=True))
    return Transformed(copy, changes, tuple(refused))


def change(link: Link, factors: NDArray[np.float64], note: str = "") -> Change:
    """What the report says about one rescaled link."""
    consumers = dict.fromkeys(
        module_of(c.linear.node) or str(c.linear.node.name) for c in link.consumers
    )
    extremes = (float(factors.min()), float(factors.max()))
    return Change(link.name, tuple(consumers), extremes, note)


def output_peaks(link: Link) -> NDArray[np.float64]:
    """Largest magnitude of what writes each channel: weights, or the gain of the norm."""
    if link.linear is None:
        gain = constant_of(link.producer.inputs[1])
        assert gain is not None
        return np.asarray(np.abs(gain), np.float64)
    now = match_linear(link.linear.node)
    assert now is not None
    rows = np.moveaxis(now.weight, now.weight_axis, 0).reshape(link.channels, -1)
    return np.asarray(np.abs(rows).max(axis=1), np.float64)


def input_peaks(link: Link) -> NDArray[np.float64]:
    """Largest magnitude of the weights that read each channel, over all consumers."""
    peaks = [
        np.abs(input_weight(c.linear.node)).reshape(link.channels, -1).max(axis=1)
        for c in link.consumers
    ]
    return np.asarray(np.max(peaks, axis=0), np.float64)


def _factors(link: Link) -> NDArray[np.float64]:
    written, read = output_peaks(link), input_peaks(link)
    # a channel that is never written or never read has no range to equalize
    alive = (written > 0) & (read > 0)
    safe_written, safe_read = np.where(alive, written, 1.0), np.where(alive, read, 1.0)
    return np.asarray(np.sqrt(safe_written * safe_read) / safe_read, np.float64)
