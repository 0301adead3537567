"""The report of a bundle: one dict, kept as ``report.json`` and printed as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

from edgec.export.bundle import Artifact, Manifest

SCHEMA = "edgec.report/1"


def make_report(
    manifest: Manifest,
    graph: dict[str, Any],
    warnings: list[str],
    prediction: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Join what the manifest and the stages know.

    Args:
        manifest: the bundle's manifest.
        graph: statistics of the float graph (nodes, MACs, activation peak) before and after.
        warnings: what the user should know, in the order it came up.
        prediction: of the latency on the target, or why there is none (`predict_artifact`).
    """
    return {
        "schema": SCHEMA,
        "edgec_version": manifest.edgec_version,
        "headline": manifest.headline,
        "model": manifest.model,
        "inputs": [tensor.to_json() for tensor in manifest.inputs],
        "outputs": [tensor.to_json() for tensor in manifest.outputs],
        "weights": manifest.weights,
        "target": {
            "name": manifest.target["name"],
            "title": manifest.target["title"],
            "notes": list(manifest.target["notes"]),
        },
        "graph": graph,
        "calibration": manifest.calibration,
        "artifacts": [vars(a) for a in manifest.artifacts],
        "latency": {
            "value_ms": None,
            "basis": "not measured on this device; `edgec bench BUNDLE --device local` measures "
            "the machine it runs on",
            "predicted": prediction,
        },
        "warnings": warnings,
    }


def text_report(report: dict[str, Any]) -> str:
    """The report as plain text, at most 100 columns where names allow it."""
    graph = report["graph"]
    lines = [
        report["headline"],
        "",
        f"target    {report['target']['title']} ({report['target']['name']})",
        *_tensors("inputs", report["inputs"]),
        *_tensors("outputs", report["outputs"]),
        f"network   {graph['nodes_before']} nodes captured, {graph['nodes']} after rewriting, "
        f"{graph['macs'] / 1e6:.1f} M MACs, {graph['parameters'] / 1e6:.2f} M parameters",
        *_patterns(graph.get("patterns", [])),
        *(
            [f"capture   max |Δ| to PyTorch {graph['capture_max_abs']:.2g}, on three seeded inputs"]
            if graph.get("capture_max_abs") is not None
            else []
        ),
        f"memory    activations peak at {mib(graph['activation_peak_bytes'])} in fp32 "
        "(liveness bound in graph order, without the runtime's own buffers)",
        f"latency   {report['latency']['basis']}",
        *_predicted(report["latency"].get("predicted")),
    ]
    calibration = report["calibration"]
    if calibration:
        lines.append(
            f"calibrated on {calibration['used']} of {calibration['count']} items of "
            f"{calibration['source']}, sha256 {calibration['sha256'][:12]}…, "
            f"method {calibration['method']}, recipe {calibration['recipe']['recipe']['name']} "
            f"({calibration['recipe']['chosen']})"
        )
        lines += _mixed_lines(calibration["recipe"]["steps"])
        lines += _placement_lines(calibration["recipe"]["steps"])
    found = [a["checks"]["lint"] for a in report["artifacts"] if "lint" in a["checks"]]
    if found:
        errors, warnings = (sum(f[key] for f in found) for key in ("errors", "warnings"))
        lines.append(f"lint      {errors} errors, {warnings} warnings; lint.json says where")
    lines += ["", *artifact_table(report["artifacts"])]
    lines += [f"note: {note}" for note in report["target"]["notes"]]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join(lines) + "\n"


def _predicted(prediction: dict[str, Any] | None) -> list[str]:
    """The line of the prediction, or of the reason for refusing one."""
    if prediction is None:
        return []
    return [f"          {prediction['line']}"]


def artifact_table(artifacts: list[dict[str, Any]]) -> list[str]:
    """One line per artifact: path, precision, size, and how it compares with fp32.

    Lines for the outputs follow where there are several.
    """
    width = max(len(a["path"]) for a in artifacts)
    kinds = max(14, *(len(a["scheme"] or a["precision"]) for a in artifacts))
    lines = []
    for a in artifacts:
        lines.append(
            f"{a['path']:<{width}}  {a['scheme'] or a['precision']:<{kinds}} "
            f"{'' if a['bytes'] is None else mib(a['bytes']):>10}  {a['status']:<7} "
            f"{a['why'] or artifact_text(a['checks'])}".rstrip()
        )
        lines += _per_output(a["checks"])
        lines += _proxy(a["checks"])
        lines += [f"  {d['line']}" for d in a["checks"].get("delegates", {}).values()]
        if "mixed" in a["checks"]:
            lines += [f"  {line}" for line in _mixed_lines([a["checks"]["mixed"]])]
        lines += [f"  {line}" for line in _timed(a)]
    return lines


def _timed(artifact: dict[str, Any]) -> list[str]:
    """Times of an int8 .tflite file and its mixes with float, or that there are none."""
    checks = artifact["checks"]
    if "mixes" in checks:
        return mix_lines(checks["mixes"])
    asked = "vs_qdq" in checks and "vs_source" not in checks and artifact["precision"] == "int8"
    return [UNTIMED] if asked and "xnnpack" in checks.get("delegates", {}) else []


def _proxy(checks: dict[str, Any]) -> list[str]:
    """What NVIDIA's compiler said of a TensorRT bundle, as far as it was asked."""
    proxy = checks.get("proxy")
    if proxy is None:
        return []
    head = f"proxy: {proxy['compiler']} for {proxy['capability']} ({proxy['stands_for']})"
    return [f"  {line}" for line in (head, *proxy["statements"])]


UNTIMED = "not timed beside float: --time-mixes tells what holds int8 up here"
"""What is said of an int8 .tflite file that was not timed."""

_TIMED = 27
"""Width of a predicted time with its interval."""


def _mixed_lines(steps: list[dict[str, Any]]) -> list[str]:
    """The measured points of a mixed precision search, cheapest first."""
    lines = []
    for step in steps:
        if step["step"] != "mixed":
            continue
        timed = "latency_basis" in step
        wide = any("int16x8" in point["precisions"].values() for point in step["front"])
        lines.append(
            "mixed     float blocks  "
            + ("int16x8 blocks  activations  " if wide else "")
            + "  weights"
            + ("  predicted ms (80 %)".ljust(_TIMED) if timed else "")
            + "  divergence  lost points  on held-out samples"
        )
        for point in step["front"]:
            count = Counter(point["precisions"].values())
            held = point["held_out_drop"]
            lines.append(
                f"          {count['float']:>5} of {len(point['precisions']):<3} "
                + (f"{count['int16x8']:>14}  {mib(point['activation_bytes']):>11}  " * wide)
                + f"{mib(point['bytes']):>10}"
                + (_milliseconds(point) if timed else "")
                + f"  {point['divergence']:>10.2g}  {point['drop']:>11.2f}  "
                + ("" if held is None else f"{held:.2f}")
                + (", chosen" if point == step["chosen"] else "")
            )
        if timed:
            lines.append(f"          time: {step['latency_basis']}")
    return [line.rstrip() for line in lines]


def _milliseconds(point: dict[str, Any]) -> str:
    low, high = point["latency_interval_ms"]
    return f"  {point['latency_ms']:>6.3g} ({f'{low:.3g} to {high:.3g}'})".ljust(_TIMED)


def _placement_lines(steps: list[dict[str, Any]]) -> list[str]:
    """What the proxy made of each placement of Q/DQ."""
    lines = []
    for step in steps:
        if step["step"] != "placement":
            continue
        lines.append(
            "placement     kernels  fused  attention  MACs on integers  SQNR (by the proxy)"
        )
        for row in step["candidates"]:
            noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
            lines.append(
                f"  {row['name']:<12}{row['kernels'] if row['built'] else 'refused':>7}"
                f"{row['fused']:>7}{row['attention']:>11}{row['integer_macs']:>18.0%}  {noise}"
                + (", chosen" if row["name"] == step["chosen"] else "")
            )
    return lines


def _per_output(checks: dict[str, Any]) -> list[str]:
    """A line per output of a network with several, where the artifact differs from fp32."""
    outputs = checks.get("vs_fp32", {}).get("outputs", {})
    if len(outputs) < 2:
        return []
    width = max(map(len, outputs))
    lines = []
    for name, found in outputs.items():
        parts = []
        if found["equal"] is not None:
            parts.append(f"{found['equal']:.2f} % equal")
        else:
            sqnr = found["sqnr_db"]
            parts.append("no difference" if sqnr is None else f"SQNR {sqnr:.1f} dB")
            parts.append(f"cosine {found['cosine']:.6f}")
        parts.append(f"max |Δ| {found['max_abs']:.2g}")
        lines.append(f"  {name:<{width}}  {', '.join(parts)}")
    return lines


def mix_lines(found: dict[str, Any]) -> list[str]:
    """Times of precision mixes (`tflite_mixes.time_mixes`): what holds int8 up, what is fastest."""
    ratios = found["ratios"]
    others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items() if name != "fp32")
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    lines = [f"time over fp32 here (LiteRT, {threads}, {found['cpu']}): {others}"]
    if found.get("held_up_by"):
        named = ", ".join(
            f"{one['what']} {100 * one['share']:.0f} %"
            + (f" ({one['over_fp32']:.1f}x fp32's)" if one["what"].startswith("int8") else "")
            for one in found["held_up_by"]
        )
        lines.append(f"int8 is held up by {named} of its operators' time")
    text = f"fastest: {found['fastest']}"
    if found["tied"]:
        text += f" (not measurably slower: {', '.join(found['tied'])})"
    if "written" in found:
        text += f"; this file is {found['written']}"
    elif "best" in found:
        text += f"; --fastest-mix makes this file {found['best']}"
    return [*lines, text]


def mib(size: int) -> str:
    """``5242880`` → ``5.00 MiB``; below 1 MiB in KiB."""
    return f"{size / 2**20:.2f} MiB" if size >= 1 << 20 else f"{size / 1024:.1f} KiB"


def _patterns(patterns: list[dict[str, Any]]) -> list[str]:
    """A line about what was recognised in the network, broken at commas."""
    if not patterns:
        return []
    text = ", ".join(f"{p['count']} x {p['title']}" for p in patterns)
    return textwrap.wrap(text, 100, initial_indent=f"{'patterns':<10}", subsequent_indent=" " * 10)


def _tensors(title: str, tensors: list[dict[str, Any]]) -> list[str]:
    """Lines about inputs or outputs: one, or one for each where there are several."""

    def text(tensor: dict[str, Any]) -> str:
        shape = "x".join(map(str, tensor["shape"])) or "scalar"
        stride = f", stride {tensor['stride']}" if "stride" in tensor else ""
        return f"{tensor['name']}: {tensor['dtype']} {shape}{stride}"

    return [f"{title if i == 0 else '':<9} {text(tensor)}" for i, tensor in enumerate(tensors)]


def headline(model: str, target: str, weights: dict[str, Any], artifacts: list[Artifact]) -> str:
    """First line of report and manifest: what it is, and loudly what it is not."""
    kinds = ", ".join(dict.fromkeys(a.scheme or a.precision for a in artifacts if a.why is None))
    line = f"{model} for {target}: {kinds}"
    if weights.get("kind") == "random":
        line = f"RANDOM WEIGHTS (no accuracy): {line}"
    return line


def artifact_text(checks: dict[str, Any]) -> str:
    """What was found when an artifact was run or planned, in a line."""
    parts = []
    if "not_run" in checks:
        parts.append(checks["not_run"])
    against = checks.get("vs_fp32")
    if against:
        if against["top1"] is not None:
            parts.append(f"top-1 {against['top1']:.2f} % (fp32 {against['top1_reference']:.2f} %)")
        elif against["top1_agreement"] is not None and against["samples"] > 1:
            parts.append(f"agrees with fp32 on {against['top1_agreement']:.2f} %")
        if against["sqnr_db"] is not None:
            parts.append(f"SQNR {against['sqnr_db']:.1f} dB")
        if against["not_finite"]:
            parts.append(f"NaN or infinity on {against['not_finite']}")
        if parts:
            parts[-1] += f" ({against['samples']} {checks['data']})"
    elif "vs_source" in checks:
        parts.append(f"max |Δ| to the captured graph {checks['vs_source']['max_abs']:.2g}")
    if checks.get("float32_nodes"):
        parts.append(f"{checks['float32_nodes']} nodes stay in float32")
    integer = checks.get("integer_kernels")
    if integer:
        weighted = integer["weighted"].values()
        inside = sum(kind["integer"] for kind in weighted)
        outside = sum(kind["float"] for kind in weighted)
        parts.append(f"{inside} of {inside + outside} weighted operators on integer kernels")
    floats = checks.get("float_operators")
    if floats:
        most = sorted(floats.items(), key=lambda item: (-item[1], item[0]))[:3]
        named = ", ".join(f"{count} {code}" for code, count in most)
        parts.append(f"{sum(floats.values())} operators stay in float ({named})")
    if "arena_bytes" in checks:
        proof = "proved optimal" if checks["arena_proved"] else "not proved optimal"
        parts.append(f"arena {mib(checks['arena_bytes'])} ({proof})")
        if checks.get("streamed"):
            parts.append(f"{len(checks['streamed'])} expansions row by row to fit")
        parts.append(f"constants {mib(checks['constant_bytes'])}")
        if checks.get("golden_sqnr_db") is not None:
            samples = checks["golden_samples"]
            parts.append(f"SQNR {checks['golden_sqnr_db']:.1f} dB ({samples} golden inputs)")
    if "failed" in (checks.get("gate"), checks.get("sqnr_gate")):
        parts.append("FAILED THE ACCURACY GATE")
    return ", ".join(parts)
