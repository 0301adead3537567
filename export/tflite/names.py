"""Names of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgec.export.tflite.model import Model


def input_names(model: Model) -> list[str]:
    """One unique name per input of the main subgraph, the signature's or the tensor's."""
    named = [s.inputs for s in model.signatures if s.subgraph == 0]
    return _names(model, model.main.inputs, named, "input")


def output_names(model: Model) -> list[str]:
    """One unique name per output, the signature's or the tensor's; none is an input's."""
    named = [s.outputs for s in model.signatures if s.subgraph == 0]
    return _names(model, model.main.outputs, named, "output", input_names(model))


def _names(
    model: Model,
    indices: Sequence[int],
    signatures: Sequence[Mapping[str, int]],
    kind: str,
    taken: Iterable[str] = (),
) -> list[str]:
    known: dict[int, list[str]] = {}
    if len(signatures) == 1:  # with several, no one of them is the network's own
        for name, index in signatures[0].items():
            known.setdefault(index, []).append(name)
    found: list[str] = []
    seen = set(taken)
    numbers: dict[str, int] = {}
    for position, index in enumerate(indices):
        given = known.get(index)
        # a tensor that is an output twice has two names
        name = given.pop(0) if given else model.main.tensors[index].name or f"{kind}_{position}"
        base = name
        while name in seen:
            numbers[base] = numbers.get(base, 1) + 1
            name = f"{base}_{numbers[base]}"
        seen.add(name)
        found.append(name)
    return found
