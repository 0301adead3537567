"""A bridge block run again from one of its layers to its exits.

A layer inside a bridge block is judged by what its error does where the block ends, behind the
reshapes, norms and layers in between, so that errors that depend on each other are counted together
(Q-HyViT's hybrid reconstruction error). Only what lies downstream of the layer is executed again;
everything else it reads is kept from the float network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgec.export.quantize.bridges import Bridge
from edgec.export.quantize.replay.graph import Replay


@dataclass
class Segment:
    """The part of a bridge from one layer on.

    Attributes:
        layer: name of the layer's node.
        exits: tensors where the error is measured; not empty.
        needed: tensors that must be given with every image.
        images: per image, `needed` tensors and the float values and squared gradients at `exits`.
    """

    replay: Replay
    layer: str
    steps: tuple[int, ...]
    exits: tuple[str, ...]
    needed: tuple[str, ...]
    images: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]] = field(
        default_factory=list
    )

    @classmethod
    def of(cls, replay: Replay, bridge: Bridge, layer: str) -> Segment | None:
        """The segment; None if the layer itself writes the only exits that depend on it."""
        nodes = set(bridge.nodes)
        steps: list[int] = []
        written: set[str] = set()
        for i, step in enumerate(replay.steps):
            if step.name == layer or (step.name in nodes and written & set(step.inputs)):
                steps.append(i)
                written |= set(step.outputs)
        exits = tuple(name for name in bridge.exits if name in written)
        views = {replay.steps[i].name for i in steps} & set(bridge.views)
        if not exits or not views:
            return None
        constants = {*replay.weights, *replay.constants}
        read = dict.fromkeys(n for i in steps for n in replay.steps[i].inputs if n)
        needed = tuple(n for n in read if n not in written and n not in constants)
        return cls(replay, layer, tuple(steps), exits, needed)

    def keep(self, values: Mapping[str, Tensor], squares: Mapping[str, Tensor]) -> None:
        """Add an image."""
        self.images.append(
            (
                {name: values[name] for name in self.needed},
                {name: values[name] for name in self.exits},
                {name: squares[name] for name in self.exits},
            )
        )

    def error(
        self, replaced: Mapping[str, Tensor], quantize: Mapping[str, Sequence[float]]
    ) -> float:
        """Weighted squared error at the exits, summed over the images.

        Args:
            replaced: weights to use instead of the float ones, by name.
            quantize: tensors to round before the segment reads them → arguments of `rounded`.
        """
        total = 0.0
        for given, reference, importance in self.images:
            rounded_values = {
                name: rounded(value, *quantize[name]) if name in quantize else value
                for name, value in given.items()
            }
            found = self._run({**rounded_values, **replaced})
            total += sum(
                float(((found[e] - reference[e]).square() * importance[e]).sum())
                for e in self.exits
            )
        return total

    def _run(self, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        values: dict[str, Tensor] = {**self.replay.constants, **self.replay.weights, **given}
        with torch.no_grad():
            for i in self.steps:
                step = self.replay.steps[i]
                arguments = [values[name] if name else None for name in step.inputs]
                result = step.function(step.attributes, *arguments)
                results = result if isinstance(result, tuple) else (result,)
                values.update(zip(step.outputs, results, strict=False))
        return values


def rounded(values: Tensor, scale: float, low: float, high: float) -> Tensor:
    """Values on a grid: scale times the integers from `low` to `high`, zero among them."""
    return (values / scale).round_().clamp_(low, high).mul_(scale)


def segments(
    replay: Replay, bridges: Collection[Bridge], layers: Collection[str]
) -> dict[str, Segment]:
    """For every layer inside a bridge, before its views, the segment that judges it."""
    found: dict[str, Segment] = {}
    for bridge in bridges:
        for layer in bridge.layers:
            segment = Segment.of(replay, bridge, layer) if layer in layers else None
            if segment is not None:
                found.setdefault(layer, segment)
    return found
