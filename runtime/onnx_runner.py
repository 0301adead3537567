"""Runs ONNX artifacts with ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from edgec.export.errors import UnsupportedError
from edgec.runtime.feeds import Tensor, ready

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


def made_for_elsewhere(scheme: str | None) -> bool:
    """Whether an int8 graph's quantization scheme belongs to other hardware than this CPU.

    Judged with this CPU's integer kernels such a graph would show their faults, not its own: on x86
    without VNNI products of 8-bit weights saturate at 16 bit (ONNX Runtime documentation, "Quantize
    ONNX models", reduce_range), which a GPU or an Arm core does not do.

    Args:
        scheme: as in the manifest, e.g. ``"int8 (ort-x86)"``; None for float artifacts.
    """
    if scheme is None:
        return False
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return "ort-arm" not in scheme if arm else "ort-x86" not in scheme


class OnnxRunner:
    """One inference session.

    Args:
        model: path or serialized model.
        threads: threads inside an operator; spinning is off, because spinning threads on shared
            cores make latencies bimodal.
        emulate: run Q/DQ as written, integers rounded and arithmetic in float, instead of with this
            CPU's integer kernels; see `made_for_elsewhere`.

    Raises:
        UnsupportedError: ONNX Runtime cannot load or prepare the model.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, emulate: bool = False) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if emulate:
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self.session = ort.InferenceSession(
                source, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen pybind11 types without a base
            raise UnsupportedError(
                "EC381",
                "ONNX Runtime cannot load the model",
                where=None if isinstance(model, bytes) else str(model),
                why=str(error).splitlines()[0],
                fix="update onnxruntime, or export for an older opset",
            ) from error

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name."""
        return {i.name: (tuple(i.shape), _DTYPES[i.type]) for i in self.session.get_inputs()}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name."""
        return {o.name: (tuple(o.shape), _DTYPES[o.type]) for o in self.session.get_outputs()}

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference.

        Args:
            feeds: an array for every input, of its static shape; numbers are cast to another
                width (float64 to float32, int32 to int64), and integers to floats.

        Raises:
            InputError: names, shapes or kinds of number do not match the model's inputs.
        """
        values = self.session.run(None, ready(feeds, self.inputs))
        return dict(zip((o.name for o in self.session.get_outputs()), values, strict=True))
