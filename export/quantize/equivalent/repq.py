"""LayerNorm reparameterization: channel-wise ranges behind a norm, moved into weights.

Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
Transformers", ICCV 2023, arXiv 2212.08254, section 3.2. The output of a LayerNormalization is
calibrated channel by channel, scale s[c] and zero point z[c]; with their means s and z over the
channels, r = s[c] / s and b = low[c] / r[c] − low, where low = −z·s, one asymmetric grid fits all
channels of (x − b·r) / r. Gain and offset of the norm take the factors and shifts, the linear
layers behind it give them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.equivalent.equalize import change
from edgec.export.quantize.equivalent.links import find_links, rescale
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.graph import prepared_copy


def reparameterize_norms(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    shift: bool = True,
    limit: float = 16.0,
) -> Transformed:
    """Give all channels behind each LayerNormalization the same range.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, read once.
        shift: move the channels' centres as well, where the link allows it (asymmetric grids; a
            symmetric one gains from centring just as much).
        limit: factors stay within [1 / limit, limit].

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    copy = prepared_copy(model)
    links, refused = find_links(copy)
    links = [link for link in links if link.linear is None]
    norms = {str(link.tensor.name): link.axis for link in links}
    found = channel_statistics(copy, feeds, norms)
    changes = []
    for link in links:
        statistics = found[str(link.tensor.name)]
        obstacle = link.shift_obstacle() if shift else "not asked for"
        if obstacle:
            spread, offset = statistics.peak, None
        else:
            spread = statistics.high - statistics.low
            offset = 0.5 * (statistics.high + statistics.low)
        if not spread.max() > 0:
            continue
        factors = np.clip(spread / spread.mean(), 1 / limit, limit)
        rescale(link, factors, None if offset is None else offset)
        note = f"no shift: {obstacle}" if obstacle else "centred"
        changes.append(change(link, factors, note))
    norm_names = {link.name for link in links}
    return Transformed(copy, tuple(changes), tuple(r for r in refused if r.producer in norm_names))
