"""Files that go to a device with a shell together, kept there by the hash of what they hold."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from edgec.export.errors import MissingToolError
from edgec.runtime.transports.shell import Shell, ShellRefusal

SUMS = "SHA256SUMS"
PROGRAMS = {"bench", "benchmark_model"}
"""Files that may be executed."""


@dataclass(frozen=True)
class Package:
    """Files that go to a device together.

    Attributes:
        name: SHA-256 of what is in it.
    """

    name: str
    archive: bytes

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Package:
        """An archive of `files` by path, with a list of their hashes for ``sha256sum -c``."""
        sums = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())
        ).encode()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for path, data in sorted({**files, SUMS: sums}.items()):
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                entry.mode = 0o755 if path in PROGRAMS else 0o644
                archive.addfile(entry, io.BytesIO(data))
        return cls(hashlib.sha256(sums).hexdigest(), stream.getvalue())


def send_package(shell: Shell, package: Package) -> None:
    """Put the files of `package` on the device, unless they are there, whole.

    Raises:
        MissingToolError: no link, no room, or what arrived is damaged (EC648).
    """
    if shell.ask("have", package.name) == ["yes"]:
        return
    try:
        shell.ask("put", package.name, payload=package.archive)
    except ShellRefusal as refusal:
        raise MissingToolError(
            "EC648",
            "the files did not reach the device",
            where=shell.name,
            why=str(refusal),
            fix="try again",
        ) from refusal
