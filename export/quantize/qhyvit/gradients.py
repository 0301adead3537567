"""Passes 1 and 2 of Q-HyViT: what an error in each value costs.

The loss needs no labels: it is the divergence KL(softmax of the float network ‖ softmax of the
quantized one). Near its minimum the loss grows with the square of the error of an inner value, and
the squared gradient, the diagonal of the Fisher information, stands for its curvature (Li et al.,
BRECQ, arXiv 2102.05426, section 3.1). Gradients are taken in the quantized network; rounding passes
them straight through.

The paper squares the gradient of the divergence itself. Near the float network that gradient is
small and says more about this sample's present error than about curvature: a few samples outweigh
all others. Gradients of the log-probability of classes drawn from the prediction have the Fisher
information as their mean square by definition, whatever the error; they are the default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.fisher import MIN_CLASSES, fisher_loss
from edgec.export.quantize.replay.graph import Replay, as_tensors, tracked

Feed = Mapping[str, NDArray[Any]]


class Gradients:
    """A float graph and its quantized copy, run side by side on one sample after another."""

    def __init__(
        self, model: ir.Model, quantized: ir.Model, *, draws: int = 4, seed: int = 0
    ) -> None:
        """Prepare both.

        Args:
            model: float graph.
            quantized: what `edgec.export.quantize.insert.quantize` made of it.
            draws: classes drawn per sample; 0 takes the gradient of the divergence, as the paper.
            seed: of the draws.

        Raises:
            UnsupportedError: EC366, an operator has no replay.
        """
        self.replay = Replay(model)
        self.quantized = Replay(quantized)
        self.draws = draws
        self._generator = torch.Generator().manual_seed(seed)
        written = {name for step in self.quantized.steps for name in step.outputs}
        # a graph output that is quantized is renamed before its quantizer
        self._inner = {
            name: f"{name}_float" for name in self.replay.output_names if f"{name}_float" in written
        }

    def values(self, feed: Feed, names: Collection[str]) -> dict[str, Tensor]:
        """Values of the named tensors of the float graph, and its outputs."""
        with torch.no_grad():
            found: dict[str, Tensor] = self.replay(as_tensors(feed), watch=names)
        return found

    def squares(
        self, feed: Feed, outputs: Mapping[str, Tensor], names: Collection[str]
    ) -> dict[str, Tensor]:
        """Squared gradients at the named tensors, mean over the draws.

        Args:
            feed: the sample.
            outputs: what the float network makes of it.
            names: tensors of the float graph; zeros for those that no output depends on.
        """
        inner = {name: self._inner.get(name, name) for name in names}

        with torch.enable_grad():
            found = self.quantized(
                as_tensors(feed),
                watch=list(inner.values()),
                intercept=dict.fromkeys(inner.values(), tracked),
            )
            watched = [found[name] for name in inner.values()]
            squares = [torch.zeros_like(value) for value in watched]
            for draw in range(max(self.draws, 1)):
                last = draw + 1 >= self.draws
                gradients = torch.autograd.grad(
                    self._loss(outputs, found), watched, retain_graph=not last, allow_unused=True
                )
                for square, gradient in zip(squares, gradients, strict=True):
                    if gradient is not None:
                        square += gradient.square().detach() / max(self.draws, 1)
        return {name: square.detach() for name, square in zip(inner, squares, strict=True)}

    def _loss(self, outputs: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Tensor:
        names = self.replay.output_names
        if self.draws:
            losses = [fisher_loss(found[name], self._generator) for name in names]
        else:
            losses = [divergence(outputs[name], found[name]) for name in names]
        return torch.stack(losses).sum()


def divergence(reference: Tensor, output: Tensor) -> Tensor:
    """KL(softmax(reference) ‖ softmax(output)) summed over rows of logits.

    Outputs that are no logits (rank other than 2 or 3, or few classes) count half their squared
    distance, the divergence of Gaussians of unit variance.
    """
    if output.ndim in (2, 3) and output.shape[-1] >= MIN_CLASSES:
        p, q = reference.log_softmax(-1), output.log_softmax(-1)
        return F.kl_div(q, p, log_target=True, reduction="sum")
    return 0.5 * (output - reference).square().sum()
