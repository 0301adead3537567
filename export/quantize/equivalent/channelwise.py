"""Channel-wise activations as an exact rewrite: one range per tensor, as good as one per channel.

Q-HyViT (Lee et al., arXiv 2303.12557) quantizes the input of grouped and depthwise convolutions
channel by channel. No integer kernel takes that, and none needs to: where a link allows it, the
producer's channel c is divided by r[c] and its reader multiplied by it, so that all channels fill
the range of the tensor. A reader with one filter per channel has its weight scale per channel
anyway, which absorbs the factor, as the producer's does: the gain costs nothing. Dense readers mix
channels under one scale; for them see `smoothquant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.equivalent.equalize import change
from edgec.export.quantize.equivalent.links import Link, Refused, find_links, rescale
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.graph import prepared_copy


def channelwise(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[Any]]], *, limit: float = 64.0
) -> Transformed:
    """Equalize the activation ranges of channels that depthwise convolutions read.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, read once.
        limit: the smallest factor is 1 / limit: a channel that hardly moves is not blown up
            further, because samples of deployment may move it more.

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    copy = prepared_copy(model)
    links, refused = find_links(copy)
    chosen = [link for link in links if all(_is_depthwise(link, c.axis) for c in link.consumers)]
    dense = [link for link in links if link not in chosen]
    refused += [Refused(link.name, "a reader mixes channels under one scale") for link in dense]
    axes = {name: axis for link in chosen for name, axis in link.input_axes.items()}
    found = channel_statistics(copy, feeds, axes)
    changes = []
    for link in chosen:
        peak = np.max([found[name].peak for name in link.inputs], axis=0)
        if not peak.max() > 0:
            continue
        factors = np.clip(peak / peak.max(), 1 / limit, 1.0)
        rescale(link, factors)
        changes.append(change(link, factors))
    return Transformed(copy, tuple(changes), tuple(refused))


def _is_depthwise(link: Link, axis: int) -> bool:
    return axis == 1 and all(c.linear.groups == link.channels for c in link.consumers)
