"""A device that jobs can be sent to: ``local`` or ``ssh://user@host[:port][/folder]``.

`Device` hides broken links: it opens a new one, sends the rest of what is missing and follows the
job that went on meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from edgec.export.errors import InputError, InternalError, MissingToolError, UsageError
from edgec.export.files import sha256_file
from edgec.runtime.transports.link import (
    BOOTSTRAP,
    SILENCE_SECONDS,
    Link,
    LinkLost,
    Refusal,
    explain_loss,
)

PIECE = 1 << 20
TRIES = 5
"""Links in a row that may break without a byte of progress before edgec gives up."""

T = TypeVar("T")


@dataclass(frozen=True)
class JobEnd:
    """How a job on a device ended.

    Attributes:
        exit: exit status, None if a signal ended it or nobody knows.
        signal: number of the signal that ended it.
        lost: the device went down (or lost the process) before it could say how.
        log: what the job printed.
    """

    exit: int | None
    signal: int | None
    lost: bool
    log: str


def ssh_argv(user: str | None, host: str, port: int | None, command: str) -> list[str]:
    """The OpenSSH command that runs `command` there; nothing in it comes from a model or a bundle.

    ``EDGEC_SSH_CONFIG`` names another configuration file (identity, known hosts, jump host).
    Passwords are never asked for, and unknown or changed host keys never accepted.
    """
    argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    argv += ["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10"]
    argv += ["-o", "ServerAliveCountMax=3", "-o", "ClearAllForwardings=yes"]
    config = os.environ.get("EDGEC_SSH_CONFIG")
    if config:
        argv[1:1] = ["-F", config]
    if port is not None:
        argv += ["-p", str(port)]
    if user is not None:
        argv += ["-l", user]
    return [*argv, "--", host, command]


def open_device(uri: str, *, silence: float = SILENCE_SECONDS, wait: float = 2.0) -> Device:
    """The device behind ``--device``.

    Raises:
        UsageError: not a device that edgec can reach.
    """
    if uri == "local":
        argv = [sys.executable, "-u", "-c", BOOTSTRAP]
        return Device("local", argv, None, silence=silence, wait=wait)
    user, host, port, root = ssh_address(uri)
    argv = ssh_argv(user, host, port, shlex.join(["python3", "-u", "-c", BOOTSTRAP]))
    return Device(uri, argv, root, silence=silence, wait=wait)


def ssh_address(uri: str) -> tuple[str | None, str, int | None, str | None]:
    """User, host, port and folder of ``ssh://user@host[:port][/folder]``.

    Raises:
        UsageError: EC213, it is no such address.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise _no_device(uri, str(error)) from error
    if parts.scheme != "ssh" or not parts.hostname:
        raise _no_device(uri, "its kind is not known")
    if parts.password is not None:
        raise _no_device(uri.replace(f":{parts.password}@", ":…@"), "passwords do not belong here")
    user = unquote(parts.username) if parts.username else None
    host = parts.hostname
    if user is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*", user):
        raise _no_device(uri, f"{user!r} is no user name")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9a-fA-F:.]+(%[A-Za-z0-9]+)?", host):
        raise _no_device(uri, f"{host!r} is no host name")
    root = unquote(parts.path) if parts.path not in ("", "/") else None
    return user, host, port, root


def _no_device(uri: str, why: str) -> UsageError:
    return UsageError(
        "EC213",
        f"no way to reach device {uri!r}",
        why=why,
        fix="--device local or ssh://user@host[:port][/folder]; edgec bench also takes "
        "adb:, serial:///dev/TTY and qemu:BOARD",
    )


class Device:
    """Files and jobs on a machine, near or far; use it as a context manager.

    Attributes:
        name: as the user wrote it.
        facts: what the agent said about the machine (Python, architecture, free bytes).
    """

    def __init__(
        self, name: str, argv: Sequence[str], root: str | None, *, silence: float, wait: float
    ) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        self._argv = list(argv)
        self._root = root
        self._silence = silence
        self._wait = wait
        self._link: Link | None = None

    def __enter__(self) -> Device:
        self._connected()
        return self

    def __exit__(self, *exception: object) -> None:
        self._drop()

    def push(
        self,
        job: str,
        files: Mapping[str, Path],
        *,
        tick: Callable[[int, int], None] = lambda done, total: None,
    ) -> str:
        """Put files into a job's folder; what the device has already is not sent again.

        Args:
            job: SHA-256 that names the job.
            files: local file by path in the job's folder, with ``/`` between parts.
            tick: called with bytes that are there, and all bytes.

        Returns:
            The folder on the device.

        Raises:
            MissingToolError: no link, or the device's disk is full.
            InputError: a local file cannot be read.
        """
        try:
            sizes = {path: local.stat().st_size for path, local in files.items()}
            hashes = {path: sha256_file(local) for path, local in files.items()}
        except OSError as error:
            raise InputError("EC799", "a file to send cannot be read", why=str(error)) from error
        total, before = sum(sizes.values()), 0
        for path, local in files.items():
            done = partial(lambda at, done: tick(at + done, total), before)
            self._push_file(local, hashes[path], sizes[path], done)
            before += sizes[path]
        listed = [{"path": path, "sha256": digest} for path, digest in hashes.items()]
        folder = self._again(lambda link: link.ask("place", job=job, files=listed)[0]["folder"])
        return str(folder)

    def start(self, job: str, argv: Sequence[str]) -> bool:
        """Start a job in its folder unless it runs already; ``{python}`` is the device's Python.

        Returns:
            Whether it was running: then it is only followed.

        Raises:
            MissingToolError: EC651, another command of the job runs.
        """
        answer = self._again(lambda link: link.ask("start", job=job, argv=list(argv))[0])
        return bool(answer["attached"])

    def follow(self, job: str, on_text: Callable[[str], None] = lambda text: None) -> JobEnd:
        """Wait for a job's end, over as many links as it takes; `on_text` gets what it prints."""
        pieces: list[str] = []
        offset = 0

        def listen(link: Link) -> dict[str, Any]:
            nonlocal offset
            message, _ = link.ask("follow", job=job, offset=offset)
            while not message.get("done"):
                if "log" in message:
                    offset = message["offset"]
                    pieces.append(message["log"])
                    on_text(message["log"])
                    self._failures = 0
                message, _ = link.answer()
            return message

        end = self._again(listen)
        return JobEnd(end["exit"], end["signal"], bool(end.get("lost")), "".join(pieces))

    def run(
        self, job: str, argv: Sequence[str], on_text: Callable[[str], None] = lambda text: None
    ) -> JobEnd:
        """`start` and `follow`; Ctrl-C stops the job on the device too."""
        self.start(job, argv)
        try:
            return self.follow(job, on_text)
        except KeyboardInterrupt:
            self._drop()  # the agent listens to nobody while it follows
            with suppress(LinkLost, Refusal, MissingToolError):
                self._connected().ask("stop", job=job)
            raise

    def fetch(self, job: str, path: str, to: Path) -> bool:
        """Bring one file of a job home, whole and with the hash it had there, or not at all.

        Returns:
            Whether the job wrote it.
        """
        part = to.with_name(to.name + ".part")
        expected: dict[str, Any] = {}

        def receive(link: Link) -> bool:
            message, data = link.ask("fetch", job=job, path=path, offset=0)
            if message.get("missing"):
                return False
            if message["sha256"] != expected.get("sha256"):
                expected.update(message)
                part.write_bytes(data)
            with part.open("ab") as stream:
                while stream.tell() < expected["size"]:
                    offset = stream.tell()
                    message, data = link.ask("fetch", job=job, path=path, offset=offset)
                    if not data or message.get("missing"):
                        raise InternalError("EC146", f"{path} shrank on the device")
                    stream.write(data)
                    self._failures = 0
            return True

        try:
            if not self._again(receive):
                return False
            if sha256_file(part) != expected["sha256"]:
                raise InternalError("EC146", f"{path} arrived damaged from the device")
            os.replace(part, to)
        except OSError as error:
            raise MissingToolError(
                "EC682", "the file cannot be written here", where=str(to), why=str(error)
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return True

    def remove(self, job: str) -> None:
        """Delete a job's folder on the device."""
        self._again(lambda link: link.ask("remove", job=job)[0])

    def _push_file(self, local: Path, digest: str, size: int, tick: Callable[[int], None]) -> None:
        def send(link: Link) -> None:
            answer, _ = link.ask("have", sha256=digest)
            offset = min(answer.get("partial", 0), size)
            with local.open("rb") as stream:
                stream.seek(offset)
                while not answer["complete"]:
                    data = stream.read(PIECE)
                    answer, _ = link.ask("put", data, sha256=digest, size=size, offset=offset)
                    offset += len(data)
                    self._failures = 0
                    tick(offset)
            tick(size)

        self._again(send)

    def _again(self, action: Callable[[Link], T]) -> T:
        """Do `action`, over a new link as often as one breaks (`TRIES` in a row without use)."""
        self._failures = 0
        while True:
            try:
                return action(self._connected())
            except LinkLost as loss:
                self._drop()
                self._failures += 1
                if self._failures >= TRIES:
                    raise explain_loss(loss, self.name, known=True) from loss
                time.sleep(self._wait * self._failures)
            except Refusal as refusal:
                raise self._refused(refusal) from refusal
            except BaseException:
                self._drop()
                raise

    def _connected(self) -> Link:
        if self._link is None:
            try:
                link = Link(self._argv, silence=self._silence)
            except LinkLost as loss:
                error = explain_loss(loss, self.name, known=bool(self.facts))
                # a link that was refused will be refused again; one that fell asleep may wake up
                if not self.facts or error.code in ("EC641", "EC642", "EC643"):
                    raise error from loss
                raise
            try:
                self.facts, _ = link.ask("hello", root=self._root)
            except Refusal as refusal:
                link.close()
                raise self._refused(refusal) from refusal
            except LinkLost:
                link.close()
                raise
            self._link = link
        return self._link

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _refused(self, refusal: Refusal) -> MissingToolError | InternalError:
        if refusal.kind == "full":
            return disk_full(self.name, str(refusal))
        if refusal.kind == "busy":
            return MissingToolError(
                "EC651",
                "the device works on another job of this bundle",
                where=self.name,
                why=str(refusal),
                fix="wait for it, or follow it with the command that started it",
            )
        if refusal.kind in ("denied", "system"):
            return not_stored(self.name, str(refusal))
        return InternalError(
            "EC147", "the agent refused a request", where=self.name, why=str(refusal)
        )


def disk_full(device: str, why: str) -> MissingToolError:
    """EC646."""
    return MissingToolError(
        "EC646",
        "the device's disk is full",
        where=device,
        why=why,
        fix="free space there, or name another folder: ssh://user@host/path/with/space",
    )


def not_stored(device: str, why: str) -> MissingToolError:
    """EC647."""
    return MissingToolError(
        "EC647",
        "the device cannot store or run the job",
        where=device,
        why=why,
        fix="name a folder that the user may write: ssh://user@host/path",
    )


def job_name(*parts: str) -> str:
    """The name of a job: equal parts are the same job, which is then followed, not repeated."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
