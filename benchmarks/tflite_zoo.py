"""Every registered network as .tflite: does each precision load and run, and is it right?

    PYTHONPATH=.src python benchmarks/tflite_zoo.py --json benchmarks/results/tflite_zoo.json

Networks have random parameters and int8 is calibrated on noise: the figures tell whether the files
compute what the network computes, not how accurate it is. float32 files are compared with PyTorch
in float32; beside them stands what PyTorch's own float32 is off its float64, for networks that
amplify rounding. Every file runs with XNNPACK and with LiteRT's own kernels. Of the all-integer
file each operator is computed by the numpy reference on what LiteRT's reference kernels had before
it (`--reference` names up to how many million parameters), and where they differ, by LiteRT's
optimised kernel too. A file of results keeps the rows of what
is not measured again.
"""

from __future__ import annotations

import copy
import resource
from typing import Any

import numpy as np
import torch
from _rows import command_line, measure
from numpy.typing import NDArray
from tflite import calibration_noise, noise
from tflite_reader import single

from edgec import models
from edgec.export.capture.torch_export import from_torch
from edgec.export.emit.tflite.flavour import FLAVOURS
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL
from edgec.export.rewrite.engine import run_stages
from edgec.export.tflite import decode
from edgec.export.tflite.model import ABSENT, Model
from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.executor import KERNELS
from edgec.models.random_init import randomize
from edgec.runtime.litert_runner import LiteRTRunner
from edgec.runtime.tflite_artifact import TfliteArtifactRunner, as_stored

TITLE = "TFLite files of every network"
Array = NDArray[Any]


def row(name: str, largest: float) -> dict[str, Any]:
    """One network; `largest` millions of parameters are computed by the reference."""
    module = models.create_model(name).eval()
    randomize(module, 0)
    count = sum(p.numel() for p in module.parameters()) / 1e6
    shape = tuple(models.get_spec(name).input_shape)
    graph = from_torch(module, shape)
    run_stages(graph, target_opset=20, verify=False)
    feed = noise(graph, 100)
    (image,) = feed.values()
    with torch.no_grad():
        want = module(torch.from_numpy(image)).numpy()
        exact = copy.deepcopy(module).double()(torch.from_numpy(image).double()).numpy()
    del module
    found: dict[str, Any] = {
        "model": name,
        "variant": "all",
        "parameters_m": round(count, 2),
        "torch_float32_rounding": _relative(exact, want),
    }
    for precision in ("fp32", "fp16", "dyn8"):
        content = convert(graph, precision=precision).content  # type: ignore[arg-type]
        outputs, _ = _run(content, feed)
        for kernels, output in outputs.items():
            if precision == "fp32":
                found[f"fp32_difference_{kernels}"] = _relative(want, output)
            else:
                found[f"{precision}_sqnr_{kernels}"] = _sqnr(want, output)
    calibration = calibrate(graph, calibration_noise(graph), method="minmax")
    for scheme in (TFLITE, TFLITE_FULL):
        made = quantize(graph, calibration, scheme)
        content = convert(made, precision="int8", flavour=FLAVOURS[scheme.name]).content
        del made
        outputs, parts = _run(content, feed)
        label = "int8" if scheme is TFLITE else "full"
        for kernels, output in outputs.items():
            found[f"{label}_sqnr_{kernels}"] = _sqnr(want, output)
        found[f"{label}_partitions"] = parts
        if scheme is TFLITE_FULL and count <= largest:
            found |= against_reference(content, image)
    return found


def _run(content: bytes, feed: dict[str, Array]) -> tuple[dict[str, Array], int]:
    """Outputs with and without XNNPACK, and the delegate's parts."""
    outputs = {}
    parts = 0
    for kernels in ("xnnpack", "builtin"):
        runner = TfliteArtifactRunner(content, kernels=kernels)  # type: ignore[arg-type]
        (outputs[kernels],) = runner.run(feed).values()
        parts = max(parts, runner.partitions)
    return outputs, parts


def against_reference(content: bytes, image: Array) -> dict[str, Any]:
    """Integers that single operators of the numpy reference compute differently from LiteRT."""
    model = decode(content)
    main = model.main
    theirs = LiteRTRunner(model, kernels="reference", keep=True)
    (key,) = theirs.inputs
    theirs.run({key: as_stored(image, main.tensors[main.inputs[0]])})
    differing: dict[str, int] = {}
    steps = compared = 0
    for position, operator in enumerate(main.operators):
        kinds = {main.tensors[i].dtype for i in operator.outputs}
        if "FLOAT32" in kinds:  # floats have no exact order
            continue
        call = Call(
            operator,
            [None if i == ABSENT else main.tensors[i] for i in operator.inputs],
            [None if i == ABSENT else _value(theirs, i) for i in operator.inputs],
            [main.tensors[i] for i in operator.outputs],
        )
        result = KERNELS[operator.code](call)
        results = result if isinstance(result, list) else [result]
        for index, own in zip(operator.outputs, results, strict=True):
            away = np.abs(own.astype(np.int64) - theirs.value(index).astype(np.int64))
            compared += away.size
            if away.any():
                differing[operator.code] = differing.get(operator.code, 0) + int((away > 0).sum())
                other = _builtin(single(model, position), call)
                steps = max(steps, int(np.abs(own.astype(np.int64) - other).max()))
    return {"reference_compared": compared, "reference_differing": differing or 0} | (
        {"steps_to_optimised": steps} if differing else {}
    )


def _builtin(alone: Model, call: Call) -> Array:
    """What LiteRT's optimised kernel makes of the same operator."""
    runner = LiteRTRunner(alone, kernels="builtin")
    known = zip(call.tensors, call.arrays, strict=True)
    given = [array for tensor, array in known if tensor is not None and tensor.data is None]
    (found,) = runner.run(dict(zip(runner.inputs, given, strict=True))).values()
    return found.astype(np.int64)


def _value(runner: LiteRTRunner, index: int) -> Array:
    data = runner.model.main.tensors[index].data
    return runner.value(index) if data is None else data


def _relative(want: Array, got: Array) -> float:
    return float(f"{float(np.abs(want - got).max()) / float(np.abs(want).max()):.2g}")


def _sqnr(want: Array, got: Array) -> float:
    error = float(np.square(want.astype(np.float64) - got).sum())
    return round(10 * float(np.log10(np.square(want.astype(np.float64)).sum() / error)), 1)


def main() -> int:
    parser = command_line(__doc__, models.list_models())
    parser.add_argument(
        "--reference", type=float, default=4.0, help="millions of parameters at most"
    )
    arguments = parser.parse_args()

    def rows_of(name: str) -> list[dict[str, Any]]:
        found = row(name, arguments.reference)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(found, f"{peak:.1f} GiB", flush=True)
        return [found]

    measure(TITLE, arguments, rows_of)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
