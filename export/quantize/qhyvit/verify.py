"""Keep only what really lowers the divergence of the network.

The objective of the search is local and second-order: what it proposes for one tensor may cost more
than it says, most of all where the network is nearly right already and gradients are small. Every
proposal is therefore tried in the quantized network itself, several at a time: a set that lowers
the divergence is kept, one that does not is halved until single proposals are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.qhyvit.gradients import divergence

Feed = Mapping[str, NDArray[Any]]
T = TypeVar("T")

CHUNK = 8


class Divergence:
    """Mean divergence of quantized networks from one float network, run as written."""

    def __init__(self, samples: Sequence[Feed], references: Sequence[Mapping[str, Tensor]]) -> None:
        """Keep the samples and the float outputs (more tensors do no harm)."""
        self.samples, self.references = samples, references

    def __call__(self, quantized: ir.Model) -> float:
        """Run a Q/DQ graph over the samples."""
        data = ir.to_proto(quantized).SerializeToString()
        session = ort.InferenceSession(
            data, emulation_options(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        total = 0.0
        for feed, wanted in zip(self.samples, self.references, strict=True):
            found = session.run(names, dict(feed))
            for name, value in zip(names, found, strict=True):
                total += float(divergence(wanted[name], torch.from_numpy(np.asarray(value))))
        return total / len(self.samples)


def accepted(
    proposals: Sequence[T],
    cost: Callable[[Sequence[T]], float],
    start: float,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[T], float]:
    """The proposals that lower the cost, and the cost with all of them.

    Args:
        proposals: in order.
        cost: of the network with the given proposals applied.
        start: cost without any.
        on_progress: called with the number of proposals decided.
    """
    kept: list[T] = []
    least, decided = start, 0
    pending = [proposals[i : i + CHUNK] for i in range(0, len(proposals), CHUNK)]
    while pending:
        chunk = pending.pop(0)
        found = cost([*kept, *chunk])
        if found < least:
            kept += chunk
            least = found
        elif len(chunk) > 1:
            half = len(chunk) // 2
            pending[:0] = [chunk[:half], chunk[half:]]
            continue
        decided += len(chunk)
        if on_progress is not None:
            on_progress(decided)
    return kept, least
