"""Backbones: zoo networks that return their stage outputs instead of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from edgec.models.stages import Stage

PREFIX = "backbone."
"""What `Backbone` puts in front of the module paths of the network it holds."""

NOTE = "the classifier's weights were read and left out: the outputs are feature maps"


@runtime_checkable
class Staged(Protocol):
    """A network that hands out the output of every stage, as all families of the zoo do."""

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Maps (N, C, H / stride, W / stride) in the order of the network.

        A stage is computed when its map is asked for, so that nothing behind the last one that is
        needed runs (or is captured).
        """
        ...


class Backbone(nn.Module):
    """Runs a network up to the last of the chosen stages.

    Args:
        network: with its weights, of which those of the classifier stay unused.
        stages: some of its stages, in the order of the network.
    """

    def __init__(self, network: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        if not isinstance(network, Staged):
            raise TypeError(f"a {type(network).__name__} has no stage_maps")
        self.backbone = network
        self.names = {stage.number: stage.name for stage in stages}
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of the chosen stages by name, of images (N, 3, H, W)."""
        assert isinstance(self.backbone, Staged)
        last = max(self.names)
        found: dict[str, Tensor] = {}
        for number, y in enumerate(self.backbone.stage_maps(x), 1):
            if number in self.names:
                found[self.names[number]] = y
            if number == last:
                break
        return found
