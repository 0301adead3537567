"""TFLite files of zoo networks: size, operators, agreement, conversion cost, latency, accuracy.

    PYTHONPATH=.src python benchmarks/tflite.py --json benchmarks/results/tflite.json
    EDGEC_BENCH_DATA=/data ... benchmarks/tflite.py --part accuracy --limit 1000 \\
        --json benchmarks/results/tflite_accuracy.json
    ... benchmarks/tflite.py --part mixes --json benchmarks/results/tflite_mixes.json
    ... benchmarks/tflite.py --part routes --json benchmarks/results/tflite.json

A file of results that is there keeps the rows of what is not measured again.

EDGEC_LITERT_TORCH names a Python that has litert-torch 0.10.0, ai-edge-quantizer 0.10.0 and what
edgec needs: then their files of the same networks (same parameters, same calibration noise) stand
beside ours, timed in the same rounds. `route` is the whole way from the PyTorch module to the file,
in a process that has converted something tiny before; `--part routes` measures that again for our
rows that are there.

Latency is measured in LiteRT with XNNPACK, all precisions of a network interleaved in one process;
the ratio is the median over rounds of a precision's time over that of float32 in the same round.
Conversion is measured in a process of its own, from the rewritten ONNX graph (float or Q/DQ) to the
file; memory is the peak of that process above what it holds before, ONNX graph included. int8 files
of networks without data are calibrated on noise: their latency and size count, not their outputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from _litert_torch import PEER, Feed, PeerRunner, answer, counts, installed_mb, known_mb, peer_rows
from _ptq import data_folder, machine, save
from _ptq_networks import CIFAR, CIFAR_ARCHIVE, cifar_graph, cifar_images
from _rows import merged, table
from _timing import median_ratio
from numpy.typing import NDArray

from edgec import models
from edgec.export.capture.torch_export import from_torch
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.flavour import FLAVOURS
from edgec.export.emit.tflite.write import convert
from edgec.export.errors import EdgecError
from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL, TFLITE_INT16X8, QuantScheme
from edgec.export.rewrite.engine import run_stages
from edgec.export.tflite_mixes import Ground, Mix, time_mixes
from edgec.models.random_init import randomize
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.tflite_artifact import TfliteArtifactRunner

ZOO = ("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientformerv2_s0", "emov2_1m")
TITLES = {
    "structure": "TFLite files",
    "accuracy": "TFLite files on CIFAR-10",
    "mixes": "Precision mixes of TFLite files",
}
PARTS = (*TITLES, "routes")


def network(name: str, *, verify: bool = True) -> ir.Model:
    """The rewritten float graph of a zoo network with random parameters."""
    module = models.create_model(name).eval()
    randomize(module, 0)
    graph = from_torch(module, tuple(models.get_spec(name).input_shape))
    run_stages(graph, target_opset=20, verify=verify)
    return graph


def noise(graph: ir.Model, seed: int) -> Feed:
    """One seeded input."""
    rng = np.random.default_rng(seed)
    value = graph.graph.inputs[0]
    assert value.shape is not None
    shape = tuple(value.shape.numpy())
    return {str(value.name): rng.standard_normal(shape).astype(np.float32)}


def converted(graph: ir.Model, precision: str, scheme: str, folder: Path) -> dict[str, Any]:
    """Convert in a process of its own: content, CPU seconds, MiB above the imports."""
    source, target = folder / "in.onnx", folder / "out.tflite"
    source.write_bytes(serialize(graph, "edgec"))
    command = [sys.executable, __file__, "--convert", str(source), str(target), precision, scheme]
    found = answer(command)
    return found if "error" in found else found | {"content": target.read_bytes()}


def convert_here(source: Path, target: Path, precision: str, scheme: str) -> None:
    """The other end of `converted`."""
    graph = ir.load(source)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux, man 5 proc)
    start = time.process_time()
    file = convert(graph, precision=precision, flavour=FLAVOURS[scheme])  # type: ignore[arg-type]
    seconds = time.process_time() - start
    target.write_bytes(file.content)
    print(
        json.dumps(
            {
                "cpu_seconds": round(seconds, 2),
                "peak_mib": round(_memory("VmHWM") - before, 1),
                **counts(file.lowered.operators),
                "requantizations": file.lowered.requantizations,
            }
        )
    )


def routed(name: str, variant: str, target: Path) -> dict[str, Any]:
    """The whole way from the module to a file in a process of its own: seconds, MiB."""
    return answer([sys.executable, __file__, "--route", name, variant, str(target)])


def route_here(name: str, variant: str, target: Path) -> None:
    """The other end of `routed`."""
    module = models.create_model(name).eval()
    randomize(module, 0)
    tiny = from_torch(torch.nn.Conv2d(3, 4, 1).eval(), (3, 8, 8))  # imports what is imported late
    run_stages(tiny, target_opset=20)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    graph = from_torch(module, tuple(models.get_spec(name).input_shape))
    run_stages(graph, target_opset=20)
    precision, _, scheme = variant.partition(" ")
    if precision == "int8":
        calibration = calibrate(graph, calibration_noise(graph), method="minmax")
        made = TFLITE if scheme == TFLITE.name else TFLITE_FULL
        graph = quantize(graph, calibration, made)
    flavour = FLAVOURS[scheme or TFLITE.name]
    target.write_bytes(convert(graph, precision=precision, flavour=flavour).content)  # type: ignore[arg-type]
    seconds = time.process_time() - start
    found = {"route_cpu_seconds": round(seconds, 1)}
    print(json.dumps(found | {"route_peak_mib": round(_memory("VmHWM") - before, 1)}))


def _memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def calibration_noise(graph: ir.Model) -> list[Feed]:
    """What int8 files of random networks are calibrated on."""
    return [noise(graph, seed) for seed in range(4)]


def files(graph: ir.Model) -> dict[str, tuple[ir.Model, str, str]]:
    """Variant → graph, precision, scheme."""
    calibration = calibrate(graph, calibration_noise(graph), method="minmax")
    found = {p: (graph, p, TFLITE.name) for p in ("fp32", "fp16", "dyn8")}
    for scheme in (TFLITE, TFLITE_FULL):
        made = quantize(graph, calibration, scheme)
        found[f"int8 {scheme.name}"] = (made, "int8", scheme.name)
    return found


def ground_of(graph: ir.Model) -> tuple[Ground, list[Mix]]:
    """What precision mixes of a network are made from, and its files of one precision."""
    calibration = calibrate(graph, calibration_noise(graph), method="minmax")
    ground = Ground(graph, calibration, TFLITE, FLAVOURS[TFLITE.name])
    plain: list[Mix] = []
    for precision in ("fp32", "fp16", "dyn8"):
        file = convert(graph, precision=precision)  # type: ignore[arg-type]
        plain.append(Mix(precision, file.content, file.lowered))
    return ground, [*plain, ground.mix("int8")]


def fastest_mix(graph: ir.Model) -> Mix | None:
    """What ``--fastest-mix`` writes on this machine; None where it is int8."""
    ground, plain = ground_of(graph)
    best = time_mixes(plain, ground, noise(graph, 100)).best
    return None if best is None else ground.mix(*best)


def structure(name: str, threads: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Rows of one network."""
    graph = network(name)
    feed = noise(graph, 100)
    reference = OnnxRunner(serialize(graph, "")).run(feed)
    rows: list[dict[str, Any]] = []
    contents: dict[str, bytes] = {}
    for variant, (made, precision, scheme) in files(graph).items():
        with tempfile.TemporaryDirectory() as folder:
            found = converted(made, precision, scheme, Path(folder))
            found |= routed(name, variant, Path(folder) / "out.tflite")
        content = found.pop("content", None)
        if content is not None:
            contents[variant] = content
        rows.append({"model": name, "variant": variant, **found})
    mix = fastest_mix(graph)
    if mix is not None:
        contents["int8 fastest mix"] = mix.content
        row = {"model": name, "variant": "int8 fastest mix", **counts(mix.lowered.operators)}
        rows.append(row)
    peers, theirs = peer_rows(name, calibration_noise(graph))
    contents |= theirs
    for row in (rows := [*rows, *peers]):
        content = contents.get(row["variant"])
        if content is not None:
            row["bytes"] = len(content)
            for kernels in ("xnnpack", "builtin"):
                try:
                    runner = _runner(row["variant"])(content, kernels=kernels)
                    row[f"difference_{kernels}"] = _relative(reference, runner.run(feed))
                except EdgecError as error:
                    row["error"] = f"{kernels}: {error.what}: {error.why}"
                    contents.pop(row["variant"], None)
                else:
                    if kernels == "xnnpack":
                        row["partitions"] = runner.partitions
    for count in threads:
        samples = timed(contents, feed, count, rounds)
        for row in rows:
            if row["variant"] in samples:
                own, base = samples[row["variant"]], samples["fp32"]
                row[f"ms_{count}t"] = round(statistics.median(own), 3)
                row[f"ratio_{count}t"] = round(median_ratio(own, base), 3)
    return rows


def _runner(variant: str) -> type[PeerRunner] | type[TfliteArtifactRunner]:
    return PeerRunner if variant.endswith(PEER) else TfliteArtifactRunner


def timed(
    contents: Mapping[str, bytes], feed: Feed, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds per variant, interleaved."""
    runners = {k: _runner(k)(c, threads=threads) for k, c in contents.items()}
    samples: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.run(feed)
    names = list(runners)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(runners[name].runner.seconds(1)[0] * 1e3)
    return samples


def _relative(reference: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    pairs = zip(reference.values(), other.values(), strict=True)  # tools rename outputs
    worst = max(float(np.abs(theirs - own).max()) for own, theirs in pairs)
    scale = max(float(np.abs(v).max()) for v in reference.values())
    return float(f"{worst / scale:.2g}")


def accuracy(name: str, limit: int, images: int) -> list[dict[str, Any]]:
    """Top-1 of a CIFAR-10 network: ONNX float, and each .tflite file in LiteRT."""
    graph, preprocess = cifar_graph(f"{name}_cifar10")
    key = str(graph.graph.inputs[0].name)
    seen, _ = cifar_images(train=True, limit=images)
    scored, labels = cifar_images(train=False, limit=limit)
    known: list[Feed] = [{key: preprocess(image)[None]} for image in seen]
    feeds: list[Feed] = [{key: preprocess(image)[None]} for image in scored]
    calibration = calibrate(graph, known)
    floats = OnnxRunner(serialize(graph, ""))
    base = np.array([_best(floats.run(feed)) for feed in feeds])
    contents = {p: convert(graph, precision=p).content for p in ("fp32", "fp16", "dyn8")}
    references: dict[str, NDArray[np.int64]] = {}
    wide = ir.from_proto(ir.to_proto(graph))
    wide.opset_imports[""] = TFLITE_INT16X8.lowest_opset  # operators of opset 20 mean the same
    for scheme in (TFLITE, TFLITE_FULL, TFLITE_INT16X8):
        precision = "int16x8" if scheme is TFLITE_INT16X8 else "int8"
        made = _quantized(wide if precision == "int16x8" else graph, calibration, known, scheme)
        file = convert(made, precision=precision, flavour=FLAVOURS[scheme.name])  # type: ignore[arg-type]
        variant = f"{precision} {scheme.name}"
        contents[variant] = file.content
        emulated = OnnxRunner(serialize(made, ""), emulate=True)
        references[variant] = np.array([_best(emulated.run(f)) for f in feeds])
    head = {"model": f"{name}_cifar10", "images": len(feeds)}
    rows: list[dict[str, Any]] = [
        {**head, "variant": "onnx fp32", "top1": _percent(base == labels)}
    ]
    for variant, content in contents.items():
        runner = TfliteArtifactRunner(content)
        best = np.array([_best(runner.run(feed)) for feed in feeds])
        row = {
            **head,
            "variant": variant,
            "top1": _percent(best == labels),
            "agreement": _percent(best == base),
            "bytes": len(content),
            "partitions": runner.partitions,
        }
        if variant in references:
            row["top1_qdq"] = _percent(references[variant] == labels)
            row["agreement_qdq"] = _percent(best == references[variant])
        rows.append(row)
    return rows


def routes(name: str, path: Path) -> list[dict[str, Any]]:
    """Our rows of a network in a file of results, with the whole way measured again."""
    known = [row for row in json.loads(path.read_text())["rows"] if row["model"] == name]
    with tempfile.TemporaryDirectory() as folder:
        return [
            row | routed(name, row["variant"], Path(folder) / "out.tflite")
            for row in known
            if not row["variant"].endswith(PEER)
        ]


def mixes(name: str, threads: tuple[int, ...]) -> list[dict[str, Any]]:
    """One row per number of threads: ratios of int8, its mixes with float32 and what holds it up.

    The row's ``variant`` says what was compared, so that rows of several parts fit one table.
    """
    graph = network(name)
    ground, plain = ground_of(graph)
    rows = []
    for count in threads:
        found = time_mixes(plain, ground, noise(graph, 100), threads=count).found
        held = [f"{one['what']} {100 * one['share']:.0f} %" for one in found.get("held_up_by", [])]
        rows.append(
            {
                "model": name,
                "variant": f"mixes, {count} threads",
                "fp32_ms": found["fp32_ms"],
                **{f"{mix} / fp32": ratio for mix, ratio in found["ratios"].items()},
                "fastest": found["fastest"],
                "bytes / int8": round(found["bytes"][found["fastest"]] / found["bytes"]["int8"], 3),
                "tied": ", ".join(found["tied"]),
                "int8 held up by": ", ".join(held),
            }
        )
    return rows


def _quantized(
    graph: ir.Model, calibration: Any, known: list[Feed], scheme: QuantScheme
) -> ir.Model:
    return quantize(correct_biases(graph, known, scheme), calibration, scheme)


def _best(outputs: Mapping[str, Any]) -> int:
    return int(np.argmax(next(iter(outputs.values()))))


def _percent(hits: NDArray[np.bool_]) -> float:
    return round(100 * float(hits.mean()), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, default="structure")
    parser.add_argument(
        "--networks", help="comma-separated; by default five of the zoo or of CIFAR"
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--limit", type=int, default=5000, help="images to score on")
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--convert", nargs=4, metavar=("IN", "OUT", "PRECISION", "SCHEME"))
    parser.add_argument("--route", nargs=3, metavar=("NETWORK", "VARIANT", "OUT"))
    arguments = parser.parse_args()
    if arguments.convert:
        source, target, precision, scheme = arguments.convert
        convert_here(Path(source), Path(target), precision, scheme)
        return 0
    if arguments.route:
        name, variant, target = arguments.route
        route_here(name, variant, Path(target))
        return 0
    rows: list[dict[str, Any]] = []
    names = arguments.networks or ",".join(CIFAR if arguments.part == "accuracy" else ZOO)
    folder = data_folder()
    if arguments.part == "accuracy" and (folder is None or not (folder / CIFAR_ARCHIVE).exists()):
        print(f"skipped: EDGEC_BENCH_DATA with {CIFAR_ARCHIVE} is not there", file=sys.stderr)
        return 0
    for name in names.split(","):
        if arguments.part == "mixes":
            rows += mixes(name, tuple(int(t) for t in arguments.threads.split(",")))
        elif arguments.part == "routes":
            rows += routes(name, arguments.json)
        elif arguments.part == "structure":
            threads = tuple(int(t) for t in arguments.threads.split(","))
            rows += structure(name, threads, arguments.rounds)
        else:
            rows += accuracy(name, arguments.limit, arguments.calibration_images)
        if arguments.json is not None:
            part = "structure" if arguments.part == "routes" else arguments.part
            facts = {"part": part, **machine()}
            if part == "structure":
                facts["installed MB beyond torch"] = installed_mb() | known_mb(arguments.json)
            save(TITLES[part], merged(rows, arguments.json), facts, arguments.json)
    table(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
