"""What the end of a job on a device means for the user."""

from __future__ import annotations

from edgec.export.errors import (
    EdgecError,
    InputError,
    InterruptedByUser,
    MissingToolError,
    UnsupportedError,
)
from edgec.runtime.transports.machine import JobEnd

OUT_OF_MEMORY = 9
"""SIGKILL, which Linux sends to the largest process when memory runs out."""


def explain_failure(end: JobEnd, what: str, device: str) -> EdgecError:
    """An error from a device script's end: its exit codes are those of edgec.

    Args:
        end: not a success.
        what: the sentence that the error begins with.
        device: as the user named it.
    """
    lines = [line for line in end.log.splitlines() if line.strip()]
    reason, fix = "\n".join(lines[-12:]) or None, None
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        said = lines[starts[-1] :]
        fixes = [line.strip().removeprefix("fix: ") for line in said if "  fix: " in line]
        reason = "\n".join(li for li in said if "  fix: " not in li).removeprefix("error: ")
        fix = fixes[-1] if fixes else None
    if end.lost:
        return MissingToolError(
            "EC648",
            f"{what}: the device went down meanwhile",
            where=device,
            fix="look at its power supply, and run the same command again",
        )
    if end.signal == OUT_OF_MEMORY or end.exit == 128 + OUT_OF_MEMORY:
        return MissingToolError(
            "EC649",
            f"{what}: the device ended it, which it does when memory runs out",
            where=device,
            fix="close the desktop (sudo systemctl isolate multi-user.target) or add swap; when "
            "building an engine, lower workspace_bytes in tensorrt/recipe.json",
        )
    if end.exit == 130:
        return InterruptedByUser("EC130", f"{what}: interrupted on the device", where=device)
    if end.exit == 3:
        return UnsupportedError("EC389", what, where=device, why=reason, fix=fix)
    if end.exit == 7:
        return InputError("EC785", what, where=device, why=reason, fix=fix)
    return MissingToolError("EC648", what, where=device, why=reason, fix=fix)
