"""Runs .tflite files with LiteRT (package ai-edge-litert) on this machine's CPU."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgec.export.errors import MissingToolError, UnsupportedError
from edgec.export.tflite import Model, Tensor, decode, encode, load
from edgec.export.tflite.names import input_names, output_names
from edgec.runtime.feeds import Tensor as Array
from edgec.runtime.feeds import ready

Kernels = Literal["xnnpack", "builtin", "reference"]
"""Which kernels run: XNNPACK's where it takes an operator and LiteRT's optimised ones elsewhere,
LiteRT's optimised ones, or its plain C++ ones, which define what an operator computes."""

_RESOLVERS: dict[Kernels, str] = {
    "xnnpack": "BUILTIN",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


class LiteRTRunner:
    """One interpreter.

    Integer inputs and outputs are given and returned as the integers of the file; the quantization
    of each is in `model`.

    Args:
        model: path, bytes or a decoded model.
        threads: threads inside an operator.
        kernels: which kernels run.
        keep: keep every intermediate value, for `value`.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
        InputError: the file is broken; it is checked before the interpreter sees it.
        UnsupportedError: the interpreter refuses the model.
    """

    def __init__(
        self,
        model: Path | bytes | Model,
        *,
        threads: int = 1,
        kernels: Kernels = "xnnpack",
        keep: bool = False,
    ) -> None:
        litert = _litert()
        self.where = str(model) if isinstance(model, Path) else None
        if isinstance(model, Model):
            self.model, data = model, encode(model)
        elif isinstance(model, bytes):
            self.model, data = decode(model), model
        else:
            self.model, data = load(model), model.read_bytes()
        resolver = litert.OpResolverType[_RESOLVERS[kernels]]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that keeping values is for debugging
                self.interpreter = litert.Interpreter(
                    model_content=data,
                    num_threads=threads,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=keep,
                )
            self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise UnsupportedError(
                "EC302",
                "LiteRT refuses the model",
                where=self.where,
                why=_reason(error),
                fix="update ai-edge-litert, or report the file if edgec wrote it",
            ) from error
        self._inputs = dict(zip(input_names(self.model), self.model.main.inputs, strict=True))
        self._outputs = dict(zip(output_names(self.model), self.model.main.outputs, strict=True))

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name."""
        return {name: self._interface(index) for name, index in self._inputs.items()}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name."""
        return {name: self._interface(index) for name, index in self._outputs.items()}

    def _interface(self, index: int) -> tuple[tuple[int, ...], str]:
        tensor = self.model.main.tensors[index]
        return tensor.shape, tensor.numpy_dtype.name

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference.

        Args:
            feeds: an array for every input, of its static shape; as `feeds.ready`.

        Raises:
            InputError: names, shapes or kinds of number do not match the model's inputs.
            UnsupportedError: a kernel fails.
        """
        for name, array in ready(feeds, self.inputs).items():
            self.interpreter.set_tensor(self._inputs[name], array)
        self._invoke()
        return {name: self.value(index) for name, index in self._outputs.items()}

    def _invoke(self) -> None:
        try:
            self.interpreter.invoke()
        except RuntimeError as error:
            raise UnsupportedError(
                "EC302", "LiteRT cannot run the model", where=self.where, why=_reason(error)
            ) from error

    def value(self, index: int) -> Array:
        """Copy of a tensor of the main subgraph after `run`; intermediate ones need ``keep``."""
        found: Array = self.interpreter.get_tensor(index)
        return found

    def seconds(self, repeats: int) -> list[float]:
        """Wall-clock seconds of inferences on the inputs of the last `run` (zeros before it)."""
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._invoke()
            times.append(time.perf_counter() - start)
        return times

    def partitions(self) -> list[list[int]]:
        """Operators (their positions in the file) that each of the delegate's parts replaces."""
        found = []
        producer = {o: i for i, op in enumerate(self.model.main.operators) for o in op.outputs}
        # the interpreter's public face does not tell; without this method there are no delegates
        for node in self.interpreter._get_ops_details():
            if node["op_name"] != "DELEGATE" and not node["op_name"].startswith("TfLiteXNNPack"):
                continue
            ends = set(map(int, node["inputs"]))
            waiting, covered = [int(o) for o in node["outputs"]], set()
            while waiting:
                tensor = waiting.pop()
                if tensor in ends or tensor not in producer or producer[tensor] in covered:
                    continue
                covered.add(producer[tensor])
                waiting += self.model.main.operators[producer[tensor]].inputs
            found.append(sorted(covered))
        return found


def dequantized(array: Array, tensor: Tensor) -> Array:
    """float32 values of a tensor's integers; floats as they are."""
    quantization = tensor.quantization
    if quantization is None or not np.issubdtype(array.dtype, np.integer):
        return array
    shape = [1] * array.ndim
    if quantization.per_channel:
        shape[quantization.axis] = -1
    zero = quantization.zero_point.reshape(shape if array.ndim else ())
    scale = quantization.scale.reshape(shape if array.ndim else ())
    return ((array.astype(np.int64) - zero) * scale.astype(np.float64)).astype(np.float32)


def _litert() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise MissingToolError(
            "EC600",
            "running .tflite files needs LiteRT",
            why=f"ai-edge-litert cannot be imported: {error}",
            fix="pip install 'edgec[tflite]'",
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
