"""Power meters of Linux boards: what they show, tenth of a second by tenth of a second.

Intel's RAPL counts microjoules since some moment (/sys/class/powercap); the INA3221 of a Jetson
tells current and voltage of its rails, or their product where the kernel is older; the INA238 of a
Thor tells microwatts of what the whole module takes. What the numbers mean is worked out at home
(`edgec.runtime.energy`).
"""

# This file runs on boards with old Pythons: no syntax newer than 3.6, standard library only.
import glob
import os
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, Optional

INTERVAL = 0.1
IDLE_SECONDS = 1.0


def read(path: str) -> Optional[str]:
    """First line of a small file, None if it cannot be read."""
    try:
        with open(path) as stream:
            return stream.readline().strip("\0\n ")
    except (OSError, ValueError):
        return None


def power_mode() -> Optional[str]:
    """The name that nvpmodel gives to a Jetson's mode, e.g. 25W; None elsewhere."""
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if "Power Mode:" in line:
            return line.partition("Power Mode:")[2].strip()
    return None


def find_meters(sys: str = "/sys") -> List[Dict[str, Any]]:
    """All meters: ``kind`` (counter, power), ``factor``, ``path``, ``other``, ``name``.

    A counter shows microjoules up to ``factor``; power is ``path`` times ``other`` (1 if that is
    "-") times ``factor``, in microwatts.
    """
    found = []
    for zone in sorted(glob.glob(sys + "/class/powercap/intel-rapl:*")):
        most, name = read(zone + "/max_energy_range_uj"), read(zone + "/name")
        if os.path.basename(zone).count(":") == 1 and most and name:
            path = zone + "/energy_uj"
            found.append(("counter", int(most), path, "-", "RAPL " + name))
    for chip in sorted(glob.glob(sys + "/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")):
        for number in "123":
            current, name = chip + "/curr%s_input" % number, read(chip + "/in%s_label" % number)
            if name and os.path.exists(current):
                volts = chip + "/in%s_input" % number
                found.append(("power", 1, current, volts, "INA3221 " + name))
    for chip in sorted(glob.glob(sys + "/bus/i2c/drivers/ina3221x/*/iio:device*")):
        for number in "012":
            path, name = chip + "/in_power%s_input" % number, read(chip + "/rail_name_" + number)
            if name and os.path.exists(path):
                found.append(("power", 1000, path, "-", "INA3221 " + name))
    for power in sorted(glob.glob(sys + "/bus/i2c/drivers/ina238/*/hwmon/hwmon*/power1_input")):
        found.append(("power", 1, power, "-", "INA238 VIN"))
    return [dict(zip(("kind", "factor", "path", "other", "name"), row)) for row in found]


def watch(
    run: Callable[[], Any], seconds: float, sys: str = "/sys", idle: float = IDLE_SECONDS
) -> Dict[str, Any]:
    """Call `run` again and again for `seconds` while the meters are read.

    Returns:
        ``meters``; ``trace``, lines of meter, seconds, value, other value (None: not readable);
        ``idle``, when nothing ran; ``loop``, when `run` ran and how often. Without meters only
        ``meters``.
    """
    meters = find_meters(sys)
    if not meters:
        return {"meters": meters}
    trace = []  # type: List[List[Any]]
    ended = threading.Event()

    def sample() -> None:
        while True:
            for number, meter in enumerate(meters):
                shown = [
                    read(meter[key]) if meter[key] != "-" else "1" for key in ("path", "other")
                ]
                values = [int(s) if s and s.lstrip("-").isdigit() else None for s in shown]
                trace.append([number, time.monotonic(), *values])
            if ended.wait(INTERVAL):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    asleep = time.monotonic()
    time.sleep(idle)
    start = now = time.monotonic()
    count = 0
    while now < start + seconds:
        run()
        count += 1
        now = time.monotonic()
    time.sleep(2 * INTERVAL)  # the last readings belong to the loop
    ended.set()
    thread.join()
    return {"meters": meters, "trace": trace, "idle": [asleep, start], "loop": [start, now, count]}
