"""A link to the agent on a device: one process (ssh, or Python here), frames over its pipes.

The command line that starts the agent is constant; everything else travels as data
(`device/agent.py` describes the frames). A link that breaks raises `LinkLost`; whoever holds a
`Device` (`edgec.runtime.transports.machine`) opens a new one and goes on.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources
from typing import Any

from edgec.export.errors import EdgecError, InternalError, MissingToolError

SILENCE_SECONDS = 60.0
"""The agent speaks at least every few seconds while a job runs: longer silence is a dead link."""
MOST_BANNER_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 22

BOOTSTRAP = (
    "import sys; n = int(sys.stdin.buffer.readline()); "
    "exec(compile(sys.stdin.buffer.read(n).decode('utf-8'), 'edgec-agent', 'exec'))"
)
"""Python that reads its program from stdin: works where nothing can be written."""


class LinkLost(Exception):
    """The process behind a link ended, or nothing came for `SILENCE_SECONDS`.

    Args:
        status: exit status of that process, None if it still runs.
        messages: what it wrote to stderr.
    """

    def __init__(self, status: int | None, messages: str) -> None:
        super().__init__(messages or f"status {status}")
        self.status = status
        self.messages = messages


class Refusal(Exception):
    """The agent could not do what was asked; `kind` is one of its words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Link:
    """An agent that answers.

    Args:
        argv: command that ends in a Python reading `BOOTSTRAP`'s protocol, e.g.
            ``["ssh", "-p", "22", "--", "user@host", "python3 -c …"]``.
        silence: seconds without a byte after which the link counts as dead.

    Raises:
        LinkLost: the command ended before the agent spoke.
        MissingToolError: the command does not exist here.
    """

    def __init__(self, argv: Sequence[str], *, silence: float = SILENCE_SECONDS) -> None:
        self.silence = silence
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 closed with the link
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                start_new_session=True,  # Ctrl-C reaches edgec, which ends the link in order
            )
        except OSError as error:
            self._messages.close()
            raise MissingToolError(
                "EC640",
                f"{argv[0]} cannot be started",
                why=str(error),
                fix=f"install {argv[0]} (OpenSSH client for ssh:// devices)",
            ) from error
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._buffer = bytearray()
        try:
            source = _agent_source()
            self._write(b"%d\n" % len(source) + source)
            self._skip_banner()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Send one request; its first answer, with the bytes behind it.

        Raises:
            Refusal: the agent says why not.
            LinkLost: no answer came.
        """
        message = {"do": do, **fields}
        if payload:
            message["bytes"] = len(payload)
        self._write(json.dumps(message).encode() + b"\n" + payload)
        return self.answer()

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """The next frame; see `ask`."""
        line = self._line(MOST_LINE_BYTES)
        try:
            message = json.loads(line)
            size = int(message.get("bytes", 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise LinkLost(None, f"the far side sent no frame: {line[:80]!r}") from error
        payload = self._take(size)
        if "error" in message:
            raise Refusal(message["error"], message["text"])
        return message, payload

    def close(self) -> None:
        """End the process behind the link; jobs that it started go on."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        self._out.close()
        self._messages.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost() from error

    def _skip_banner(self) -> None:
        """Whatever a login shell prints comes before the agent's first frame."""
        skipped = 0
        while True:
            line = self._line(MOST_BANNER_BYTES)
            if line.startswith(b'{"edgec_agent": 1'):
                return
            skipped += len(line)
            if skipped > MOST_BANNER_BYTES:
                raise LinkLost(None, "the far side talks, but no agent answers")

    def _line(self, most: int) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > most:
                raise LinkLost(None, "the far side sent a line without end")
            self._fill()
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        return bytes(line)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self) -> None:
        until = time.monotonic() + self.silence
        while True:
            left = until - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise self._lost(silent=True)
            piece = self._out.read(1 << 20)
            if piece:
                self._buffer += piece
                return
            if piece == b"":
                raise self._lost()

    def _lost(self, *, silent: bool = False) -> LinkLost:
        status = None
        if not silent:
            with suppress(subprocess.TimeoutExpired):
                status = self._process.wait(timeout=5)
        self._messages.seek(0)
        text = self._messages.read(1 << 14).decode("utf-8", "replace").strip()
        if silent:
            text = f"nothing came for {self.silence:.0f} s; {text}".rstrip("; ")
        return LinkLost(status, text)


def explain_loss(loss: LinkLost, where: str, *, known: bool) -> EdgecError:
    """What OpenSSH's last words mean for the user; `known`: the device answered before."""
    text = loss.messages
    last = text.splitlines()[-1] if text else f"the link ended with status {loss.status}"
    lower = text.lower()
    if "host key verification failed" in lower or "host identification has changed" in lower:
        changed = "has changed" in lower
        return MissingToolError(
            "EC641",
            "the device's host key is " + ("another than before" if changed else "not known"),
            where=where,
            why="edgec never accepts a key by itself: it could be another machine's",
            fix="log in once by hand (ssh), compare the fingerprint with the device's own "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), and try again",
        )
    if "permission denied" in lower:
        return MissingToolError(
            "EC642",
            "the device refused the login",
            where=where,
            why=last,
            fix="set up a key (ssh-copy-id); edgec never asks for or passes a password",
        )
    if loss.status == 127 or "python3: not found" in lower or "python3: command not" in lower:
        return MissingToolError(
            "EC643",
            "the device has no python3",
            where=where,
            why=last,
            fix="install Python 3.6 or newer on the device",
        )
    unreachable = ("could not resolve", "connection refused", "timed out", "no route to host")
    if any(words in lower for words in unreachable) or (loss.status == 255 and not known):
        return MissingToolError(
            "EC644",
            "the device cannot be reached",
            where=where,
            why=last,
            fix="check that it is on, its address and port, and that sshd runs there; what was "
            "started there goes on, and the same command again follows it",
        )
    if "Traceback" in text:
        return InternalError("EC145", "the agent on the device failed", where=where, why=last)
    return MissingToolError(
        "EC645",
        "the link to the device broke",
        where=where,
        why=last,
        fix="run the same command again: what was sent is kept, and a running job is followed",
    )


def _agent_source() -> bytes:
    return resources.files("edgec.runtime.transports").joinpath("device/agent.py").read_bytes()
