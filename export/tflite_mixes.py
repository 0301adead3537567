"""Which mix of precisions of a network is fastest in LiteRT here, and what keeps int8 from it.

Every file is timed in turn with the others in one process; ratios are medians over rounds. The
times are this machine's: a phone may order the mixes otherwise.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.export.emit.tflite.flavour import Flavour
from edgec.export.emit.tflite.lower import Lowered
from edgec.export.emit.tflite.write import convert
from edgec.export.golden import Feeds
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.tflite.model import ABSENT, Model, Subgraph
from edgec.export.tflite_cut import ALL_INTEGER, MOVING, Split, Timed, fastest_split
from edgec.runtime.environment import environment
from edgec.runtime.litert_profile import NotProfiled, milliseconds
from edgec.targets.operators.table import OperatorTable

ENOUGH = 0.75
"""Time of int8 over that of float32 from which on the report says what holds it up."""
ROUNDS = (8, 200)
"""Fewest and most samples of each mix; in between as many as fit `SECONDS`."""
SECONDS = 4.0
FIRST_SECONDS = 1.0
"""For the look at int8 that decides whether there is anything to find."""
TIE = 0.03
"""Ratios that differ by less say nothing."""
WARMUP = 3
_PROFILES = 2
_PROFILED = (5, 30)
"""Fewest and most inferences of a profile; in between as many as fit `FIRST_SECONDS`."""
_OPERATOR_RUNS = 5
_LEAST_SHARE = 0.02
_NAMED = 5
_LINEAR = ("MatMul", "Gemm")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Mix:
    """One way to divide a network between float and integers.

    Attributes:
        split: what of an int8 network stays float; None for the plain files.
    """

    name: str
    content: bytes
    lowered: Lowered
    split: Split | None = None


@dataclass(frozen=True)
class Ground:
    """What mixes are made from.

    Attributes:
        master: the prepared float graph.
        calibration: of its activations.
        table: builtins of the runtime.
        keep_float: what stays float in all of them.
    """

    master: ir.Model
    calibration: Calibration
    scheme: QuantScheme
    flavour: Flavour
    table: OperatorTable | None = None
    keep_float: tuple[str, ...] = ()

    def mix(self, name: str, split: Split = ALL_INTEGER) -> Mix:
        """The int8 file with what `split` keeps in float; weights are rounded to nearest, since
        their values do not change the time."""
        exclude = tuple(dict.fromkeys((*self.keep_float, *split.keep_float)))
        scheme = split.rules(self.scheme)
        graph = quantize(self.master, self.calibration, scheme, exclude=exclude)
        file = convert(graph, precision="int8", flavour=self.flavour, table=self.table)
        return Mix(name, file.content, file.lowered, None if split == ALL_INTEGER else split)


@dataclass(frozen=True)
class MixTimes:
    """What was measured.

    Attributes:
        found: JSON-ready: ``ratios`` by mix over fp32, ``bytes``, ``fastest`` and the mixes that
            are not measurably slower (``tied``); if int8 takes more than `ENOUGH` of fp32's time,
            ``held_up_by``; the name of `best`, what it keeps in float (``keep_float``) and on
            integers all the same (``eager``).
        best: name and division of the fastest mix, if it is measurably faster than the int8 file.
    """

    found: dict[str, Any]
    best: tuple[str, Split] | None


def time_mixes(
    plain: Sequence[Mix],
    ground: Ground,
    feed: Feeds,
    *,
    threads: int = 1,
    rounds: int | None = None,
) -> MixTimes:
    """Time the plain files and, unless int8 is fast, mixes between them.

    Args:
        plain: files that are there, ``fp32`` and ``int8`` among them.
        ground: for the other mixes.
        feed: inputs of the ONNX master.
        rounds: samples of each; by default as `ROUNDS` says.

    Raises:
        UnsupportedError: a mix cannot be written, or LiteRT refuses it.
    """
    mixes = list(plain)
    floating, integer = (next(m for m in plain if m.name == name) for name in ("fp32", "int8"))
    first = _timed([floating, integer], feed, threads, rounds, FIRST_SECONDS)
    held = None
    if _ratios(first)["int8"] > ENOUGH:
        once = statistics.median(first["fp32"]) / 1e3
        runs = int(np.clip(FIRST_SECONDS / once, *_PROFILED))
        timed = _operators_timed((floating, integer), feed, threads, runs)
        held = held_up(timed[1], timed[0])
        for name, split in _splits(ground, *timed).items():
            mix = ground.mix(name, split)
            if all(mix.content != other.content for other in mixes):
                mixes.append(mix)
    samples = _timed(mixes, feed, threads, rounds, SECONDS)
    ratios = _ratios(samples)
    fastest = min(mixes, key=lambda mix: ratios[mix.name])
    found: dict[str, Any] = {
        "cpu": environment()["cpu"] or platform.machine(),
        "threads": threads,
        "rounds": len(samples["fp32"]),
        "fp32_ms": round(statistics.median(samples["fp32"]), 3),
        "ratios": ratios,
        "bytes": {mix.name: len(mix.content) for mix in mixes},
        "fastest": fastest.name,
        "tied": [
            name
            for name, ratio in ratios.items()
            if name != fastest.name and ratio < ratios[fastest.name] + TIE
        ],
    }
    if held is not None and ratios["int8"] > ENOUGH:
        found["held_up_by"] = held
    divided = {mix.name: mix.split for mix in mixes if mix.split is not None}
    name = min(divided, key=ratios.__getitem__, default="")
    if not name or ratios[name] > ratios["int8"] - TIE:
        return MixTimes(found, None)
    split = divided[name]
    found |= {"best": name, "keep_float": list(split.keep_float), "eager": list(split.eager)}
    return MixTimes(found, (name, split))


def _ratios(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {
        name: round(
            statistics.median(a / b for a, b in zip(times, samples["fp32"], strict=True)), 3
        )
        for name, times in samples.items()
    }


def _splits(ground: Ground, floating: Timed, integer: Timed) -> dict[str, Split]:
    """Integer convolutions, integer linear layers, and what the operators' times say."""
    kinds = {str(node.op_type) for node in ground.master.graph}
    wanted = {
        "int8 convolutions": Split(tuple(op for op in _LINEAR if op in kinds)),
        "int8 linear layers": Split(tuple(op for op in _CONVOLUTIONS if op in kinds)),
        "int8 where it is faster": fastest_split(
            ground.master, floating, integer, ground.scheme.opportunistic
        ),
    }
    return {name: split for name, split in wanted.items() if split.keep_float}


def held_up(integer: Timed, floating: Timed) -> list[dict[str, Any]]:
    """What takes the time of an integer file that integers do not save, the largest share first.

    Conversions, operators in float, and integer operators that take more than `ENOUGH` of what the
    float file's operators of that name take; each with its share of the time of all operators.
    """
    lowered, seconds = integer.lowered, integer.seconds
    total = sum(seconds) or 1.0
    spent: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], str] = {}
    for op, module, time in zip(
        lowered.model.main.operators, lowered.modules, seconds, strict=True
    ):
        key = _kind(lowered.model.main, op.outputs[0]), op.code
        key = ("conversions", "") if op.code in MOVING else key
        spent[key] = spent.get(key, 0.0) + time
        first.setdefault(key, module or "")
    before: dict[str, float] = {}
    for op, time in zip(floating.lowered.model.main.operators, floating.seconds, strict=True):
        before[op.code] = before.get(op.code, 0.0) + time
    found = []
    for (kind, code), time in sorted(spent.items(), key=lambda item: (-item[1], item[0])):
        once = before.get(code, 0.0)
        ratio = time / once if once else None
        if kind == "int8" and (ratio is None or ratio <= ENOUGH):
            continue
        if time / total >= _LEAST_SHARE:
            found.append(
                {
                    "what": f"{kind} {code}".strip(),
                    "share": round(time / total, 3),
                    "over_fp32": None if ratio is None else round(ratio, 2),
                    "first": first[kind, code],
                }
            )
    return found[:_NAMED]


def _kind(graph: Subgraph, output: int) -> str:
    return "float" if graph.tensors[output].dtype == "FLOAT32" else "int8"


def _operators_timed(
    mixes: Sequence[Mix], feed: Feeds, threads: int, inferences: int
) -> list[Timed]:
    """Seconds of every operator inside its network, as LiteRT's profiler tells them, or alone
    where it does not."""
    found: list[list[list[float]]] = [[] for _ in mixes]
    try:
        for _ in range(_PROFILES):  # in turn, so that a slow moment of the machine favours none
            for mix, runs in zip(mixes, found, strict=True):
                times = milliseconds(mix.content, feed, runs=inferences, threads=threads)
                runs.append([time / 1e3 for time in times])
    except NotProfiled:
        return [Timed(mix.lowered, seconds_alone(mix.lowered, threads)) for mix in mixes]
    return [
        Timed(mix.lowered, [min(times) for times in zip(*runs, strict=True)])
        for mix, runs in zip(mixes, found, strict=True)
    ]


def seconds_alone(lowered: Lowered, threads: int) -> list[float]:
    """Seconds of every operator in a model of its own, with XNNPACK where it takes it.

    Alone, an operator finds its inputs in the cache and loses what a delegate gains by fusing
    neighbours: the times compare operators, their sum is no latency.
    """
    from edgec.runtime.litert_runner import LiteRTRunner

    found = []
    main = lowered.model.main
    for position, op in enumerate(main.operators):
        if all(i == ABSENT or main.tensors[i].data is not None for i in op.inputs):
            found.append(0.0)  # computed once, when the file is loaded
            continue
        runner = LiteRTRunner(_alone(main, position), threads=threads)
        runner.seconds(2)
        found.append(min(runner.seconds(_OPERATOR_RUNS)))
    return found


def _alone(graph: Subgraph, position: int) -> Model:
    """A model of one operator; what others compute becomes its inputs."""
    operator = graph.operators[position]
    read = [i for i in dict.fromkeys(operator.inputs) if i != ABSENT]
    used = [*read, *operator.outputs]
    place = {index: number for number, index in enumerate(used)} | {ABSENT: ABSENT}
    alone = replace(
        operator,
        inputs=[place[i] for i in operator.inputs],
        outputs=[place[i] for i in operator.outputs],
    )
    inputs = [place[i] for i in read if graph.tensors[i].data is None]
    tensors = [graph.tensors[i] for i in used]
    return Model([Subgraph(tensors, inputs, list(alone.outputs), [alone], "main")])


def _timed(
    mixes: Sequence[Mix],
    feed: Feeds,
    threads: int,
    rounds: int | None,
    seconds: float,
) -> dict[str, list[float]]:
    """Milliseconds per mix; sample i of all of them is from the same round."""
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    runners = {mix.name: TfliteArtifactRunner(mix.content, threads=threads) for mix in mixes}
    once = 0.0
    for runner in runners.values():
        runner.run(feed)
        once += min(runner.runner.seconds(WARMUP))
    if rounds is None:
        rounds = int(np.clip(seconds / once, *ROUNDS))
    samples: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:  # none always comes first
            samples[name].append(runners[name].runner.seconds(1)[0] * 1e3)
    return samples
