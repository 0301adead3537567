"""Joules per inference from what power meters showed while a network ran.

Readings come from `edgec.runtime.transports.device.meters`, here or on a device, or from
``device/shell.sh``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LOOP_SECONDS = 3
"""RAPL counts every millisecond and an INA3221 averages over tens of them: seconds are enough."""
SYSFS = "/sys"
TOTALS = {"INA3221 VDD_IN", "INA3221 POM_5V_IN", "INA238 VIN"}
"""Rails of Jetsons that feed the whole module, the others among them."""
PLATFORM = "RAPL psys"
"""More than the processor, on some machines and not on others: told, never summed up."""


def energy_fields(readings: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of energy.

    Args:
        readings: as `meters.watch` returns them.

    Returns:
        ``energy``: the meter's name, ``joules_per_inference``, ``watts`` and ``idle_watts`` of the
        whole and of each rail, over how many inferences; or ``no_energy``: why there is none.
    """
    meters = readings["meters"]
    if not meters:
        return {"no_energy": "no power meter (RAPL, INA3221, INA238)"}
    start, end, count = readings["loop"]
    rails = []
    for number, meter in enumerate(meters):
        rows = [row[1:] for row in readings["trace"] if row[0] == number and None not in row]
        if len(rows) < 3 or rows[0][0] > start or rows[-1][0] < end or count < 1:
            continue
        joules = _joules(meter, rows)
        spent = joules(start, end)
        asleep = readings["idle"]
        rails.append(
            {
                "name": meter["name"],
                "joules_per_inference": float(f"{spent / count:.4g}"),
                "watts": float(f"{spent / (end - start):.4g}"),
                "idle_watts": float(f"{joules(*asleep) / (asleep[1] - asleep[0]):.4g}"),
            }
        )
    if not rails:
        names = ", ".join(meter["name"] for meter in meters)
        return {"no_energy": f"{names}: not readable (RAPL often is for root only)"}
    whole = [rail for rail in rails if rail["name"] in TOTALS]
    parts = whole[:1] or [rail for rail in rails if rail["name"] != PLATFORM] or rails
    return {
        "energy": {
            "meter": parts[0]["name"] if len(parts) == 1 else "sum of " + _listed(parts),
            **{
                key: float(f"{sum(part[key] for part in parts):.4g}")
                for key in ("joules_per_inference", "watts", "idle_watts")
            },
            "inferences": count,
            "seconds": round(end - start, 3),
            "rails": rails,
        }
    }


def _listed(parts: list[dict[str, Any]]) -> str:
    return ", ".join(part["name"] for part in parts)


def _joules(meter: Mapping[str, Any], rows: list[list[float]]) -> Any:
    """The energy between two times, from readings of (seconds, value, other value)."""
    at = np.array([row[0] for row in rows])
    shown = np.array([row[1] * row[2] for row in rows], np.float64)
    if meter["kind"] == "counter":
        # a counter that is at its end begins again at zero
        laps = np.concatenate([[0], np.cumsum(np.diff(shown) < 0)])
        total = (shown + laps * (meter["factor"] + 1.0)) / 1e6
    else:
        watts = shown * meter["factor"] / 1e6
        steps = np.diff(at) * (watts[1:] + watts[:-1]) / 2
        total = np.concatenate([[0.0], np.cumsum(steps)])
    return lambda start, end: float(np.interp(end, at, total) - np.interp(start, at, total))
