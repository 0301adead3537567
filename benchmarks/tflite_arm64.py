"""Instructions per inference on Arm cores: LiteRT with XNNPACK, and ONNX Runtime, by precision.

    EDGEC_ARM64=/folder PYTHONPATH=.src python benchmarks/tflite_arm64.py \\
        --json benchmarks/results/tflite_arm64.json

What int8 gains cannot be seen on an x86 processor without VNNI: the integer kernels of phones and
boards use instructions (SDOT, Armv8.2) that it has no equal of. See `_arm64.py` for what is
counted and what EDGEC_ARM64 holds. Parameters are random and int8 is calibrated on noise: counts do
not depend on values. ``difference`` compares the outputs with those of the same file in the same
runtime on this machine, relative to the largest output. A file of results keeps the rows of what is
not measured again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from _arm64 import CORES, Core, Simulator
from _litert_torch import Feed
from _rows import command_line, measure
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tflite import calibration_noise, files, network, noise

from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.flavour import FLAVOURS
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import ORT_ARM

NETWORKS = (
    "mobilevit_xxs",
    "mobilevitv2_050",
    "edgenext_xx_small",
    "emov2_1m",
    "efficientformerv2_s0",
    "efficientformer_l1",
    "mobile_former_26m",
    "mcuformer_cifar10",
)
TITLE = "Instructions on Arm cores"
Arrays = Mapping[str, NDArray[Any]]


def contents(graph: ir.Model) -> dict[str, tuple[bytes, str]]:
    """Runtime and precision → file, its suffix."""
    found: dict[str, tuple[bytes, str]] = {}
    for variant, (made, precision, scheme) in files(graph).items():
        file = convert(made, precision=precision, flavour=FLAVOURS[scheme])  # type: ignore[arg-type]
        found[f"LiteRT {variant}"] = (file.content, ".tflite")
    found["ONNX Runtime fp32"] = (serialize(graph, "edgec"), ".onnx")
    calibration = calibrate(graph, calibration_noise(graph), method="minmax")
    integer = quantize(graph, calibration, ORT_ARM)
    found["ONNX Runtime int8"] = (serialize(integer, "edgec"), ".onnx")
    return found


def rows(name: str, core: Core) -> list[dict[str, Any]]:
    """Rows of one network on one core."""
    graph = network(name)
    feed = noise(graph, 100)
    made: list[dict[str, Any]] = []
    floats: dict[str, int] = {}
    for variant, (content, suffix) in contents(graph).items():
        inputs, expected = (_litert if suffix == ".tflite" else _onnx)(content, feed)
        with tempfile.TemporaryDirectory() as folder:
            found = Simulator(core, Path(folder)).count(content, suffix, inputs)
        runtime = variant.rsplit(" ", 1)[0] if suffix == ".onnx" else "LiteRT"
        floats.setdefault(runtime, found.instructions)
        made.append(
            {
                "model": name,
                "variant": f"{variant}, {core.name}",
                "core": core.name,
                "million_instructions": round(found.instructions / 1e6, 1),
                "ratio": round(found.instructions / floats[runtime], 3),
                "difference": _difference(expected, found.outputs),
            }
        )
    return made


def _litert(content: bytes, feed: Feed) -> tuple[Arrays, Arrays]:
    """Inputs as the file takes them, and its outputs here."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    inputs: dict[str, NDArray[Any]] = {}
    (value,) = feed.values()
    for detail in interpreter.get_input_details():
        shaped = value.transpose(0, 2, 3, 1) if value.shape != tuple(detail["shape"]) else value
        if detail["dtype"] is not np.float32:
            scale, zero_point = detail["quantization"]
            limits = np.iinfo(detail["dtype"])
            shaped = np.clip(np.rint(shaped / scale) + zero_point, limits.min, limits.max)
        inputs[detail["name"]] = shaped.astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    return inputs, {d["name"]: interpreter.get_tensor(d["index"]) for d in outputs}


def _onnx(content: bytes, feed: Feed) -> tuple[Arrays, Arrays]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return feed, dict(zip(names, session.run(None, feed), strict=True))


def _difference(expected: Arrays, found: Arrays) -> float:
    worst = max(float(np.abs(found[k].astype(float) - v).max()) for k, v in expected.items())
    return float(f"{worst / max(float(np.abs(v).max()) for v in expected.values()):.2g}")


def main() -> int:
    parser = command_line(__doc__, NETWORKS)
    parser.add_argument("--cores", default=",".join(core.name for core in CORES))
    arguments = parser.parse_args()
    cores = [core for core in CORES if core.name in arguments.cores.split(",")]
    measure(TITLE, arguments, lambda name: [row for core in cores for row in rows(name, core)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
