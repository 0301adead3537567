"""Files and jobs on a device: here, and over a real SSH server on loopback."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgec.export.errors import EdgecError, MissingToolError, UsageError
from edgec.runtime.transports import link
from edgec.runtime.transports.machine import Device, job_name, open_device

JOB = job_name("test")
HOSTILE = "a'b\"c $(touch pwned) `id`;\n-rf é.bin"


@pytest.fixture(params=["local", "ssh"])
def device(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    if request.param == "ssh":
        found = open_device(request.getfixturevalue("server").uri, wait=0.05)
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        found = open_device("local", wait=0.05)
    with found:
        yield found


def test_the_agent_keeps_to_python_3_6_and_its_standard_library(root: Path) -> None:
    source = (root / "runtime/transports/device/agent.py").read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names


def test_files_there_and_back_under_any_name(device: Device, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 << 20))
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    progress: list[int] = []
    files = {f"deep/{HOSTILE}": big, "empty": empty}
    device.push(JOB, files, tick=lambda done, total: progress.append(done))
    assert progress[-1] == 3 << 20
    copy = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"
    end = device.run(JOB, ["{python}", "-c", copy, f"deep/{HOSTILE}", "out"])
    assert (end.exit, end.signal, end.lost) == (0, None, False), end.log
    assert device.fetch(JOB, "out", tmp_path / "home")
    assert (tmp_path / "home").read_bytes() == big.read_bytes()
    assert device.fetch(JOB, "empty", tmp_path / "nothing")
    assert (tmp_path / "nothing").read_bytes() == b""
    assert not device.fetch(JOB, "never written", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    assert not list(tmp_path.rglob("pwned"))
    device.remove(JOB)
    assert not device.fetch(JOB, "out", tmp_path / "absent")


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a//b", "", "a/../../b"])
def test_paths_stay_inside_the_job(path: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with (
        open_device("local", wait=0.05) as device,
        pytest.raises(EdgecError, match="refused") as caught,
    ):
        device._root = str(tmp_path / "root")
        device.push(JOB, {path: file})
    assert caught.value.code == "EC147"


def test_what_a_job_prints_arrives_while_it_runs(device: Device) -> None:
    device.push(JOB, {})
    program = "import time; print('first', flush=True); time.sleep(.4); print('second', flush=True)"
    heard: list[tuple[float, str]] = []
    end = device.run(
        JOB, ["{python}", "-c", program], lambda text: heard.append((time.time(), text))
    )
    assert end.log == "first\nsecond\n"
    assert heard[-1][0] - heard[0][0] > 0.2


@pytest.mark.parametrize(
    ("program", "code", "signal"),
    [("raise SystemExit(5)", 5, None), ("import os; os.kill(os.getpid(), 9)", None, 9)],
)
def test_how_a_job_ended(
    device: Device, program: str, code: int | None, signal: int | None
) -> None:
    device.push(JOB, {})
    end = device.run(JOB, ["{python}", "-c", program])
    assert (end.exit, end.signal) == (code, signal)


def test_a_program_that_is_not_there(device: Device) -> None:
    device.push(JOB, {})
    end = device.run(JOB, ["/no/such/program"])
    assert end.exit == 127
    assert "/no/such/program" in end.log


def test_a_cut_link_loses_nothing(server: Any) -> None:
    program = (
        "import time\nfor i in range(20): print(i, flush=True); time.sleep(.1)\n"
        "open('done', 'a').write('x')"
    )
    cuts = []
    with open_device(server.uri, wait=0.05) as device:
        device.push(JOB, {})
        for delay in (0.6, 1.3):
            timer = threading.Timer(delay, lambda: cuts.append(server.cut()))
            timer.start()
        end = device.run(JOB, ["{python}", "-c", program])
        assert sum(cuts) >= 2, "the link was not cut"
        assert end.exit == 0
        assert end.log.split() == [str(i) for i in range(20)]
        done = server.root / "jobs" / JOB / "files" / "done"
        assert done.read_text() == "x", "the job ran once"


def test_a_cut_transfer_goes_on_where_it_stopped(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    sent: list[int] = []
    ask = link.Link.ask

    def counting(self: link.Link, do: str, payload: bytes = b"", **fields: Any) -> Any:
        if do == "put":
            sent.append(len(payload))
            if len(sent) == 4:
                server.cut()
        return ask(self, do, payload, **fields)

    monkeypatch.setattr(link.Link, "ask", counting)
    with open_device(server.uri, wait=0.05) as device:
        device.push(JOB, {"big": big})
        assert 8 << 20 <= sum(sent) <= 9 << 20, "one piece at most is sent twice"
        before = len(sent)
        device.push(job_name("another"), {"big": big})
        assert len(sent) == before, "known content is not sent again"
        assert device.fetch(JOB, "big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()


def test_a_cut_on_the_way_home_goes_on_where_it_stopped(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "engine"
    big.write_bytes(os.urandom(8 << 20))
    offsets: list[int] = []
    ask = link.Link.ask

    def counting(self: link.Link, do: str, payload: bytes = b"", **fields: Any) -> Any:
        if do == "fetch":
            offsets.append(fields["offset"])
            if len(offsets) == 4:
                server.cut()
        return ask(self, do, payload, **fields)

    with open_device(server.uri, wait=0.05) as device:
        device.push(JOB, {"engine": big})
        monkeypatch.setattr(link.Link, "ask", counting)
        assert device.fetch(JOB, "engine", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert not list(tmp_path.glob("*.part"))
    asked_twice = len(offsets) - len(set(offsets))
    assert 1 <= asked_twice <= 2, "the first piece tells the hash; one more was on its way"


def test_the_same_job_is_followed_not_repeated(server: Any) -> None:
    program = "import time; open('runs', 'a').write('x'); time.sleep(.5)"
    with open_device(server.uri, wait=0.05) as first, open_device(server.uri, wait=0.05) as second:
        first.push(JOB, {})
        assert not first.start(JOB, ["{python}", "-c", program])
        assert second.start(JOB, ["{python}", "-c", program])
        assert second.follow(JOB).exit == 0
        assert first.follow(JOB).exit == 0
    assert (server.root / "jobs" / JOB / "files" / "runs").read_text() == "x"


def test_another_command_of_a_running_job_is_refused(server: Any) -> None:
    argv = ["{python}", "-c", "import time; time.sleep(1)"]
    with open_device(server.uri, wait=0.05) as first, open_device(server.uri, wait=0.05) as second:
        first.push(JOB, {})
        first.start(JOB, argv)
        with pytest.raises(MissingToolError) as caught:
            second.start(JOB, [*argv, "--other"])
        assert caught.value.code == "EC651"
        assert first.follow(JOB).exit == 0
        assert second.run(JOB, [*argv[:2], "print(1)"]).log == "1\n", "once it has ended it goes"


def test_a_silent_link_is_a_dead_one() -> None:
    hang = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(link.LinkLost, match=r"nothing came for 0 s"):
        link.Link(hang, silence=0.3)


def test_noise_of_a_login_shell_is_skipped_but_not_for_ever() -> None:
    noisy = f"print('Welcome!\\n' * 3, flush=True); {link.BOOTSTRAP}"
    with link.Link([sys.executable, "-c", noisy]) as noise:
        assert "python" in noise.ask("hello", root=None)[0]
    endless = "while True: print('y' * 70, flush=True)"
    with pytest.raises(link.LinkLost, match="no agent answers"):
        link.Link([sys.executable, "-c", endless])


def test_unknown_and_changed_host_keys_are_refused(server: Any) -> None:
    known = server.known_hosts.read_text()
    for text in ("", known.replace("AAAA", "AAAB", 1)):
        server.known_hosts.write_text(text)
        with pytest.raises(MissingToolError) as caught, open_device(server.uri):
            pass
        assert caught.value.code == "EC641"
    assert server.known_hosts.read_text() == known.replace("AAAA", "AAAB", 1), "nothing accepted"


def test_refused_logins_and_closed_ports_are_told(server: Any, tmp_path: Path) -> None:
    (tmp_path / "sshd" / "authorized").write_text("")
    with pytest.raises(MissingToolError) as caught, open_device(server.uri):
        pass
    assert caught.value.code == "EC642"
    server.daemon.terminate()
    server.daemon.wait()
    with pytest.raises(MissingToolError) as caught, open_device(server.uri):
        pass
    assert caught.value.code == "EC644"


def test_a_full_disk_is_told(server: Any, tmp_path: Path) -> None:
    server.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(server.root)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        big = tmp_path / "big"
        big.write_bytes(os.urandom(3 << 20))
        with (
            pytest.raises(MissingToolError) as caught,
            open_device(server.uri, wait=0.05) as device,
        ):
            device.push(JOB, {"big": big})
        assert caught.value.code == "EC646"
    finally:
        subprocess.run(["umount", "-l", str(server.root)], check=True)


def test_a_folder_that_cannot_be_made_is_told(server: Any) -> None:
    server.root.write_text("a file where the folder should be")
    with pytest.raises(MissingToolError) as caught, open_device(server.uri):
        pass
    assert caught.value.code == "EC647"


@pytest.mark.parametrize(
    "uri",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://user@-oProxyCommand=x",
        "ssh://-lx@host",
        "ssh://a b@host",
        "ssh://user:secret@host",
        "ssh://host:99999",
        "telnet://host",
        "jetson",
    ],
)
def test_devices_that_are_none(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_device(uri)
    assert caught.value.code == "EC213"
    assert "secret" not in str(caught.value)
