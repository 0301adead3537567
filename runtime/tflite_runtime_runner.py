"""Runs .tflite files with tflite-runtime in a process of its own.

tflite-runtime 2.14 (2023) is what many devices still run, and needs numpy 1: it lives in another
Python environment, whose interpreter is given by path. Arrays travel as .npy files, everything else
as lines of JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgec.export.errors import MissingToolError, UnsupportedError
from edgec.export.tflite import Model, decode, encode, load
from edgec.export.tflite.names import input_names, output_names
from edgec.runtime.feeds import Tensor, ready

VARIABLE = "EDGEC_TFLITE_RUNTIME_PYTHON"
"""Environment variable with the path of the other environment's Python."""

WORKER = Path(__file__).with_name("tflite_runtime_worker.py")


def interpreter_path(python: Path | None = None) -> Path:
    """Python of the environment that has tflite-runtime.

    Args:
        python: its path; None takes the environment variable.

    Raises:
        MissingToolError: none is named, or no file is there.
    """
    named = str(python) if python is not None else os.environ.get(VARIABLE, "")
    if not named or not Path(named).is_file():
        raise MissingToolError(
            "EC601",
            "no Python environment with tflite-runtime is known",
            where=named or VARIABLE,
            why="it needs numpy 1, so it cannot share edgec's environment",
            fix="python3.11 -m venv ENV; ENV/bin/pip install tflite-runtime==2.14.0 numpy==1.26.4; "
            f"export {VARIABLE}=ENV/bin/python",
        )
    return Path(named)


class TFLiteRuntimeRunner:
    """One interpreter in another process; a context manager, which ends it.

    Integer inputs and outputs are given and returned as the integers of the file.

    Args:
        model: path, bytes or a decoded model.
        python: Python of the environment that has tflite-runtime (see `interpreter_path`).
        threads: threads inside an operator.
        timeout: seconds that loading or one inference may take; then the process is killed.

    Raises:
        MissingToolError: no such environment, or it lacks tflite-runtime or numpy 1.
        InputError: the file is broken.
        UnsupportedError: tflite-runtime refuses the model, crashes on it or does not answer.
    """

    def __init__(
        self,
        model: Path | bytes | Model,
        *,
        python: Path | None = None,
        threads: int = 1,
        timeout: float = 60.0,
    ) -> None:
        program = interpreter_path(python)
        self.timeout = timeout
        self.where = str(model) if isinstance(model, Path) else None
        if isinstance(model, Model):
            self.model, data = model, encode(model)
        elif isinstance(model, bytes):
            self.model, data = decode(model), model
        else:
            self.model, data = load(model), model.read_bytes()
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-tflite-")
        self.folder = Path(self._folder.name)
        (self.folder / "model.tflite").write_bytes(data)
        self._log = (self.folder / "log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(program), "-I", str(WORKER), str(self.folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self.runtime: str = self._answer("start")["runtime"]
        except BaseException:
            self.close()
            raise

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name."""
        return self._interface(input_names(self.model), self.model.main.inputs)

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name."""
        return self._interface(output_names(self.model), self.model.main.outputs)

    def _interface(
        self, names: list[str], indices: list[int]
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        tensors = [self.model.main.tensors[i] for i in indices]
        return {n: (t.shape, t.numpy_dtype.name) for n, t in zip(names, tensors, strict=True)}

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference.

        Raises:
            InputError: names, shapes or kinds of number do not match the model's inputs.
            UnsupportedError: a kernel fails, the process crashes or does not answer in time.
        """
        for position, array in enumerate(ready(feeds, self.inputs).values()):
            np.save(self.folder / f"input{position}.npy", array, allow_pickle=False)
        self._answer("run")
        return {
            name: np.load(self.folder / f"output{position}.npy", allow_pickle=False)
            for position, name in enumerate(self.outputs)
        }

    def close(self) -> None:
        """End the process and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
        self._folder.cleanup()

    def __enter__(self) -> TFLiteRuntimeRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, request: str) -> dict[str, Any]:
        """Send a request and read one line of JSON."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(request.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(self.timeout):
                self._process.kill()
                raise UnsupportedError(
                    "EC303",
                    f"tflite-runtime gave no answer in {self.timeout:g} s",
                    where=self.where,
                    why="its process was ended",
                )
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if answer.get("missing"):
            raise MissingToolError(
                "EC601",
                "the Python environment lacks tflite-runtime",
                where=str(self._process.args[0]),  # type: ignore[index]
                why=answer["missing"],
                fix="ENV/bin/pip install tflite-runtime==2.14.0 numpy==1.26.4",
            )
        if answer.get("error"):
            raise UnsupportedError(
                "EC303",
                "tflite-runtime refuses the model",
                where=self.where,
                why=answer["error"],
                fix="export for this runtime, or update the runtime on the device",
            )
        return answer

    def _ended(self) -> UnsupportedError:
        status = self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return UnsupportedError(
            "EC303",
            "the process of tflite-runtime ended",
            where=self.where,
            why=f"{how}; {said[-1]}" if said else how,
        )
