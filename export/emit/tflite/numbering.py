"""The order of a file's tensors: as its operators meet them."""

from __future__ import annotations

from collections.abc import Iterator

from edgec.export.tflite.model import ABSENT, Model, Subgraph


def number_tensors(model: Model) -> None:
    """Number the tensors of a lowered model by first use; what nothing uses is dropped.

    Equal operators then make equal files, whichever way they came about.
    """
    subgraph = model.main
    number: dict[int, int] = {ABSENT: ABSENT}
    for index in _met(subgraph):
        number.setdefault(index, len(number) - 1)
    places = [index for index in number if index != ABSENT]
    subgraph.tensors = [subgraph.tensors[index] for index in places]
    subgraph.inputs = [number[index] for index in subgraph.inputs]
    subgraph.outputs = [number[index] for index in subgraph.outputs]
    for operator in subgraph.operators:
        operator.inputs = [number[index] for index in operator.inputs]
        operator.outputs = [number[index] for index in operator.outputs]
        operator.intermediates = [number[index] for index in operator.intermediates]
    for signature in model.signatures:
        signature.inputs = {name: number[index] for name, index in signature.inputs.items()}
        signature.outputs = {name: number[index] for name, index in signature.outputs.items()}


def _met(subgraph: Subgraph) -> Iterator[int]:
    yield from subgraph.inputs
    for operator in subgraph.operators:
        yield from operator.inputs
        yield from operator.intermediates
        yield from operator.outputs
    yield from subgraph.outputs
