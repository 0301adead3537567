"""Keep only what really lowers the divergence of the network, on samples the search has not seen.

The objective of the search is local and second-order, and it sees few samples: what it proposes for
one tensor may clip what other samples need, or cost more than it says where the network is nearly
right already and gradients are small. Every proposal is therefore tried in the quantized network
itself: it is kept if the divergence falls by more than chance explains.
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


class Divergence:
    """Divergence of quantized networks from one float network, run as written."""

    def __init__(self, samples: Sequence[Feed], references: Sequence[Mapping[str, Tensor]]) -> None:
        """Keep the samples and the float outputs (more tensors do no harm)."""
        self.samples, self.references = samples, references

    def __call__(self, quantized: ir.Model) -> NDArray[np.float64]:
        """Run a Q/DQ graph; one divergence per sample."""
        data = ir.to_proto(quantized).SerializeToString()
        session = ort.InferenceSession(
            data, emulation_options(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        costs = []
        for feed, wanted in zip(self.samples, self.references, strict=True):
            found = session.run(names, dict(feed))
            values = [torch.from_numpy(np.asarray(value)) for value in found]
            terms = [divergence(wanted[n], v) for n, v in zip(names, values, strict=True)]
            costs.append(float(torch.stack(terms).sum()))
        return np.array(costs)


def accepted(
    proposals: Sequence[T],
    cost: Callable[[Sequence[T]], NDArray[np.float64]],
    on_progress: Callable[[int], None] | None = None,
    *,
    errors: float = 1.0,
) -> list[T]:
    """The proposals that lower the cost, each on top of those accepted before.

    Args:
        proposals: in the order in which they are tried, the most promising ones first.
        cost: per sample, of the network with the given proposals applied.
        on_progress: called with the number of proposals decided.
        errors: the mean must fall by so many of its standard errors (paired over samples).
    """
    kept: list[T] = []
    least = cost([])
    for done, proposal in enumerate(proposals):
        found = cost([*kept, proposal])
        gain = least - found
        noise = gain.std() / np.sqrt(len(gain))
        if gain.mean() > errors * noise:
            kept.append(proposal)
            least = found
        if on_progress is not None:
            on_progress(done + 1)
    return kept
