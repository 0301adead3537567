"""Measures .tflite artifacts with LiteRT's ``benchmark_model``: on Android, over ssh, or here.

Edgec does not bring the program: the user names one that was made for the device, or has put it
there (https://ai.google.dev/edge/litert/models/measurement has nightly builds).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import EdgecError, MissingToolError, UnsupportedError
from edgec.export.tflite import Model, load
from edgec.export.tflite.names import input_names, output_names
from edgec.runtime.adb.devices import ROOT
from edgec.runtime.bench import MIN_RUNS, SCHEMA, output_check, read_golden
from edgec.runtime.benchmark_model import (
    Window,
    init_ms,
    parse_operators,
    parse_window,
    peak_bytes,
    summarize,
)
from edgec.runtime.host.remote import shell_environment, split_parts
from edgec.runtime.litert_layers import file_operators, join_operators
from edgec.runtime.modules import ModuleNames
from edgec.runtime.tflite_artifact import as_given, as_stored
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import JobEnd
from edgec.runtime.transports.package import Package, send_package
from edgec.runtime.transports.shell import Shell, ShellRefusal

VARIABLE = "EDGEC_BENCHMARK_MODEL"
ON_DEVICE = f"{Path(ROOT).parent}/benchmark_model"
"""Where LiteRT's documentation tells to put it."""
WINDOWS = 5
MOST_SECONDS = 600
"""Of one call: the tool itself ends a series after 150 s."""


def tool_named(option: Path | None) -> Path | None:
    """``--benchmark-model``, else ``EDGEC_BENCHMARK_MODEL``; None: the one on the device."""
    named = option or os.environ.get(VARIABLE)
    return Path(named) if named else None


def bench_tool(
    bundle: Bundle,
    artifacts: list[Artifact],
    shell: Shell,
    tool: Path | None,
    *,
    threads: int,
    runs: int,
    warmup: int,
) -> dict[str, Any]:
    """Like `edgec.runtime.bench.bench_local`, of .tflite artifacts by ``benchmark_model``.

    The tool tells statistics of each of five series, in place of samples: artifacts take turns from
    series to series. Operators and peak memory come from a run of their own, and so does the
    comparison with the golden outputs, which only versions with ``--output_filepath`` allow.

    Args:
        tool: file of the program for the device; None for the one at `ON_DEVICE`.

    Raises:
        MissingToolError: EC678 no program, EC677 it hangs, EC679 it says something else; no link.
        UnsupportedError: EC389, it cannot run the model.
    """
    runs = max(runs, MIN_RUNS)
    feeds, golden = read_golden(bundle)
    program = ON_DEVICE
    if tool is not None:
        try:
            package = Package.of({"benchmark_model": tool.read_bytes()})
        except OSError as error:
            raise _no_tool(str(tool), str(error)) from error
        send_package(shell, package)
        program = f"{package.name}/benchmark_model"
    series = [_Series(bundle, a, shell, program, threads, warmup) for a in artifacts]
    before = shell_environment(shell.ask("environment"))
    for one in series:
        one.send(feeds)
    for _ in range(WINDOWS):
        for one in series:
            one.measure(-(-runs // WINDOWS))
    results, peaks = [], []
    for one in series:
        looked = one.look()
        peaks.append(looked.pop("peak_rss_bytes"))
        results.append(one.result() | looked | one.check(golden))
    return {
        "schema": SCHEMA,
        "device": shell.name,
        "runtime": "litert",
        "model": bundle.manifest.model.get("name"),
        "threads": threads,
        "warmup": warmup,
        "environment_before": before,
        "environment_after": shell_environment(shell.ask("environment")),
        "peak_rss_bytes": max((peak for peak in peaks if peak is not None), default=None),
        "results": results,
    }


class _Series:
    """One artifact on its way through the tool."""

    def __init__(
        self,
        bundle: Bundle,
        artifact: Artifact,
        shell: Shell,
        program: str,
        threads: int,
        warmup: int,
    ) -> None:
        self.bundle, self.artifact, self.shell = bundle, artifact, shell
        self.program, self.threads, self.warmup = program, threads, warmup
        self.file = bundle.file(artifact)
        self.model = load(self.file)
        self.windows: list[Window] = []
        self.package = ""

    def send(self, feeds: Mapping[str, Any]) -> None:
        files = {"model.tflite": self.file.read_bytes()}
        inputs = zip(input_names(self.model), self.model.main.inputs, strict=True)
        for number, (name, index) in enumerate(inputs):
            stored = as_stored(np.asarray(feeds[name]), self.model.main.tensors[index])
            files[f"input{number}"] = stored.tobytes()
        package = Package.of(files)
        send_package(self.shell, package)
        self.package = package.name

    def measure(self, runs: int) -> None:
        said = self._run(f"--warmup_runs={self.warmup}", f"--num_runs={runs}", "--min_secs=0")
        try:
            self.windows.append(parse_window("\n".join(said["log"])))
        except ValueError as error:
            raise _nonsense(self.shell, str(error)) from error

    def look(self) -> dict[str, Any]:
        """Operators, memory and start-up, which looking for changes the times of a run."""
        try:
            said = self._run(
                f"--num_runs={MIN_RUNS}",
                "--min_secs=0",
                "--enable_op_profiling=true",
                f"--max_profiling_buffer_entries={4 * len(self.model.main.operators) + 64}",
                "--profiling_output_csv_file=profile.csv",
                "--report_peak_memory_footprint=true",
            )
        except UnsupportedError as error:  # a version without these flags
            return {"peak_rss_bytes": None, "layers": [], "no_layers": error.why or error.what}
        log = "\n".join(said["log"])
        found: dict[str, Any] = {"peak_rss_bytes": peak_bytes(log), "init_ms": init_ms(log)}
        try:
            rows = parse_operators("\n".join(said["profile"]))
        except ValueError as error:
            return found | {"layers": [], "no_layers": f"benchmark_model wrote {error}"}
        operators = file_operators(self.model, ModuleNames(self.bundle))
        return found | {"layers": join_operators(rows, operators)}

    def check(self, golden: Mapping[str, Any]) -> dict[str, Any]:
        """What the model computes there for the golden input."""
        tensors = [self.model.main.tensors[i] for i in self.model.main.inputs]
        names = [f"input{n}" for n in range(len(tensors))]
        shapes = ":".join(",".join(map(str, tensor.shape)) for tensor in tensors)
        try:
            said = self._run(
                "--num_runs=1",
                "--min_secs=0",
                "--warmup_runs=0",
                "--warmup_min_secs=0",
                f"--input_layer={','.join(names)}",
                f"--input_layer_shape={shapes}",
                f"--input_layer_value_files={','.join(f'{n}:{n}' for n in names)}",
                "--output_filepath=output.bin",
            )
            data = bytes.fromhex("".join(said["output"]))
            return {"output_check": output_check(real_outputs(self.model, data), dict(golden))}
        except (EdgecError, ValueError) as error:
            why = error.what if isinstance(error, EdgecError) else str(error)
            return {"output_check": None, "no_output_check": f"benchmark_model: {why}"}

    def result(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact.path,
            "sha256": self.artifact.sha256,
            "precision": self.artifact.precision,
            "bytes": self.artifact.bytes,
            "runtime": "litert",
            "made_for_elsewhere": False,
            "latency": summarize(self.windows),
            "no_energy": "benchmark_model does not tell",
        }

    def _run(self, *flags: str) -> dict[str, list[str]]:
        words = ["--graph=model.tflite", f"--num_threads={self.threads}", *flags]
        limit = str(MOST_SECONDS)
        try:
            answer = self.shell.ask("tool", self.package, self.program, limit, " ".join(words))
        except ShellRefusal as refusal:
            if refusal.kind == "tool":
                raise _no_tool(f"{self.shell.name}: {refusal}", None) from refusal
            raise MissingToolError(
                "EC677",
                "benchmark_model does not end",
                where=self.shell.name,
                why=f"{refusal} passed",
                fix="look at what else runs on the device, or try fewer threads",
            ) from refusal
        said = split_parts(answer)
        if (said.get("status") or [""])[0] != "0":
            status = (said.get("status") or ["-1"])[0]
            exit_code = int(status) if status.isdigit() else -1
            if exit_code in (126, 127):
                log = " ".join(said.get("log", []))[-300:]
                raise _no_tool(f"{self.shell.name}: {self.program}", log)
            code = 3 if exit_code == 1 else exit_code
            end = JobEnd(code, None, False, "\n".join(said.get("log", [])))
            raise explain_failure(end, "benchmark_model failed", self.shell.name)
        return said


def real_outputs(model: Model, data: bytes) -> dict[str, Any]:
    """Outputs in the ONNX master's order, from the bytes of all of them.

    Raises:
        ValueError: another number of bytes.
    """
    found, start = {}, 0
    tensors = [model.main.tensors[index] for index in model.main.outputs]
    for name, tensor in zip(output_names(model), tensors, strict=True):
        dtype = np.dtype(tensor.numpy_dtype)
        end = start + dtype.itemsize * int(np.prod(tensor.shape))
        if len(data) < end:
            raise ValueError(f"{len(data)} bytes of outputs")
        array = np.frombuffer(data[start:end], dtype).reshape(tensor.shape)
        found[name] = as_given(array, tensor)
        start = end
    if start != len(data):
        raise ValueError(f"{len(data)} bytes of outputs, {start} expected")
    return found


def _no_tool(where: str, why: str | None) -> MissingToolError:
    return MissingToolError(
        "EC678",
        "no benchmark_model for the device",
        where=where,
        why=why,
        fix=f"--benchmark-model FILE or {VARIABLE}=FILE, LiteRT's program built for the device, "
        f"or put it there: adb push benchmark_model {ON_DEVICE}",
    )


def _nonsense(shell: Shell, why: str) -> MissingToolError:
    return MissingToolError(
        "EC679",
        "benchmark_model said nothing that can be read",
        where=shell.name,
        why=why,
        fix="run it by hand on the device, and report its output",
    )
