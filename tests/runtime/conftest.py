"""A real OpenSSH server on loopback, with keys of its own, and a client configuration for it.

And the bundle of a network whose nodes name modules.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import edgec


@dataclass
class Server:
    """A running sshd.

    Attributes:
        uri: what ``--device`` takes; the folder of the jobs is in `root`.
        config: the client's configuration file.
    """

    uri: str
    port: int
    config: Path
    known_hosts: Path
    root: Path
    daemon: subprocess.Popen[bytes]

    def set_environment(self, **variables: str) -> None:
        """What programs on the far side find in their environment, beside this Python in PATH."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        lines = [
            f"export {name}={shlex.quote(value)}\n"
            for name, value in {"PATH": path, **variables}.items()
        ]
        session = self.config.parent / "session.sh"
        session.write_text("".join([*lines, 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n']))

    def wait(self) -> None:
        """Until the server listens."""
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def cut(self) -> int:
        """End every connection as a pulled cable would; the server goes on listening."""
        out = subprocess.run(
            ["pgrep", "-P", str(self.daemon.pid)], capture_output=True, text=True, check=False
        )
        children = [int(line) for line in out.stdout.split()]
        for child in children:
            deeper = subprocess.run(
                ["pgrep", "-P", str(child)], capture_output=True, text=True, check=False
            )
            for pid in [*map(int, deeper.stdout.split()), child]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return len(children)


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH: apt install openssh-server openssh-client")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a server started by root locks itself in
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    keygen(folder / "host")
    keygen(folder / "user")
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f"PrintMotd no\nMaxStartups 100\nForceCommand exec /bin/sh {folder}/session.sh\n"
    )
    daemon = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL
    )
    known_hosts = folder / "known_hosts"
    public = (folder / "host.pub").read_text().split()
    known_hosts.write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    config = folder / "ssh_config"
    config.write_text(
        f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {known_hosts}\n GlobalKnownHostsFile /dev/null\n"
    )
    monkeypatch.setenv("EDGEC_SSH_CONFIG", str(config))
    root = tmp_path / "far side"
    uri = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{str(root).replace(' ', '%20')}"
    server = Server(uri, port, config, known_hosts, root, daemon)
    server.set_environment()
    server.wait()
    try:
        yield server
    finally:
        server.cut()
        daemon.terminate()
        daemon.wait()


class Small(nn.Module):
    """Stem, one residual block, head: few modules, each with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        return self.head((x + torch.relu(self.block(x))).mean((2, 3)))


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> edgec.Bundle:
    """C and .tflite of a network with modules, int8 on random inputs, and its ONNX master."""
    torch.manual_seed(0)
    return edgec.compile(
        Small().eval(),
        target="generic-c99",
        input_shape=(3, 16, 16),
        calib="random",
        formats=("c", "tflite"),
        out=str(tmp_path_factory.mktemp("small") / "bundle"),
    )
