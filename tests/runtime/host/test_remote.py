"""C artifacts measured with a shell and a compiler, over a real SSH server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.export.bundle import Artifact
from edgec.export.errors import EdgecError, MissingToolError, UnsupportedError, UsageError
from edgec.runtime.bench_any import bench_any, chosen_artifacts
from edgec.runtime.host import cross, remote
from edgec.runtime.host.remote import Package, bench_c
from edgec.runtime.transports.shell import BOOTSTRAP, Shell, ShellRefusal, open_shell

pytestmark = [
    pytest.mark.needs_tool,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]

TOOLS = (
    "sh uname mkdir sed tr head grep cat find touch tar sha256sum mv rm sleep dd kill true"
).split()
"""What the smallest board has: no Python, no compiler."""


@pytest.fixture
def artifact(small_bundle: edgec.Bundle) -> Artifact:
    return next(a for a in small_bundle.manifest.artifacts if a.format == "c")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder of programs without Python or compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., Shell]:
    """A shell of this machine, with an environment of its own."""

    def make(*, wait: float = 0.05, silence: float = 60.0, **variables: str) -> Shell:
        words = [f"{name}={value}" for name, value in variables.items()]
        argv = ["env", *words, "/bin/sh", "-c", BOOTSTRAP]
        root = str(tmp_path / "far $(touch pwned) 'side'")
        return Shell("here", argv, root, wait=wait, silence=silence)

    return make


def test_over_ssh_with_a_shell_and_a_compiler(
    server: Any, small_bundle: edgec.Bundle, artifact: Artifact, bare: Path, main, tmp_path: Path
) -> None:
    for name in ("cc", "as", "ld"):
        (bare / name).symlink_to(str(shutil.which(name)))
    server.set_environment(PATH=str(bare))
    save = tmp_path / "record.json"
    code, out, _ = main(
        "bench", small_bundle.path, "--device", server.uri, "--runs", "50", "--save", save
    )
    assert code == 0
    assert "onnx/model.onnx not measured: the device has no Python with onnxruntime" in out
    record = json.loads(save.read_text())
    (result,) = record["results"]
    assert result["artifact"] == "c"
    assert result["build"]["where"] == "device"
    assert result["latency"]["runs"] == len(result["latency"]["samples_ms"]) == 50
    assert result["output_check"]["relative"] < 0.1
    assert [row["name"] for row in result["layers"]] != []
    assert {"stem.conv", "head"} <= {row["module"] for row in result["layers"]}
    assert all(row["ms"] > 0 for row in result["layers"])
    assert record["environment_before"]["machine"] == os.uname().machine
    assert record["peak_rss_bytes"] > 100_000
    assert list((server.root / "runs").iterdir()) == [], "nothing stays but the sources"


@pytest.mark.slow
def test_onnx_and_c_of_one_bundle_in_one_record(server: Any, small_bundle: edgec.Bundle) -> None:
    chosen = chosen_artifacts(small_bundle, [], server.uri)
    record = bench_any(small_bundle, chosen, server.uri, threads=1, runs=50, warmup=0)
    assert record["runtime"] == "C, onnxruntime"
    paths = [result["artifact"] for result in record["results"]]
    assert paths == ["c", "onnx/model.onnx", "onnx/model_int8.onnx"]
    assert set(record["left_out"]) == {
        a.path for a in small_bundle.manifest.artifacts if a.format == "tflite"
    }


def test_without_a_compiler_there_a_static_program_is_sent(
    small_bundle: edgec.Bundle, artifact: Artifact, bare: Path, here: Callable[..., Shell]
) -> None:
    record = bench_c(small_bundle, artifact, here(PATH=str(bare)), runs=50, warmup=0)
    build = record["results"][0]["build"]
    assert build["where"] == "here, static"
    assert "-static" in build["flags"]


def test_the_agreement_with_this_machine_is_exact(
    small_bundle: edgec.Bundle, artifact: Artifact, here: Callable[..., Shell]
) -> None:
    from edgec.runtime.bench import bench_local

    far = bench_c(small_bundle, artifact, here(), runs=50, warmup=0)["results"][0]
    near = bench_local(small_bundle, [artifact], threads=1, runs=50, warmup=0)["results"][0]
    assert far["output_check"] == near["output_check"]
    assert {r["name"]: r["module"] for r in far["layers"]} == {
        r["name"]: r["module"] for r in near["layers"]
    }


def test_what_is_there_is_neither_sent_nor_built_again(
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shell = here()
    asked: list[str] = []
    ask = Shell.ask

    def noting(self: Shell, request: str, *words: str, payload: bytes = b"") -> list[str]:
        asked.append(request)
        return ask(self, request, *words, payload=payload)

    monkeypatch.setattr(Shell, "ask", noting)
    bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    (program,) = tmp_path.rglob("files/*/bench")
    made = program.stat().st_mtime_ns
    bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    assert asked == "hello have put build run drop hello have build run drop".split()
    assert program.stat().st_mtime_ns == made
    (header,) = tmp_path.rglob("files/*/edgec_bench_network.h")
    header.write_text("changed there")
    bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    assert asked[-5:] == "have put build run drop".split(), "hashes are checked there"
    assert not list(tmp_path.rglob("pwned"))


def test_a_cut_link_is_taken_up_again(
    server: Any, small_bundle: edgec.Bundle, artifact: Artifact
) -> None:
    shell = open_shell(server.uri, wait=0.05)
    cuts: list[int] = []
    ask = Shell.ask

    def cutting(self: Shell, request: str, *words: str, payload: bytes = b"") -> list[str]:
        if request == "run":
            threading.Timer(0.7, lambda: cuts.append(server.cut())).start()
        return ask(self, request, *words, payload=payload)

    shell.ask = cutting.__get__(shell)  # type: ignore[method-assign]
    record = bench_c(small_bundle, artifact, shell, runs=40_000, warmup=0)
    assert sum(cuts) >= 1, "the link was not cut"
    assert record["results"][0]["latency"]["runs"] == 40_000


def test_ctrl_c_ends_the_program_there(
    small_bundle: edgec.Bundle, artifact: Artifact, here: Callable[..., Shell], tmp_path: Path
) -> None:
    shell = here()
    started: list[int] = []
    ask = Shell.ask

    def interrupted(self: Shell, request: str, *words: str, payload: bytes = b"") -> list[str]:
        if request != "run":
            return ask(self, request, *words, payload=payload)

        def follow() -> None:
            with suppress(EdgecError, ShellRefusal):  # it is lost, as it was ended
                ask(self, request, *words)

        threading.Thread(target=follow, daemon=True).start()
        until = time.monotonic() + 30
        while not started and time.monotonic() < until:
            started.extend(int(file.read_text() or 0) for file in tmp_path.rglob("program"))
        os.kill(started[0], 0)
        raise KeyboardInterrupt

    shell.ask = interrupted.__get__(shell)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench_c(small_bundle, artifact, shell, runs=10_000_000, warmup=0)
    until = time.monotonic() + 10
    while Path(f"/proc/{started[0]}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{started[0]}").exists()


@pytest.mark.parametrize("words", ["dash", "bash", "busybox sh", "mksh"])
def test_every_shell_understands_the_script(
    words: str, small_bundle: edgec.Bundle, artifact: Artifact, tmp_path: Path
) -> None:
    program, *rest = words.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    shell = Shell(words, [program, *rest, "-c", BOOTSTRAP], str(tmp_path / "far"), wait=0.05)
    record = bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    assert record["environment_before"]["machine"] == os.uname().machine
    assert record["environment_before"]["cpus"] == os.cpu_count()


def test_no_compiler_anywhere(
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    bare: Path,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bare / "uname").unlink()
    (bare / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (bare / "uname").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    shell = here(PATH=str(bare))
    shell._argv[0] = "/usr/bin/env"
    with pytest.raises(MissingToolError, match="gcc-aarch64-linux-gnu") as caught:
        bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    assert caught.value.code == "EC653"
    with pytest.raises(MissingToolError, match="EDGEC_CROSS_CC"):
        cross.compiler_for("s390x")
    monkeypatch.setenv("EDGEC_CROSS_CC", "no-such-compiler")
    with pytest.raises(MissingToolError, match="no-such-compiler"):
        cross.compiler_for("aarch64")


def test_sources_that_do_not_compile(
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "network_header", lambda facts: "#error not today\n")
    with pytest.raises(UnsupportedError, match="not today") as caught:
        bench_c(small_bundle, artifact, here(), runs=50, warmup=0)
    assert caught.value.code == "EC331"
    monkeypatch.setattr(remote, "network_header", lambda facts: "#error nor here\n")
    with pytest.raises(UnsupportedError, match="nor here"):
        cross.build_static(
            "cc", _folder(remote.sources_of(small_bundle, artifact), here), (), Path()
        )


def _folder(files: dict[str, bytes], here: Callable[..., Shell]) -> Path:
    folder = Path(here()._root).parent / "sources"
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_a_program_that_computes_something_else(
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = remote.network_header(artifact.checks)
    wrong = header.replace("#include <string.h>", "#include <stdio.h>\n#include <string.h>") + (
        "#define printf(form, ...) \\\n"
        "    (printf)(form[1] == 'e' ? \"self-test 1\\n\" : form, ##__VA_ARGS__)\n"
    )
    monkeypatch.setattr(remote, "network_header", lambda facts: wrong)
    with pytest.raises(UnsupportedError, match="self-test") as caught:
        bench_c(small_bundle, artifact, here(), runs=50, warmup=0)
    assert caught.value.code == "EC334"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise(9);", "EC649"),
        ("raise(11);", "EC648"),
        ('puts("garbage"); exit(0);', "EC654"),
        ('puts("self-test 0\\nsample one"); exit(0);', "EC654"),
    ],
)
def test_programs_that_end_early(
    body: str,
    code: str,
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = remote.network_header(artifact.checks) + (
        "\n#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void early(void) {{ {body} }}\n"
    )
    monkeypatch.setattr(remote, "network_header", lambda facts: header)
    with pytest.raises(EdgecError) as caught:
        bench_c(small_bundle, artifact, here(), runs=50, warmup=0)
    assert caught.value.code == code


def test_a_full_disk_and_a_folder_of_another(
    small_bundle: edgec.Bundle, artifact: Artifact, here: Callable[..., Shell], tmp_path: Path
) -> None:
    shell = here()
    root = Path(shell._root)
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)]
    if os.getuid() == 0 and subprocess.run(mount, check=False).returncode == 0:
        try:
            with pytest.raises(MissingToolError) as caught:
                bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
            assert caught.value.code == "EC646"
            assert not list((root / "files").iterdir()), "nothing half stored"
        finally:
            subprocess.run(["umount", "-l", str(root)], check=True)
    root.rmdir()
    root.write_text("a file where the folder should be")
    with pytest.raises(MissingToolError) as caught:
        bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    assert caught.value.code == "EC647"


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("sleep 60", "nothing came for"),
        ("yes | head -c 200000", "no answer comes"),
        ("exit 3", "status 3"),
        ("echo edgec begin; echo half an ans", "status 0"),
    ],
)
def test_far_sides_that_hang_or_babble(program: str, text: str) -> None:
    shell = Shell("odd", ["sh", "-c", f"cat >/dev/null & {program}"], None, silence=0.5, wait=0.01)
    with pytest.raises(MissingToolError, match=text) as caught:
        shell.ask("hello")
    assert caught.value.code in ("EC644", "EC645")


def test_folders_that_cannot_be_sent() -> None:
    with pytest.raises(UsageError, match="EC213"):
        open_shell("ssh://host/a%0Ab")


def test_unknown_host_keys_are_refused(server: Any) -> None:
    server.known_hosts.write_text("")
    with pytest.raises(MissingToolError) as caught:
        open_shell(server.uri).ask("hello")
    assert caught.value.code == "EC641"


def test_packages_are_named_by_content() -> None:
    one, same = Package.of({"a.c": b"x", "b.c": b"y"}), Package.of({"b.c": b"y", "a.c": b"x"})
    assert one == same
    assert one.name != Package.of({"a.c": b"y", "b.c": b"x"}).name


def test_energy_by_the_meters_of_the_far_side(
    small_bundle: edgec.Bundle,
    artifact: Artifact,
    here: Callable[..., Shell],
    monkeypatch: pytest.MonkeyPatch,
    jetson_sysfs: Path,
) -> None:
    monkeypatch.setattr(remote, "LOOP_SECONDS", 1)
    shell = here(EDGEC_SYS=str(jetson_sysfs))
    record = bench_c(small_bundle, artifact, shell, runs=50, warmup=0)
    spent = record["results"][0]["energy"]
    assert spent["meter"] == "INA3221 VDD_IN"
    assert spent["watts"] == pytest.approx(5.0), "1000 mA at 5000 mV"
    joules = spent["watts"] * spent["seconds"] / spent["inferences"]
    assert spent["joules_per_inference"] == pytest.approx(joules, rel=0.01)
    assert {rail["name"] for rail in spent["rails"]} == {"INA3221 VDD_IN", "INA3221 VDD_CPU"}


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None or shutil.which("qemu-aarch64") is None,
    reason="needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user",
)
def test_a_program_for_another_core_agrees(
    small_bundle: edgec.Bundle, artifact: Artifact, here: Callable[..., Shell], tmp_path: Path
) -> None:
    folder = _folder(remote.sources_of(small_bundle, artifact), here)
    program = tmp_path / "bench"
    cross.build_static(cross.compiler_for("aarch64"), folder, remote.FLAGS, program)
    argv = ["qemu-aarch64", str(program), "2", "0", "1", "0"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "self-test 0\n" in out
    assert out.count("sample ") == 2
