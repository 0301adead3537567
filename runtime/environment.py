"""The conditions of a measurement: what machine, what versions, what clocks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edgec.runtime.transports.device.meters import power_mode

SLOWED = 1.15
"""Drift of the samples from which the machine is said to have slowed down."""

FIRMWARE = "/sys/devices/platform/soc/soc:firmware/get_throttled"
"""What the Raspberry Pi's firmware tells, in hexadecimal digits."""
NOW, EVER = 0xF, 0xF0000
"""Its bits: low voltage, capped clock, throttled, hot; the same since it was started."""


def throttled(record: Mapping[str, Any]) -> bool:
    """Whether the machine slowed down during a measurement: its last samples are slower than the
    first ones, or the firmware of a Raspberry Pi says so.

    Args:
        record: of ``edgec bench``.
    """
    before, after = (
        _bits(record.get(f"environment_{when}", {}).get("throttled"))
        for when in ("before", "after")
    )
    told = (before | after) & NOW or after & ~before & EVER
    drifts = [result["latency"].get("drift", 1.0) for result in record["results"]]
    return bool(told) or max(drifts, default=1.0) > SLOWED


def _bits(text: str | None) -> int:
    try:
        return int(text or "0", 16)
    except ValueError:
        return 0


def environment() -> dict[str, Any]:
    """What is known about this machine right now; values that cannot be read are None."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_1min": round(os.getloadavg()[0], 2),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_khz": _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "temperatures_mc": _temperatures(),
        "power_mode": power_mode(),
        "throttled": _read(FIRMWARE),
        "edgec": _version("edgec"),
        "onnxruntime": _version("onnxruntime"),
        "litert": _version("ai-edge-litert"),
        "numpy": _version("numpy"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _temperatures() -> dict[str, int]:
    """Millidegrees Celsius by the name of the zone."""
    found = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _number(str(zone / "temp"))
        if value is not None:
            found[_read(str(zone / "type")) or zone.name] = value
    return found


def _cpu_name() -> str | None:
    text = _read("/proc/cpuinfo") or ""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError:
        return None


def _number(path: str) -> int | None:
    text = _read(path)
    return int(text) if text and text.lstrip("-").isdigit() else None
