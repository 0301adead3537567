"""What the layers of a network read, layer after layer, while the layers before them are changed.

Every node runs once per sample: the values that are alive at a layer are kept, and the next layer
is computed from them. Where they need too much memory, the run starts where they last fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from edgec.export.quantize.graph import in_memory, input_specs
from edgec.export.quantize.stream import check_feed, no_samples, run_activations

Feed = Mapping[str, NDArray[Any]]


class Stepwise:
    """A walk through one graph.

    Args:
        model: from `edgec.export.quantize.graph.prepared_copy`, float32. Its constants may be
            replaced between calls, of nodes that the walk has not passed.
        feeds: samples; all are held.
        memory: bytes for values that are alive between two layers, over all samples.

    Raises:
        InputError: EC760 no samples, EC761 a sample does not fit.
    """

    def __init__(self, model: ir.Model, feeds: Iterable[Feed], *, memory: int = 1 << 29) -> None:
        self._model, self._memory = model, memory
        self._order = {str(node.name): number for number, node in enumerate(model.graph)}
        specs = input_specs(model)
        self._feeds: list[Feed] = [check_feed(f, specs, i) for i, f in enumerate(feeds)]
        if not self._feeds:
            raise no_samples()

    def input_of(self, layer: str) -> Iterator[NDArray[Any]]:
        """What a node reads first, sample by sample; to be read to the end.

        Args:
            layer: name of a node, not before that of the last call.

        Raises:
            UsageError: EC263, it is no float32 activation.
            InputError: EC763, the graph does not run.
        """
        place = self._order[layer]
        node = self._model.graph[place]
        assert node.inputs[0] is not None
        wanted = str(node.inputs[0].name)
        alive = self._alive(place)
        given = set(self._feeds[0])
        if wanted in given:  # other readers of it went before
            yield from (feed[wanted] for feed in self._feeds)
            return
        part = _between(self._model, given, [*(alive or ()), wanted])
        kept: list[dict[str, NDArray[Any]]] = [{} for _ in self._feeds]
        for number, values in run_activations(part, self._feeds, {wanted, *(alive or ())}):
            if alive is not None:
                kept[number] |= values
            if wanted in values:
                yield values[wanted]
        if alive is not None:
            self._feeds = list(kept)

    def _alive(self, place: int) -> list[str] | None:
        """Values that nodes from `place` on read and earlier ones write; None if too large."""
        graph = self._model.graph
        nodes = list(graph)
        later = set(nodes[place:])
        sources = [v for v in graph.inputs if v.name not in graph.initializers]
        sources += [v for node in nodes[:place] for v in node.outputs]
        found, size = [], 0
        for value in sources:
            if not any(use.node in later for use in value.uses()):
                continue
            if value.dtype != ir.DataType.FLOAT or value.shape is None:
                return None
            if not all(isinstance(d, int) for d in value.shape):
                return None
            size += 4 * prod(value.shape.numpy()) * len(self._feeds)
            found.append(str(value.name))
        return found if size <= self._memory else None


def _between(model: ir.Model, given: set[str], wanted: list[str]) -> ir.Model:
    """The nodes that compute `wanted` from `given`, which become its inputs."""
    copy = in_memory(model)
    nodes = list(copy.graph)
    values = {str(v.name): v for v in copy.graph.inputs}
    values |= {str(v.name): v for node in nodes for v in node.outputs}
    inputs = []
    for name in sorted(given):
        value = values[name]
        if value.producer() is None:
            inputs.append(value)
            continue
        made = ir.Value(name=name, type=value.type, shape=value.shape)
        value.name = f"{name}:before"
        value.replace_all_uses_with(made)
        values[name] = made
        inputs.append(made)
    copy.graph.inputs[:] = inputs
    copy.graph.outputs[:] = [values[n] for n in dict.fromkeys(wanted) if n not in given]
    common_passes.RemoveUnusedNodesPass()(copy)
    return copy
