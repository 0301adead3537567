"""Measures the C artifact of a bundle on another machine, which needs no more than a shell.

Where it has a compiler, the sources are built there; else a static program is built here.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import EdgecError, MissingToolError, UnsupportedError
from edgec.runtime.bench import (
    MIN_RUNS,
    SCHEMA,
    STEP_RUNS,
    Latency,
    output_check,
    read_golden,
    step_table,
)
from edgec.runtime.energy import LOOP_SECONDS, energy_fields
from edgec.runtime.host.cross import build_static, compiler_for, first_line, not_compiled
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import JobEnd
from edgec.runtime.transports.package import Package, send_package
from edgec.runtime.transports.shell import Shell, ShellRefusal

FLAGS = ("-std=c99", "-O2", "-DEDGEC_PROFILE", "-Dmain=edgec_self_test")
PROGRAM = "bench"
HEADER = "edgec_bench_network.h"


@dataclass(frozen=True)
class Build:
    """How the program came to be."""

    where: str
    compiler: str
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"where": self.where, "compiler": self.compiler, "flags": " ".join(self.flags)}


def sources_of(bundle: Bundle, artifact: Artifact) -> dict[str, bytes]:
    """Sources of the program that measures, by path: the artifact, the runner, and a header that
    tells the runner of the network."""
    folder = bundle.file(artifact)
    paths = [p for p in sorted(folder.rglob("*.[ch]")) if p.parent.name != "mlperf_tiny"]
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    for name in ("bench.c", "profile.c"):
        file = resources.files("edgec.runtime.host").joinpath(name)
        files[f"edgec_{name}"] = file.read_bytes()
    files[HEADER] = network_header(artifact.checks).encode()
    return files


def network_header(facts: Mapping[str, Any]) -> str:
    """What ``bench.c`` has to know of a network; `facts` are the artifact's checks."""
    prefix, ports = facts["prefix"], facts["ports"]
    loads = "".join(
        f"    memcpy({prefix}_input_{port['identifier']}(arena), golden_0_input_{n}, "
        f"sizeof golden_0_input_{n});\n"
        for n, port in enumerate(ports["inputs"])
    )
    outputs = "".join(
        f"    case {n}:\n        *bytes = sizeof golden_0_output_{n};\n"
        f"        return (const unsigned char *){prefix}_output_{port['identifier']}(arena);\n"
        for n, port in enumerate(ports["outputs"])
    )
    declared = f"static int32_t name[({prefix.upper()}_ARENA_BYTES + 3) / 4]"
    handle = "void *"
    if "arenas" in facts:
        declared = f"{prefix.upper()}_DECLARE_ARENAS(name)"
        handle = f"const {prefix}_arenas *"
    return (
        f'#include <stddef.h>\n#include <string.h>\n\n#include "{prefix}.h"\n'
        f'#include "{prefix}_golden.h"\n\n'
        f"#define NETWORK_RUN {prefix}_run\n"
        f"#define NETWORK_DECLARE_ARENAS(name) {declared}\n"
        f"#define NETWORK_STEPS {facts['steps']}\n"
        f"#define NETWORK_OUTPUTS {len(ports['outputs'])}\n\n"
        f"static void network_load({handle}arena) {{\n{loads}}}\n\n"
        "static const unsigned char *network_output(int index, const void *arena,\n"
        "                                           size_t *bytes) {\n"
        f"    switch (index) {{\n{outputs}    default:\n        *bytes = 0;\n        return 0;\n"
        "    }\n}\n"
    )


def bench_c(
    bundle: Bundle, artifact: Artifact, shell: Shell, *, runs: int, warmup: int
) -> dict[str, Any]:
    """Like `edgec.runtime.bench.bench_local`, of one C artifact on the machine behind `shell`.

    Raises:
        MissingToolError: no link, no room, or no compiler there and none here for it (EC653).
        UnsupportedError: the sources do not compile (EC331), or compute something else (EC334).
    """
    runs = max(runs, MIN_RUNS)
    _, golden = read_golden(bundle)  # its input is among the sources
    facts = dict(_pairs(shell.ask("hello")))
    name, build = _program(bundle, artifact, shell, facts)
    run = secrets.token_hex(8)
    words = [str(value) for value in (runs, warmup, STEP_RUNS, LOOP_SECONDS)]
    try:
        answer = shell.ask("run", name, run, *words)
    except ShellRefusal as refusal:
        raise _lost(shell, str(refusal)) from refusal
    except KeyboardInterrupt:
        with suppress(EdgecError, ShellRefusal):
            shell.ask("stop", run)
        raise
    parts = split_parts(answer)
    shell.ask("drop", run)
    made = {"compiler": build.compiler}
    status = int((parts.get("status") or ["-1"])[0])
    if status != 0:
        end = JobEnd(status, None, status < 0, "\n".join(parts.get("log", [])))
        raise explain_failure(end, "the C artifact was not measured", shell.name)
    return {
        "schema": SCHEMA,
        "device": shell.name,
        "runtime": "C",
        "model": bundle.manifest.model.get("name"),
        "threads": 1,
        "warmup": warmup,
        "environment_before": shell_environment(parts["before"]) | made,
        "environment_after": shell_environment(parts["after"]) | made,
        **_results(bundle, artifact, parts, build, golden, runs, shell.name),
    }


def _program(
    bundle: Bundle, artifact: Artifact, shell: Shell, facts: Mapping[str, str]
) -> tuple[str, Build]:
    """Name of the package on the device that holds the program."""
    sources = sources_of(bundle, artifact)
    if "compiler" in facts:
        package = Package.of(sources)
        send_package(shell, package)
        try:
            shell.ask("build", package.name, facts["compiler"], " ".join(FLAGS))
        except ShellRefusal as refusal:
            raise not_compiled(f"{facts['compiler']} on {shell.name}", str(refusal)) from refusal
        return package.name, Build("device", facts.get("version", facts["compiler"]), FLAGS)
    compiler = compiler_for(facts["machine"])
    with tempfile.TemporaryDirectory(prefix="edgec-cross-") as temporary:
        folder = Path(temporary)
        for path, data in sources.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        build_static(compiler, folder, FLAGS, folder / PROGRAM)
        package = Package.of({PROGRAM: (folder / PROGRAM).read_bytes()})
    send_package(shell, package)
    return package.name, Build("here, static", first_line(compiler), (*FLAGS, "-static"))


def _lost(shell: Shell, why: str) -> MissingToolError:
    return MissingToolError(
        "EC648", "the C artifact was not measured", where=shell.name, why=why, fix="try again"
    )


def _pairs(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        key, _, value = line.partition(" ")
        yield key, value


def split_parts(lines: Sequence[str]) -> dict[str, list[str]]:
    """Lines of an answer by the part that they belong to."""
    parts: dict[str, list[str]] = {}
    part: list[str] = []
    for line in lines:
        if line.startswith("edgec part "):
            part = parts.setdefault(line.removeprefix("edgec part "), [])
        else:
            part.append(line)
    return parts


def shell_environment(lines: Sequence[str]) -> dict[str, Any]:
    """As `edgec.runtime.environment.environment`, of what the shell saw."""
    heat: dict[str, int] = {}
    found: dict[str, Any] = {}
    for key, value in _pairs(lines):
        if key == "temperature":
            shown, _, zone = value.partition(" ")
            if shown.lstrip("-").isdigit():
                heat[zone] = int(shown)
        else:
            found[key] = int(value) if value.isdigit() and key != "throttled" else value
    load = str(found.pop("load", "")).split(" ")[0]
    found["load_1min"] = float(load) if load else None
    return found | {"temperatures_mc": heat}


def _results(
    bundle: Bundle,
    artifact: Artifact,
    parts: Mapping[str, list[str]],
    build: Build,
    golden: Mapping[str, Any],
    runs: int,
    device: str,
) -> dict[str, Any]:
    facts = artifact.checks
    told: dict[str, list[list[str]]] = {}
    for key, value in _pairs(parts["out"]):
        told.setdefault(key, []).append(value.split())
    try:
        wrong = int(told["self-test"][0][0])
        samples = tuple(int(row[0]) / 1e6 for row in told["sample"])
        steps = [int(row[1]) / 1e6 for row in told["step"]]
        raw = [bytes.fromhex(row[1]) for row in told["output"]]
        memory = int(told["rss"][0][0])
        ports = facts["ports"]["outputs"]
        outputs = {p["name"]: _real(p, data) for p, data in zip(ports, raw, strict=True)}
        if len(samples) != runs or len(steps) != facts["steps"]:
            raise ValueError(f"{len(samples)} samples of {runs}, {len(steps)} steps")
        energy = energy_fields(_readings(told, parts))
    except (KeyError, IndexError, ValueError) as error:
        raise MissingToolError(
            "EC654",
            "the device's answer is no measurement",
            where=device,
            why=f"{type(error).__name__}: {error}",
            fix="try again; if it stays, look at what else writes to its terminal",
        ) from error
    if wrong:
        raise UnsupportedError(
            "EC334",
            "the C artifact computes something else there than here",
            where=device,
            why=f"{wrong} outputs of its self-test differ, compiled by {build.compiler}",
            fix="use another compiler, and report this one's version",
        )
    result = {
        "artifact": artifact.path,
        "sha256": artifact.sha256,
        "precision": artifact.precision,
        "bytes": artifact.bytes,
        "runtime": "C",
        "made_for_elsewhere": False,
        "build": build.to_json(),
        "latency": Latency(samples).to_json(),
        "output_check": output_check(outputs, dict(golden)),
        "layers": step_table(bundle, facts["step_names"], steps),
        **energy,
    }
    return {"peak_rss_bytes": memory, "results": [result]}


def _real(port: Mapping[str, Any], data: bytes) -> Any:
    """Real numbers of an output's bytes, in the ONNX master's order."""
    values = np.frombuffer(data, port["dtype"]).reshape(port["shape"]).astype(np.float32)
    if port.get("scale") is not None:
        values = (values - np.float32(port["zero_point"])) * np.float32(port["scale"])
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values


def _readings(
    told: Mapping[str, list[list[str]]], parts: Mapping[str, list[str]]
) -> dict[str, Any]:
    """As `meters.watch` returns them."""
    keys = ("kind", "factor", "path", "other", "name")
    meters: list[dict[str, Any]] = [
        dict(zip(keys, line.split("\t"), strict=True)) for line in parts.get("meters", [])
    ]
    if not meters:
        return {"meters": []}
    for meter in meters:
        meter["factor"] = int(meter["factor"])
    trace = []
    for line in parts["trace"]:
        fields = line.split(" ")
        if len(fields) != 4:  # the watcher was ended while it wrote
            continue
        number, at, value, other = fields
        alone = meters[int(number)]["other"] == "-"
        second = 1 if alone else _number(other)
        trace.append([int(number), float(at), _number(value), second])
    (asleep,), (loop,) = told["idle"], told["loop"]
    return {
        "meters": meters,
        "trace": trace,
        "idle": [float(asleep[0]), float(asleep[1])],
        "loop": [float(loop[0]), float(loop[1]), int(loop[2])],
    }


def _number(text: str) -> int | None:
    return int(text) if text.lstrip("-").isdigit() else None
