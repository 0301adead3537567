"""``--device adb:`` and ``adb:SERIAL``: which Android device, and a shell on it."""

from __future__ import annotations

import re
import shutil
import subprocess

from edgec.export.errors import EdgecError, MissingToolError, UsageError
from edgec.runtime.transports.link import SILENCE_SECONDS, LinkLost
from edgec.runtime.transports.shell import COMMAND, Shell

ADB = "adb"
ROOT = "/data/local/tmp/edgec"
"""Where every user of adb may write and execute."""
LIST_SECONDS = 30.0
HOW_TO_GET = "apt-get install adb, or Android's platform tools"
UNTRUSTED = {
    "unauthorized": "unlock its screen and allow this computer (adb kill-server asks anew)",
    "authorizing": "unlock its screen and allow this computer",
    "no permissions": "add a udev rule (apt-get install android-sdk-platform-tools-common)",
}
"""What to do about states in which adb may not talk to a device."""


def open_android(
    uri: str, *, silence: float = SILENCE_SECONDS, wait: float = 2.0, seconds: float = LIST_SECONDS
) -> Shell:
    """A shell on the device that `uri` names, or on the only one there is.

    Args:
        uri: ``adb:`` or ``adb:SERIAL``.
        silence, wait: as of `Shell`.
        seconds: how long adb may take to list devices.

    Raises:
        UsageError: EC238, no serial number.
        MissingToolError: EC671 no adb, EC672 no such device, EC673 several, EC674 it does not trust
            this computer, EC675 it is not ready, EC677 adb hangs.
    """
    wanted = uri.partition(":")[2]
    if wanted and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:\[\]%-]*", wanted):
        raise UsageError("EC238", f"no serial number: {wanted!r}", fix="adb devices lists them")
    serial = _ready(wanted, _attached(seconds))
    argv = [ADB, "-s", serial, "shell", "-T", COMMAND]
    return Shell(f"adb:{serial}", argv, ROOT, silence=silence, wait=wait, explain=explain)


def _attached(seconds: float) -> dict[str, str]:
    """State by serial number."""
    if shutil.which(ADB) is None:
        raise MissingToolError("EC671", "adb is not installed", fix=HOW_TO_GET)
    try:
        listed = subprocess.run(
            [ADB, "devices"], capture_output=True, timeout=seconds, check=False, text=True,
            errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise MissingToolError(
            "EC677", f"adb does not answer within {seconds:.0f} s", fix="adb kill-server"
        ) from error
    except OSError as error:
        raise MissingToolError(
            "EC671", "adb cannot be started", why=str(error), fix=HOW_TO_GET
        ) from error
    head, _, rest = listed.stdout.partition("List of devices attached")
    if listed.returncode or not _:
        said = (listed.stderr.strip() or head.strip() or f"status {listed.returncode}").splitlines()
        raise MissingToolError(
            "EC671", "adb cannot list devices", why=said[-1], fix="adb kill-server; adb devices"
        )
    found = {}
    for line in rest.splitlines():
        serial, _, state = line.strip().partition("\t")
        if serial and state:
            found[serial] = state
    return found


def _ready(wanted: str, found: dict[str, str]) -> str:
    listed = ", ".join(f"{serial} ({state})" for serial, state in found.items()) or "none"
    if wanted and wanted not in found:
        raise MissingToolError(
            "EC672",
            f"no Android device {wanted}",
            why=f"attached: {listed}",
            fix="adb devices lists them; adb connect HOST:PORT for one on the network",
        )
    if not found:
        raise MissingToolError(
            "EC672",
            "no Android device is attached",
            fix="connect one and switch USB debugging on in its developer options",
        )
    usable = [wanted] if wanted else [s for s, state in found.items() if state == "device"]
    if len(usable) > 1:
        raise MissingToolError(
            "EC673",
            "several Android devices are attached",
            why=listed,
            fix=f"name one: --device adb:{usable[0]}",
        )
    serial = usable[0] if usable else next(iter(found))
    state = found[serial]
    for words, fix in UNTRUSTED.items():
        if state.startswith(words):
            raise MissingToolError(
                "EC674",
                f"the Android device {serial} does not trust this computer",
                why=state,
                fix=fix,
            )
    if state != "device":
        raise MissingToolError(
            "EC675",
            f"the Android device {serial} is not ready: {state}",
            why=listed,
            fix="start Android on it, or reconnect it (adb reconnect offline)",
        )
    return serial


def explain(loss: LinkLost, where: str, known: bool) -> EdgecError:
    """What adb's last words mean for the user."""
    last = loss.messages.splitlines()[-1] if loss.messages else f"status {loss.status}"
    lower = loss.messages.lower()
    if "unauthorized" in lower:
        return MissingToolError(
            "EC674", "the Android device does not trust this computer", where=where, why=last,
            fix=UNTRUSTED["unauthorized"],
        )  # fmt: skip
    if "nothing came for" in lower:
        return MissingToolError(
            "EC677", "the Android device does not answer", where=where, why=last,
            fix="unlock it, reconnect it, and run the same command again",
        )  # fmt: skip
    return MissingToolError(
        "EC676",
        "the Android device went away" if known else "no shell on the Android device",
        where=where,
        why=last,
        fix="check cable and battery, and run the same command again: what was sent is kept",
    )
