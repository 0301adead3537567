"""How a quantized network does beside the float one on the same samples, and the file of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _ptq import Feed, Row, Scores, machine, runner, serialize, timed
from _ptq_networks import Network, table_order
from numpy.typing import NDArray

Inputs = Callable[[Feed], NDArray[np.float32]]


@dataclass(frozen=True)
class Reference:
    """The float network: its scores, and per sample the best class, or those of its time steps."""

    scores: Scores
    best: list[NDArray[np.int64]]


def only_input(feed: Feed) -> NDArray[np.float32]:
    """The array of a network's one input."""
    (value,) = feed.values()
    return value


def outputs(
    network: Network,
    data: bytes,
    numbers: NDArray[np.int64],
    *,
    emulated: bool = False,
    inputs: Inputs = only_input,
) -> tuple[list[bool], list[NDArray[np.int64]]]:
    """Per sample: right or wrong, and the best classes. `emulated` as in `runner`."""
    session = runner(data, emulated=emulated)
    name = session.get_inputs()[0].name
    right, best = [], []
    for number in numbers:
        output = session.run(None, {name: inputs(network.samples[number])})[0]
        right.append(network.correct(int(number), output))
        best.append(output.argmax(axis=-1))
    return right, best


def reference_of(network: Network, *, emulated: bool = False) -> Reference:
    """The float network on every sample."""
    data = serialize(network.model)
    right, best = outputs(network, data, np.arange(len(network.samples)), emulated=emulated)
    return Reference(Scores(np.array(right), 1.0, 0.0, 0, data), best)


def score(
    network: Network,
    make: Callable[[Sequence[Feed]], bytes],
    reference: Reference,
    *,
    most: int | None = None,
    emulated: bool = False,
    inputs: Inputs = only_input,
) -> Scores:
    """Quantize for every fold, by at most `most` of its calibration samples, and score it."""
    correct = np.zeros(len(network.samples), bool)
    agreed = steps = 0
    seconds, data, used = 0.0, b"", 0
    for fold in network.folds:
        feeds = fold.calibration[:most]
        used = len(feeds)
        data, seconds = timed(lambda: make(feeds))  # noqa: B023
        right, found = outputs(network, data, fold.scored, emulated=emulated, inputs=inputs)
        correct[fold.scored] = right
        for number, classes in zip(fold.scored, found, strict=True):
            agreed += int((classes == reference.best[number]).sum())
            steps += classes.size
    return Scores(correct, agreed / steps, seconds, used, data)


def merged(
    network: Network, rows: Sequence[Row], path: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts and records of the file, this machine's facts and the rows among them.

    Rows stand in place of those of the same network and name.
    """
    old = json.loads(path.read_text("utf-8")) if path.exists() else {"facts": {}, "rows": []}
    records = {(r["model"], r["name"]): r for r in old["rows"]}
    for measured in rows:
        records[network.label, measured.name] = {"model": network.label, **asdict(measured)}
    ordered = sorted(records.values(), key=lambda r: table_order(r["model"]))
    return {**old["facts"], **machine()}, ordered
