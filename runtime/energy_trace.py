"""Power traces of a meter that edgec does not drive: a CSV file of Unix seconds and watts.

A Joulescope, a Power Profiler Kit or an LPM01A writes one with its own program while a board is
measured; its clock has to be that of this computer, where the meter is plugged in.
"""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.export.errors import InputError
from edgec.runtime.energy import energy_fields

COLUMNS = ("time", "watts")
EARLIEST = 1e9
"""Seconds since 1970 that no clock of today is below: smaller times are relative ones."""
WAIT_SECONDS = 10.0
"""How long a meter's program may take to write the last readings."""


@dataclass(frozen=True)
class Loop:
    """When a device was idle and when it ran inferences, in Unix seconds.

    Attributes:
        asleep, awake: between them the device did nothing.
        start, end: of the inferences.
        count: of inferences.
    """

    asleep: float
    awake: float
    start: float
    end: float
    count: int


def read_trace(path: Path) -> list[tuple[float, float]]:
    """Seconds and watts of each row, in order of time.

    Raises:
        InputError: EC779, no such file, other columns, a row that is no two numbers, times that go
            backwards or count from something else than 1970.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _rows(path, csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, str(error)) from error


def _rows(path: Path, reader: csv.DictReader[str]) -> list[tuple[float, float]]:
    names = tuple(reader.fieldnames or ())
    if not set(COLUMNS) <= set(names):
        raise _bad(path, f"its columns are {', '.join(names) or 'none'}")
    rows: list[tuple[float, float]] = []
    for row in reader:
        try:
            at, watts = (float(row[name]) for name in COLUMNS)
        except (TypeError, ValueError):
            # the line that the meter's program is about to write
            rest = list(itertools.islice(reader, 1))
            if not rest:
                break
            raise _bad(path, f"line {reader.line_num - 1} holds no two numbers") from None
        if not math.isfinite(at) or not math.isfinite(watts):
            raise _bad(path, f"line {reader.line_num} holds no two numbers")
        if at < EARLIEST:
            raise _bad(path, f"time {at:g} is no time since 1970")
        if rows and at < rows[-1][0]:
            raise _bad(path, f"line {reader.line_num} goes back in time")
        rows.append((at, watts))
    return rows


def _bad(path: Path, why: str) -> InputError:
    return InputError(
        "EC779",
        "the power trace cannot be read",
        where=str(path),
        why=why,
        fix="write a CSV file with columns time (seconds since 1970, as this computer's clock has "
        "them) and watts, in order of time",
    )


def energy_of_trace(path: Path, loop: Loop, *, wait: float = WAIT_SECONDS) -> Mapping[str, Any]:
    """``energy`` or ``no_energy`` of a record (`edgec.runtime.energy.energy_fields`).

    Args:
        path: that the meter's program writes to; waited for until it has the end of the loop.
        loop: what the device did.
        wait: seconds.

    Raises:
        InputError: EC779.
    """
    deadline = time.monotonic() + wait
    rows = read_trace(path)
    while (not rows or rows[-1][0] < loop.end) and time.monotonic() < deadline:
        time.sleep(0.1)
        rows = read_trace(path)
    if not rows or rows[-1][0] < loop.end or rows[0][0] > loop.asleep:
        seen = f"{rows[0][0]:.1f} to {rows[-1][0]:.1f}" if rows else "nothing"
        return {
            "no_energy": f"{path.name} has {seen}, the inferences ran from {loop.start:.1f} to "
            f"{loop.end:.1f} (Unix seconds): does the meter still record, by this computer's clock?"
        }
    inside = _around(rows, loop)
    readings = {
        "meters": [{"kind": "power", "factor": 1, "name": path.name}],
        "trace": [[0, at - loop.asleep, 1e6 * watts, 1] for at, watts in inside],
        "idle": [0.0, loop.awake - loop.asleep],
        "loop": [loop.start - loop.asleep, loop.end - loop.asleep, loop.count],
    }
    found = energy_fields(readings)
    if "energy" not in found:
        return {"no_energy": f"{path.name} has too few readings while the inferences ran"}
    return found


def _around(rows: Iterable[tuple[float, float]], loop: Loop) -> list[tuple[float, float]]:
    """Rows from the last before the idle time to the first after the loop."""
    kept: list[tuple[float, float]] = []
    for row in rows:
        if row[0] <= loop.asleep:
            kept = [row]
            continue
        kept.append(row)
        if row[0] >= loop.end:
            break
    return kept
