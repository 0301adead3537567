"""What LiteRT's ``benchmark_model`` says: timings on its log, operators in a CSV file.

Its documentation: tflite/tools/benchmark/README.md of google-ai-edge/LiteRT. Of the single runs it
tells statistics only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_STATISTICS = re.compile(r"\bcount=(\d+) (.*)$")
_PAIR = re.compile(r"\b(first|curr|min|max|avg|std|p5|median|p95)=([-+0-9.eE]+)")
_PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([0-9.]+)")
_INIT = re.compile(r"Inference timings in us: Init: ([-+0-9.eE]+),")
_ROW_END = re.compile(
    r"^(?P<type>.*), (?P<first>[-+0-9.e]+), (?P<avg>[-+0-9.e]+), [-+0-9.einfa]+%, "
    r"[-+0-9.einfa]+%, [-+0-9.e]+, (?P<times>\d+), (?P<name>.*)$"
)
_REGULAR = "Regular Benchmark Runs"
_RUN_ORDER = "= Run Order ="
_INITIAL = {"ModifyGraphWithDelegate", "AllocateTensors"}


@dataclass(frozen=True)
class Window:
    """Statistics of one series of runs, in milliseconds.

    Attributes:
        count: runs.
        median, p95: None where the tool is of before 2024 and does not tell.
    """

    count: int
    min: float
    max: float
    mean: float
    std: float
    median: float | None = None
    p95: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Milliseconds, as the tool rounds them."""
        names = ("min", "max", "mean", "std", "median", "p95")
        told = {f"{name}_ms": getattr(self, name) for name in names}
        return {"count": self.count, **{k: round(v, 4) for k, v in told.items() if v is not None}}


def parse_window(log: str) -> Window:
    """The timed series of a log: the last of its statistics, as warm-up comes before.

    Raises:
        ValueError: there is none.
    """
    lines = [line for line in log.splitlines() if not line.lstrip().startswith("Timings")]
    found = [match for line in lines if (match := _STATISTICS.search(line))]
    if len(found) < 2:
        raise ValueError("no timings of a warm-up and of runs")
    count, rest = int(found[-1][1]), found[-1][2]
    told = {name: float(value) / 1e3 for name, value in _PAIR.findall(rest)}
    if count < 1 or not told:
        raise ValueError(f"no timings: {found[-1][0][:80]}")
    # a single run, and runs that took all the same time, are told by their last one only
    same = told.get("curr", told.get("avg"))
    if same is None or not all(0 <= value < 1e9 for value in told.values()):
        raise ValueError(f"timings make no sense: {found[-1][0][:80]}")
    return Window(
        count,
        told.get("min", same),
        told.get("max", same),
        told.get("avg", same),
        told.get("std", 0.0),
        told.get("median"),
        told.get("p95"),
    )


def summarize(windows: Sequence[Window]) -> dict[str, Any]:
    """The ``latency`` of a record from several series.

    ``drift`` is that of the series' means. Where the tool tells no medians, ``median_ms`` is that
    of the means; ``statistics`` says which.
    """
    medians = [w.mean if w.median is None else w.median for w in windows]
    exact = all(w.median is not None for w in windows)
    middle = sorted(medians)[len(medians) // 2]
    tails = [w.p95 for w in windows if w.p95 is not None]
    return {
        "min_ms": round(min(w.min for w in windows), 4),
        "median_ms": round(middle, 4),
        "p90_ms": None,
        "p95_ms": round(max(tails), 4) if tails else None,
        "max_ms": round(max(w.max for w in windows), 4),
        "drift": round(windows[-1].mean / max(windows[0].mean, 1e-9), 3),
        "runs": sum(w.count for w in windows),
        "samples_ms": None,
        "statistics": f"benchmark_model, median of {len(windows)} "
        + ("medians" if exact else "means"),
        "windows": [w.to_json() for w in windows],
    }


def peak_bytes(log: str) -> int | None:
    """Peak memory of a run with ``--report_peak_memory_footprint``."""
    found = _PEAK.search(log)
    return None if found is None else int(float(found[1]) * (1 << 20))


def init_ms(log: str) -> float | None:
    """Milliseconds until the model could run."""
    found = _INIT.search(log)
    return None if found is None else round(float(found[1]) / 1e3, 4)


def parse_operators(csv: str) -> list[dict[str, Any]]:
    """Rows of ``name``, ``operator`` and ``ms`` (mean of an inference), in order of execution.

    Types such as ``Convolution (NHWC, QC8) GEMM`` hold commas themselves, names hold tabs instead.

    Raises:
        ValueError: no table of operators.
    """
    lines = csv.splitlines()
    start = max((i for i, line in enumerate(lines) if _REGULAR in line), default=-1) + 1
    rows: list[dict[str, Any]] = []
    inside = False
    for line in lines[start:]:
        ends = line.startswith("===")
        if rows and (ends or not line.strip()):
            break
        inside = _RUN_ORDER in line if ends else inside
        found = _ROW_END.match(line) if inside else None
        if found is not None and found["type"] not in _INITIAL:
            times = max(int(found["times"]), 1)
            name = found["name"].replace("\t", ",")
            operator = re.sub(r", [-+0-9.e]+$", "", found["type"])  # older: a column for the start
            rows.append(
                {"name": name, "operator": operator, "ms": round(float(found["avg"]), 5)}
                | ({"calls": times} if times > 1 else {})
            )
    if not rows:
        raise ValueError("no table of operators")
    return rows
