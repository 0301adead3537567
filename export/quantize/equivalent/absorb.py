"""High-bias absorption: channels that are always positive hand their offset on.

Nagel et al., ICCV 2019, arXiv 1906.04721, section 4.1.3: relu(x − c) = relu(x) − c wherever x >= c,
so a bias that keeps a channel far above zero can move into the bias of the reader, and the channel
needs a smaller range. The paper takes c = max(0, β − 3γ) from BatchNorm's shift and scale, which
is right for all but 0.1 % of normal values; here mean and deviation are measured, and c never
exceeds the smallest value seen, so on the calibration data the rewrite is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.equivalent.equalize import change
from edgec.export.quantize.equivalent.links import (
    Link,
    Refused,
    find_links,
    offset_obstacle,
    shift_channels,
)
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.graph import prepared_copy
from edgec.export.rewrite.graph import is_op


def absorb_high_biases(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[Any]]], *, deviations: float = 3.0
) -> Transformed:
    """Move what a channel never falls below, behind ReLU, into its readers' biases.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, read once.
        deviations: c is the mean less so many standard deviations.

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    copy = prepared_copy(model)
    links, refused = find_links(copy)
    usable = []
    for link in links:
        reason = _obstacle(link)
        if reason:
            refused.append(Refused(link.name, reason))
        else:
            usable.append(link)
    found = channel_statistics(copy, feeds, {str(k.tensor.name): k.axis for k in usable})
    changes = []
    for link in usable:
        seen = found[str(link.tensor.name)]
        amount = np.minimum(seen.mean - deviations * seen.std, seen.low).clip(min=0.0)
        if amount.any():
            shift_channels(link, amount)
            count = int(np.count_nonzero(amount))
            changes.append(change(link, np.ones(link.channels), f"{count} channels lowered"))
    return Transformed(copy, tuple(changes), tuple(refused))


def _obstacle(link: Link) -> str:
    if not any(is_op(node, "Relu") for node in link.between):
        return "no ReLU behind it"
    if any(not is_op(n, "Relu", "Transpose", "Reshape", "Identity") for n in link.between):
        return "more than ReLU and views behind it"
    for consumer in link.consumers:
        reason = offset_obstacle(consumer.linear)
        if reason:
            return reason
    return "" if link.linear is not None and link.linear.bias is not None else "it has no bias"
