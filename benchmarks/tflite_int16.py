"""int16x8 .tflite files read: our own and ai-edge-quantizer's, against LiteRT's reference kernels.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/tflite_int16.py \\
        --json benchmarks/results/tflite_int16.json

The networks trained on CIFAR-10, calibrated on their images; ai-edge-quantizer's have random
parameters. For each file: integers of all tensors that the numpy reference computes differently
from LiteRT; outputs that differ once the file was read and written again; and for the Q/DQ graph
in ONNX Runtime the largest difference of one operator on LiteRT's own inputs, in steps of its
output, and of the outputs from end to end. EDGEC_LITERT_TORCH (see `tflite.py`) adds the files of
ai-edge-quantizer. A file of results keeps the rows of what is not measured again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from _litert_torch import PEER_VARIABLE, Feed
from _ptq import serialize
from _ptq_networks import CIFAR, MissingError, cifar_graph, cifar_images
from _rows import command_line, measure
from tflite_reader import against_reference, graph_operators

from edgec.export.capture import from_tflite
from edgec.export.emit.tflite.flavour import INTEGER_16
from edgec.export.emit.tflite.write import convert
from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE_INT16X8
from edgec.export.rewrite.legalise.opset import WIDE_MASTER
from edgec.export.tflite import Model, decode, encode
from edgec.runtime.litert_runner import LiteRTRunner
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.tflite_artifact import as_integers

TITLE = "int16x8 files read"
PEER = "ai-edge-quantizer"
KNOWN, SCORED = 64, 4
"""Images that are calibrated on, and that files are compared on."""


def files(name: str, graph: ir.Model, known: list[Feed]) -> dict[str, bytes]:
    """Producer → file."""
    wide = ir.from_proto(ir.to_proto(graph))
    wide.opset_imports[""] = WIDE_MASTER  # its operators mean the same there
    made = quantize(wide, calibrate(graph, known), TFLITE_INT16X8)
    found = {"edgec": convert(made, precision="int16x8", flavour=INTEGER_16).content}
    if python := os.environ.get(PEER_VARIABLE):
        script = str(Path(__file__).with_name("_peer_litert_torch.py"))
        with tempfile.TemporaryDirectory() as folder:
            feeds, target = Path(folder) / "feeds.npz", Path(folder) / "out.tflite"
            np.savez(feeds, x=np.stack([next(iter(feed.values()))[0] for feed in known[:8]]))
            command = [python, script, name, "int16x8", str(target), str(feeds)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found[PEER] = target.read_bytes()
    return found


def examine(content: bytes, feeds: list[Feed]) -> dict[str, Any]:
    """What the module's docstring says, of one file."""
    model = decode(content)
    given = [_stored(model, feed) for feed in feeds]
    found: dict[str, Any] = {
        "bytes": len(content),
        "operators": len(model.main.operators),
        "round_trip_same": encode(decode(encode(model))) == encode(model),
    }
    try:
        found |= against_reference(model, given)
    except UnsupportedError as error:
        found["no_reference"] = f"{error.where}"
    again = _again(model)
    plain, other = (LiteRTRunner(m, kernels="reference") for m in (model, again))
    graph = OnnxRunner(
        serialize(from_tflite(model, integers=True, channels_first=False)), emulate=True
    )
    differing = worst = 0.0
    for feed, stored in zip(feeds, given, strict=True):
        (want,) = plain.run(stored).values()
        (got,) = other.run(_stored(again, feed)).values()
        (emulated,) = graph.run(stored).values()
        step = 1.0
        if want.dtype.kind == "f":  # behind a DEQUANTIZE
            step = float(_output_scale(model))
        differing += int((want != got).sum())
        worst = max(worst, float(np.abs(want.astype(float) - emulated).max()) / step)
    found |= {"written_again_differing": int(differing), "graph_steps": round(worst, 1)}
    steps = graph_operators(model, given[:1])["graph_operators"]
    more = {code: n for code, n in steps.items() if n > 1}
    return found | {"operator_steps": max(steps.values()), "operators_above_1": more}


def _again(model: Model) -> Model:
    """The file written from the graph that was read from it, with ends of the same kind."""
    floats = model.main.tensors[model.main.inputs[0]].dtype == "FLOAT32"
    return convert(
        from_tflite(model),
        precision="int16x8",
        ends="float" if floats else "integer",
        flavour=INTEGER_16,
    ).lowered.model


def _stored(model: Model, feed: Feed) -> dict[str, Any]:
    """An NCHW image in a file's layout and type."""
    ((name, image),) = feed.items()
    tensor = model.main.tensors[model.main.inputs[0]]
    image = image if image.shape == tensor.shape else image.transpose(0, 2, 3, 1)
    (name,) = LiteRTRunner(model, kernels="reference").inputs
    return {name: as_integers(image, tensor)}


def _output_scale(model: Model) -> float:
    """The step of the integers that the last DEQUANTIZE reads."""
    last = next(o for o in model.main.operators if o.outputs[0] == model.main.outputs[0])
    grid = model.main.tensors[last.inputs[0]].quantization
    assert grid is not None
    return float(grid.scale[0])


def main() -> int:
    arguments = command_line(__doc__, CIFAR).parse_args()
    try:
        seen, _ = cifar_images(train=True, limit=KNOWN)
        scored, _ = cifar_images(train=False, limit=SCORED)
    except MissingError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0

    def rows_of(short: str) -> list[dict[str, Any]]:
        name = f"{short}_cifar10"
        graph, preprocess = cifar_graph(name)
        key = str(graph.graph.inputs[0].name)
        known, feeds = ([{key: preprocess(i)[None]} for i in part] for part in (seen, scored))
        return [
            {"model": name, "variant": producer, **examine(content, feeds)}
            for producer, content in files(name, graph, known).items()
        ]

    measure(TITLE, arguments, rows_of)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
