"""Runs .tflite artifacts of bundles behind the interface of the network that they came from.

The file takes and gives images as NHWC, and possibly integers; callers see the arrays of the ONNX
master: NCHW, float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.export.tflite.model import Tensor as TfliteTensor
from edgec.export.tflite.names import input_names, output_names
from edgec.runtime.feeds import Tensor, ready
from edgec.runtime.litert_runner import Kernels, LiteRTRunner, dequantized


def litert_installed() -> bool:
    """Whether .tflite files can be run here."""
    return importlib.util.find_spec("ai_edge_litert") is not None


class TfliteArtifactRunner:
    """One interpreter of a file that edgec wrote.

    Args:
        model: path or content.
        threads: threads inside an operator.
        kernels: see `LiteRTRunner`.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
        UnsupportedError: the interpreter refuses the file.
    """

    def __init__(
        self, model: Path | bytes, *, threads: int = 1, kernels: Kernels = "xnnpack"
    ) -> None:
        self.runner = LiteRTRunner(model, threads=threads, kernels=kernels)
        main = self.runner.model.main
        names = input_names(self.runner.model), output_names(self.runner.model)
        self._in = dict(zip(names[0], (main.tensors[i] for i in main.inputs), strict=True))
        self._out = dict(zip(names[1], (main.tensors[i] for i in main.outputs), strict=True))

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name, as of the ONNX master."""
        return {name: _interface(tensor) for name, tensor in self._in.items()}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name, as of the ONNX master."""
        return {name: _interface(tensor) for name, tensor in self._out.items()}

    @property
    def partitions(self) -> int:
        """Parts of the graph that delegates took over."""
        return len(self.runner.partitions())

    @property
    def steps(self) -> dict[str, float]:
        """Scale of the integers behind each output; outputs computed in float are left out."""
        main = self.runner.model.main
        moving = ("DEQUANTIZE", "RESHAPE", "TRANSPOSE")
        behind = {op.outputs[0]: op.inputs[0] for op in main.operators if op.code in moving}
        found = {}
        for name, index in zip(self._out, main.outputs, strict=True):
            while index in behind and main.tensors[index].quantization is None:
                index = behind[index]
            grid = main.tensors[index].quantization
            if grid is not None:
                found[name] = float(grid.scale[0])
        return found

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference on arrays of the ONNX master's shapes and dtypes.

        Raises:
            InputError: names, shapes or kinds of number do not match the inputs.
            UnsupportedError: a kernel fails.
        """
        arrays = {
            name: as_stored(array, self._in[name])
            for name, array in ready(feeds, self.inputs).items()
        }
        found = {}
        for name, array in self.runner.run(arrays).items():
            found[name] = as_given(array, self._out[name])
        return found


def _interface(tensor: TfliteTensor) -> tuple[tuple[int, ...], str]:
    shape = tensor.shape
    if len(shape) == 4:
        shape = (shape[0], shape[3], shape[1], shape[2])
    return shape, "float32" if tensor.quantization is not None else tensor.numpy_dtype.name


def as_stored(array: Tensor, tensor: TfliteTensor) -> Tensor:
    """An array of the ONNX master as the file's tensor holds it: channels last, on its grid."""
    last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    return np.ascontiguousarray(as_integers(np.asarray(last), tensor))


def as_given(array: Tensor, tensor: TfliteTensor) -> Tensor:
    """What a tensor of the file holds, as the ONNX master would have it."""
    value = dequantized(array, tensor)
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


def as_integers(array: Tensor, tensor: TfliteTensor) -> Tensor:
    """Real numbers on the grid of an integer input."""
    grid = tensor.quantization
    if grid is None:
        return array
    info = np.iinfo(tensor.numpy_dtype)
    levels = np.rint(array / grid.scale[0]) + grid.zero_point[0]
    found: Tensor = np.clip(levels, info.min, info.max).astype(tensor.numpy_dtype)
    return found
