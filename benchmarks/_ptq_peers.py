"""Other tools that quantize an ONNX file, as variants of the quantization benchmark."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _ptq import Feed, Variant, serialize
from numpy.typing import NDArray


def onnxruntime_static(
    name: str, model: ir.Model, method: str, *, per_channel: bool = True
) -> Variant:
    """onnxruntime.quantization.quantize_static, QDQ format, u8 activations, s8 weights of 7 bits.

    `reduce_range` is what its documentation asks for on x86 without VNNI.
    """
    from onnxruntime import quantization as q

    methods = {
        "minmax": q.CalibrationMethod.MinMax,
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Sequence[Feed]) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            feed = next(self.feeds, None)
            return None if feed is None else dict(feed)

    def make(feeds: Sequence[Feed]) -> bytes:
        logging.getLogger().setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(serialize(model))
            q.quantize_static(
                str(source),
                str(target),
                Reader(feeds),
                quant_format=q.QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=True,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
                calibrate_method=methods[method],
                extra_options={"CalibPercentile": 99.999} if method == "percentile" else {},
            )
            return target.read_bytes()

    return Variant(name, make)


def elsewhere(
    name: str, model: ir.Model, python: str, script: str, *options: str, emulated: bool = False
) -> Variant:
    """A peer that runs by an interpreter of its own: it pins other versions of onnx or torch.

    Its CPU time includes starting the interpreter and importing the package.

    Args:
        name: of the row.
        model: float graph.
        python: interpreter that has the package.
        script: ``_peer_<script>.py`` beside this file.
        options: further arguments of the script.
        emulated: the result is for another processor, see `Variant`.
    """

    def make(feeds: Sequence[Feed]) -> bytes:
        path = Path(__file__).with_name(f"_peer_{script}.py")
        with tempfile.TemporaryDirectory() as folder:
            source, data, target = (Path(folder) / n for n in ("a.onnx", "feeds.npz", "b.onnx"))
            source.write_bytes(serialize(model))
            np.savez(data, **{key: np.stack([feed[key] for feed in feeds]) for key in feeds[0]})
            command = [python, str(path), str(source), str(data), str(target), *options]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            return target.read_bytes()

    return Variant(name, make, emulated)
