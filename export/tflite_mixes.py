"""Which mix of precisions of a network is fastest in LiteRT here, and what keeps int8 from it.

Every file is timed in turn with the others in one process; ratios are medians over rounds. The
times are this machine's: a phone may order the mixes otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from edgec.export.emit.tflite.flavour import Flavour
from edgec.export.emit.tflite.lower import Lowered
from edgec.export.emit.tflite.write import convert
from edgec.export.golden import Feeds
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.tflite.model import ABSENT, Model, Subgraph
from edgec.targets.operators.table import OperatorTable

ENOUGH = 0.75
"""Time of int8 over that of float32 from which on the report says what holds it up."""
ROUNDS = (30, 200)
"""Fewest and most samples of each mix; in between as many as fit `SECONDS`."""
SECONDS = 4.0
TIE = 0.03
"""Ratios that differ by less say nothing."""
WARMUP = 3
_OPERATOR_RUNS = 5
_LEAST_SHARE = 0.02
_NAMED = 5
_MOVING = frozenset({"QUANTIZE", "DEQUANTIZE"})
_LINEAR = ("MatMul", "Gemm")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Mix:
    """One way to divide a network between float and integers.

    Attributes:
        keep_float: what ``--keep-float`` gives it; empty for the plain files.
    """

    name: str
    content: bytes
    lowered: Lowered
    keep_float: tuple[str, ...] = ()


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

    def mix(self, name: str, keep: Sequence[str]) -> Mix:
        """The int8 file with operators of `keep` in float; weights are rounded to nearest, since
        their values do not change the time."""
        exclude = tuple(dict.fromkeys((*self.keep_float, *keep)))
        graph = quantize(self.master, self.calibration, self.scheme, exclude=exclude)
        file = convert(graph, precision="int8", flavour=self.flavour, table=self.table)
        return Mix(name, file.content, file.lowered, tuple(keep))


def time_mixes(
    plain: Sequence[Mix],
    ground: Ground,
    feed: Feeds,
    *,
    threads: int = 1,
    rounds: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Time the plain files and mixes between them.

    Args:
        plain: files that are there, ``fp32`` and ``int8`` among them.
        ground: for the other mixes.
        feed: inputs of the ONNX master.
        rounds: samples of each; by default as `ROUNDS` says.

    Returns:
        JSON-ready: ``ratios`` by mix over fp32, ``fastest`` with its ``keep_float`` and mixes that
        are not measurably slower (``tied``), and, if int8 takes more than `ENOUGH` of fp32's time,
        ``held_up_by``.
    """
    files = {mix.name: mix for mix in plain}
    times = {name: operator_seconds(files[name].lowered, threads) for name in ("fp32", "int8")}
    mixes = list(plain)
    for name, keep in _splits(ground, files, times).items():
        mix = ground.mix(name, keep)
        if all(mix.content != other.content for other in mixes):
            mixes.append(mix)
    samples = _timed(mixes, feed, threads, rounds, tick)
    base = samples["fp32"]
    ratios = {
        mix.name: round(
            statistics.median(a / b for a, b in zip(samples[mix.name], base, strict=True)), 3
        )
        for mix in mixes
    }
    fastest = min(mixes, key=lambda mix: ratios[mix.name])
    found: dict[str, Any] = {
        "threads": threads,
        "rounds": len(base),
        "fp32_ms": round(statistics.median(base), 3),
        "ratios": ratios,
        "fastest": fastest.name,
        "keep_float": list(fastest.keep_float),
        "tied": [
            name
            for name, ratio in ratios.items()
            if name != fastest.name and ratio < ratios[fastest.name] + TIE
        ],
    }
    if ratios["int8"] > ENOUGH:
        found["held_up_by"] = held_up(
            files["int8"].lowered, times["int8"], files["fp32"].lowered, times["fp32"]
        )
    return found


def _splits(
    ground: Ground, files: Mapping[str, Mix], times: Mapping[str, Sequence[float]]
) -> dict[str, tuple[str, ...]]:
    """Name → what stays float: linear layers, convolutions, modules that int8 makes slower."""
    kinds = {str(node.op_type) for node in ground.master.graph}
    wanted = {
        "int8 convolutions": tuple(op for op in _LINEAR if op in kinds),
        "int8 linear layers": tuple(op for op in _CONVOLUTIONS if op in kinds),
        "int8 where it is faster": slower_modules(
            files["int8"].lowered, times["int8"], files["fp32"].lowered, times["fp32"]
        ),
    }
    return {name: keep for name, keep in wanted.items() if keep}


def slower_modules(
    integer: Lowered, seconds: Sequence[float], floating: Lowered, float_seconds: Sequence[float]
) -> tuple[str, ...]:
    """Modules whose operators take longer in the integer file, conversions included, in order."""
    totals: dict[str, float] = {}
    for sign, lowered, times in ((1, integer, seconds), (-1, floating, float_seconds)):
        for module, time in zip(lowered.modules, times, strict=True):
            if module:
                totals[module] = totals.get(module, 0.0) + sign * time
    known = {module for module in floating.modules if module}
    return tuple(module for module, total in totals.items() if total > 0 and module in known)


def held_up(
    integer: Lowered, seconds: Sequence[float], floating: Lowered, float_seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """What takes the time of an integer file that integers do not save, the largest share first.

    Conversions, operators in float, and integer operators that take more than `ENOUGH` of what the
    float file's operators of that name take; each with its share of the time of all operators,
    timed alone.
    """
    total = sum(seconds) or 1.0
    spent: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], str] = {}
    for op, module, time in zip(
        integer.model.main.operators, integer.modules, seconds, strict=True
    ):
        key = _kind(integer.model.main, op.code, op.outputs[0]), op.code
        key = ("conversions", "") if op.code in _MOVING else key
        spent[key] = spent.get(key, 0.0) + time
        first.setdefault(key, module or "")
    before: dict[str, float] = {}
    for op, time in zip(floating.model.main.operators, float_seconds, strict=True):
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


def _kind(graph: Subgraph, code: str, output: int) -> str:
    return "float" if graph.tensors[output].dtype == "FLOAT32" else "int8"


def operator_seconds(lowered: Lowered, threads: int) -> list[float]:
    """Seconds of every operator in a model of its own, with XNNPACK where it takes it.

    Alone, an operator finds its inputs in the cache and loses what a delegate gains by fusing
    neighbours: the times compare operators, their sum is no latency.
    """
    from edgec.runtime.litert_runner import LiteRTRunner

    found = []
    for position in range(len(lowered.model.main.operators)):
        runner = LiteRTRunner(_alone(lowered.model.main, position), threads=threads)
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
    tick: Callable[[int, int], None],
) -> dict[str, list[float]]:
    """Milliseconds per mix; sample i of all of them is from the same round."""
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    runners = {mix.name: TfliteArtifactRunner(mix.content, threads=threads) for mix in mixes}
    once = 0.0
    for runner in runners.values():
        runner.run(feed)
        once += min(runner.runner.seconds(WARMUP))
    if rounds is None:
        rounds = int(min(max(SECONDS / once, ROUNDS[0]), ROUNDS[1]))
    samples: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:  # none always comes first
            samples[name].append(runners[name].runner.seconds(1)[0] * 1e3)
        tick(number + 1, rounds)
    return samples
