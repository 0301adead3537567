"""A link to a device that has a shell and no more: one process for each request (ssh, adb).

The command line is constant; the program (``device/shell.sh``) and its words travel through stdin.
A request that a broken link cut off is made again: each may be repeated, and a measurement that
runs already is followed, not started twice.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from typing import IO

from edgec.export.errors import EdgecError, InternalError, MissingToolError, UsageError
from edgec.runtime.transports.link import (
    MOST_BANNER_BYTES,
    SILENCE_SECONDS,
    LinkLost,
    explain_loss,
)
from edgec.runtime.transports.machine import (
    TRIES,
    disk_full,
    not_stored,
    ssh_address,
    ssh_argv,
)

BOOTSTRAP = (
    'n=$(printf "\\nx"); n=${n%x}; p=; while IFS= read -r l; do [ "$l" = edgec-go ] && break; '
    'p=$p$l$n; done; eval "$p"'
)
"""sh that reads its program from stdin, up to a line ``edgec-go``."""
COMMAND = shlex.join(["sh", "-c", BOOTSTRAP])
BEGIN, ALIVE, END, FAILED = "edgec begin", "edgec alive", "edgec end", "edgec failed "


def open_shell(uri: str, *, silence: float = SILENCE_SECONDS, wait: float = 2.0) -> Shell:
    """A shell on the machine behind ``ssh://user@host[:port][/folder]``.

    Raises:
        UsageError: EC213, no such address.
    """
    user, host, port, root = ssh_address(uri)
    return Shell(uri, ssh_argv(user, host, port, COMMAND), root, silence=silence, wait=wait)


class ShellRefusal(Exception):
    """The far side could not do what was asked; `kind` is one of its words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Shell:
    """Requests to ``device/shell.sh`` on a device.

    Args:
        name: of the device, as the user wrote it.
        argv: command that runs `COMMAND` there, e.g. ``["ssh", …, "--", "host", COMMAND]``.
        root: folder there; None for the default one.
        silence: seconds without a byte after which the link counts as dead.
        wait: seconds before the first new try after a loss; later ones wait longer.

    Raises:
        UsageError: EC213, `root` is no path that can be sent.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        root: str | None,
        *,
        silence: float = SILENCE_SECONDS,
        wait: float = 2.0,
        explain: Callable[[LinkLost, str, bool], EdgecError] | None = None,
    ) -> None:
        if any(ord(letter) < 32 for letter in root or ""):
            raise UsageError("EC213", f"no folder on the device: {root!r}", fix="name another one")
        self.name = name
        self._argv = list(argv)
        self._root = root or ""
        self._silence = silence
        self._wait = wait
        self._explain = explain or _explain
        self._known = False
        source = resources.files("edgec.runtime.transports").joinpath("device/shell.sh")
        self._program = source.read_bytes() + b"edgec-go\n"

    def ask(self, request: str, *words: str, payload: bytes = b"") -> list[str]:
        """Lines of the answer.

        Raises:
            ShellRefusal: of a kind that only the caller can explain.
            MissingToolError: no link; the device's disk is full or its folder cannot be written.
        """
        lines = "".join(f"{word}\n" for word in (request, self._root, *words))
        data = self._program + lines.encode() + payload
        failures = 0
        while True:
            try:
                answer = self._exchange(data)
            except LinkLost as loss:
                failures += 1
                error = self._explain(loss, self.name, self._known)
                # what was refused once will be refused again
                if not self._known or error.code in ("EC641", "EC642") or failures >= TRIES:
                    raise error from loss
                time.sleep(self._wait * failures)
                continue
            self._known = True
            failed = next((n for n, li in enumerate(answer) if li.startswith(FAILED)), None)
            if failed is None:
                return answer
            kind, text = answer[failed].removeprefix(FAILED), "\n".join(answer[failed + 1 :])
            if kind == "full":
                raise disk_full(self.name, text)
            if kind == "system":
                raise not_stored(self.name, text)
            if kind == "request":
                raise InternalError("EC147", "the device refused a request", why=text)
            raise ShellRefusal(kind, text)

    def _exchange(self, data: bytes) -> list[str]:
        with tempfile.TemporaryFile() as messages:
            try:
                process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    start_new_session=True,  # Ctrl-C reaches edgec, which ends the link in order
                )
            except OSError as error:
                raise MissingToolError(
                    "EC640", f"{self._argv[0]} cannot be started", why=str(error)
                ) from error
            assert process.stdin is not None
            assert process.stdout is not None
            sender = threading.Thread(target=_send, args=(process.stdin, data), daemon=True)
            sender.start()
            try:
                return self._read(process)
            except _Silence as silence:
                messages.seek(0)
                text = messages.read(1 << 14).decode("utf-8", "replace").strip()
                raise LinkLost(silence.status, f"{silence}; {text}".strip("; ")) from None
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
                sender.join(timeout=5)

    def _read(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Lines between the marks."""
        out = process.stdout
        assert out is not None
        os.set_blocking(out.fileno(), False)
        pending, lines, begun, skipped = b"", list[str](), False, 0
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while selector.select(self._silence):
                piece = out.read(1 << 20)
                if not piece:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=5)
                    raise _Silence("", process.returncode)
                *whole, pending = (pending + piece).split(b"\n")
                for raw in whole:
                    line = raw.decode("utf-8", "replace").rstrip("\r")
                    if not begun:
                        begun = line == BEGIN
                        skipped += len(raw) + 1
                    elif line == END:
                        return lines
                    elif line != ALIVE:
                        lines.append(line)
                if not begun and skipped + len(pending) > MOST_BANNER_BYTES:
                    raise _Silence("the far side talks, but no answer comes", None)
        raise _Silence(f"nothing came for {self._silence:.0f} s", None)


class _Silence(Exception):
    """No more will come; `status` of the process, None if it still ran."""

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


def _send(stream: IO[bytes], data: bytes) -> None:
    with suppress(OSError):  # the other side went away: the reader tells
        stream.write(data)
    with suppress(OSError):
        stream.close()


def _explain(loss: LinkLost, where: str, known: bool) -> EdgecError:
    if loss.status == 127:  # there is no sh, which no ssh server is without: not Python's lack
        loss = LinkLost(None, loss.messages)
    return explain_loss(loss, where, known=known)
