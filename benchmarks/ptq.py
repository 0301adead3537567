"""Post-training quantization of trained networks, beside its peers: one table.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/ptq.py --json ptq.json
    ... --networks ppocr_rec --only "edgec x86|nncf"
    ... --nncf nncf/bin/python --modelopt modelopt/bin/python --aimet aimet/bin/python

Networks and data: see _ptq_networks.py; what is not on the machine is skipped. Peers that pin other
versions run by interpreters of their own (nncf==3.4.0, nvidia-modelopt[onnx]==0.47.0,
aimet-onnx==2.42.0). All start from the graph that edgec rewrote, are calibrated and scored on the
same samples. `±` is the standard error of the drop, from the samples on which the two differ.
Schemes for other processors and other widths run as written, without latency. With --json, rows of
this run replace those of the same network and name in the file.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from _ptq import Row, Variant, by_recipe, heading, line, row, save, serialize
from _ptq_networks import NETWORKS, MissingError, Network, load
from _ptq_peers import elsewhere, onnxruntime_static
from _ptq_score import Reference, merged, reference_of, score
from _timing import interleaved, median_ratio

from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.operands import is_depthwise
from edgec.export.quantize.placement import placed
from edgec.export.quantize.plan import WEIGHTED
from edgec.export.quantize.recipes.choose import choose_recipe
from edgec.export.quantize.recipes.recipe import builtin_recipes
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_U8, ORT_X86_VNNI, TENSORRT, QuantScheme
from edgec.export.rewrite.graph import shape_of

PER_TENSOR = replace(ORT_X86_VNNI, name="per-tensor weights", per_channel=False)
SCHEMES: dict[str, QuantScheme] = {
    "x86": ORT_X86,
    "x86, u8 weights": ORT_X86_U8,
    "TensorRT": TENSORRT,
    "TensorRT, fused arms": placed(TENSORRT, "fused-arms"),
    "per-tensor": PER_TENSOR,
    "W6A6": ORT_X86_VNNI.with_bits(6, 6),
    "W4A8": ORT_X86_VNNI.with_bits(4, 8),
}
EIGHT = {
    "W4A8, ends at 8 bits": False,
    "W4A8, ends and depthwise at 8 bits": True,
}
"""W4A8 with all eight bits in the weights of the first and the last layer, as the literature has it
(Esser et al., LSQ, arXiv 1902.08153); or in those of depthwise convolutions, too."""
EMULATED = ("TensorRT", "TensorRT, fused arms", "per-tensor")


def variants(network: Network, recipes: list[str], arguments: argparse.Namespace) -> list[Variant]:
    """What is compared."""
    model, known = network.model, builtin_recipes()
    found = []
    schemes = SCHEMES | {title: eight_bits(model, each) for title, each in EIGHT.items()}
    for title, scheme in schemes.items():
        for name in recipes:
            chosen = known[name] if name in known else choose_recipe(name, None, scheme, model)[0]
            label = f"edgec {title}, {Path(name).stem}"
            found.append(by_recipe(label, model, chosen, scheme, emulated=title in EMULATED))
    for method in ("minmax", "percentile", "entropy"):
        found.append(onnxruntime_static(f"onnxruntime {method}", model, method))
    found.append(
        onnxruntime_static("onnxruntime per-tensor, minmax", model, "minmax", per_channel=False)
    )
    if arguments.nncf:
        found += [
            elsewhere("nncf", model, arguments.nncf, "nncf"),
            elsewhere("nncf transformer, mixed", model, arguments.nncf, "nncf", "transformer"),
        ]
    if arguments.modelopt:
        for method in ("max", "entropy"):
            python, name = arguments.modelopt, f"modelopt {method}"
            found.append(elsewhere(name, model, python, "modelopt", method, emulated=True))
    if arguments.aimet:
        found.append(elsewhere("aimet", model, arguments.aimet, "aimet", emulated=True))
    wanted = arguments.only.split("|")
    return [variant for variant in found if any(part in variant.name for part in wanted)]


def eight_bits(model: ir.Model, depthwise: bool) -> QuantScheme:
    """W4A8 but for the ends, and for depthwise convolutions where asked."""
    weighted = [
        n for n in model.graph if n.op_type in WEIGHTED and constant_of(n.inputs[1]) is not None
    ]
    kept = [weighted[0], weighted[-1]]
    if depthwise:
        kept += [n for n in weighted if is_depthwise(n, shape_of(n.inputs[1]))]
    for number, node in enumerate(model.graph):
        node.name = f"node_{number}"  # one called "Conv" would stand for all of them
    scheme = SCHEMES["W4A8"]
    return replace(scheme, weight_bits_of={str(node.name): 8 for node in kept})


def measure(network: Network, variant: Variant, reference: Reference, rounds: int) -> Row:
    """Quantize for every fold, score, time."""
    found = score(network, variant.make, reference, emulated=variant.emulated)
    ratio = None
    if not variant.emulated:
        graphs = {"float": serialize(network.model), "int8": found.data}
        samples = interleaved(
            graphs, network.samples[0], threads=1, rounds=rounds, clock=time.thread_time
        )
        ratio = median_ratio(samples["int8"], samples["float"])
    return row(variant.name, found, reference.scores.correct, ratio)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--recipes", default="auto,default,plain", help="of edgec")
    parser.add_argument(
        "--only", default="", help="variants with this in the name; a|b for several"
    )
    parser.add_argument("--limit", type=int, help="samples to score on")
    parser.add_argument("--calibration", type=int, help="calibration samples")
    parser.add_argument("--rounds", type=int, default=30, help="latency rounds")
    parser.add_argument("--nncf", help="Python interpreter that has nncf")
    parser.add_argument("--modelopt", help="Python interpreter that has nvidia-modelopt")
    parser.add_argument("--aimet", help="Python interpreter that has aimet-onnx")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name in arguments.networks.split(","):
        try:
            network = load(name, limit=arguments.limit, calibration=arguments.calibration)
        except MissingError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        reference = reference_of(network)
        rows = [row("float32", reference.scores, reference.scores.correct, 1.0)]
        heading(f"{name}: {network.metric}")
        line(rows[0])
        failed = {}
        for variant in variants(network, arguments.recipes.split(","), arguments):
            try:
                rows.append(measure(network, variant, reference, arguments.rounds))
            except Exception as error:
                if variant.name.startswith("edgec"):
                    raise
                failed[variant.name] = str(error).strip().splitlines()[0][:100]
                print(f"{variant.name}: does not run: {failed[variant.name]}", flush=True)
                continue
            line(rows[-1])
            keep(network, rows, failed, arguments.json)
    return 0


def keep(network: Network, rows: list[Row], failed: dict[str, str], path: Path | None) -> None:
    """Write the rows into the file, in place of those with the same name."""
    if path is None:
        return
    facts, records = merged(network, rows, path)
    measured = {(r["model"], r["name"]) for r in records}
    broken = {**facts.get("did not run", {})}
    broken |= {f"{network.label}: {name}": why for name, why in failed.items()}
    facts["did not run"] = {k: v for k, v in broken.items() if tuple(k.split(": ")) not in measured}
    save("Post-training quantization", records, facts, path)


if __name__ == "__main__":
    raise SystemExit(main())
