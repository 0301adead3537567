"""From records to pages: which sections a result has and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgec.export.errors import InputError
from edgec.export.page.blocks import Block, bars, facts, notes, number, section, table
from edgec.export.report import artifact_text, mib, mix_lines
from edgec.profiles.side_by_side import by_module

Record = Mapping[str, Any]
Section = dict[str, Any]
SCHEMA = "edgec.page/1"
MOST_BESIDE = 20
"""Modules of which predicted and measured times are compared."""


def page(parts: Sequence[tuple[Record, str | None, Mapping[str, Block]]]) -> dict[str, Any]:
    """Everything on the page, JSON-ready.

    Args:
        parts: for each result its record; of a bundle also the command that made it, and what was
            drawn of it: ``arena``, ``waterline``, ``sizes``.

    Raises:
        InputError: EC710, a record of another kind.
    """
    results = []
    reports = [record for record, _, _ in parts if record.get("schema") == "edgec.report/1"]
    for record, command, drawings in parts:
        schema = str(record.get("schema"))
        if schema == "edgec.report/1":
            results.append(_export(record, command, drawings))
        elif schema == "edgec.bench/1":
            results.append(_bench(record, reports))
        elif schema in _OTHERS:
            results.append(_OTHERS[schema](record))
        else:
            raise InputError(
                "EC710",
                f"no report can be made of {schema!r}",
                fix="give a bundle, or a record of edgec bench or edgec eval --explain",
            )
    titles = list(dict.fromkeys(result["title"] for result in results))
    return {"title": "; ".join(titles), "results": results}


def _result(title: str, headline: str, sections: Iterable[Section | None]) -> dict[str, Any]:
    return {"title": title, "headline": headline, "sections": [s for s in sections if s]}


def _export(report: Record, command: str | None, drawn: Mapping[str, Block]) -> dict[str, Any]:
    graph, target, model = report["graph"], report["target"], report["model"]
    summary = facts(
        [
            ("Target", f"{target['title']} ({target['name']})"),
            ("Inputs", _tensors(report["inputs"])),
            ("Outputs", _tensors(report["outputs"])),
            ("Weights", _weights(report["weights"])),
            ("Multiply-accumulates", f"{graph['macs'] / 1e6:.1f} M"),
            ("Parameters", f"{graph['parameters'] / 1e6:.2f} M"),
            ("Nodes", f"{graph['nodes_before']} captured, {graph['nodes']} after rewriting"),
            ("edgec", report["edgec_version"]),
        ]
    )
    artifacts = table(
        ("artifact", "precision", "bytes", "status", "checks"),
        [
            (
                a["path"],
                a["scheme"] or a["precision"],
                "" if a["bytes"] is None else f"{a['bytes']:,}",
                a["status"],
                a["why"] or artifact_text(a["checks"]),
            )
            for a in report["artifacts"]
        ],
    )
    operators = sorted(graph["operators"].items(), key=lambda item: (-item[1], item[0]))
    patterns = [f"{p['count']} × {p['title']}" for p in graph.get("patterns", [])]
    return _result(
        f"{model.get('name')} on {target['title']}",
        report["headline"],
        [
            section("Summary", summary),
            section("Artifacts", artifacts, notes(_divided(report["artifacts"]))),
            section("Precision mixes", *_mixes(report["artifacts"])),
            section("Accuracy", *_accuracy(report)),
            section("Latency", notes(_latency(report["latency"])), _predicted(report["latency"])),
            section("Memory", _memory(graph), drawn.get("arena")),
            section("Size by layer", drawn.get("sizes")),
            section("Waterline", drawn.get("waterline")),
            section(
                "Network",
                notes([f"Recognised: {', '.join(patterns)}."] if patterns else []),
                bars("nodes", [(name, float(count), "") for name, count in operators]),
            ),
            section("Quantization", _calibration(report["calibration"])),
            section("Warnings", notes(report["warnings"])),
            section("Notes on the target", notes(target["notes"])),
            section("Reproduce", notes([command] if command else [])),
        ],
    )


def _tensors(tensors: Sequence[Record]) -> str:
    return ", ".join(
        f"{t['name']}: {t['dtype']} {'×'.join(map(str, t['shape'])) or 'scalar'}" for t in tensors
    )


def _weights(weights: Record) -> str:
    if weights.get("kind") == "random":
        return "RANDOM: no accuracy"
    return str(weights.get("source") or weights.get("kind") or "those of the file")


def _latency(latency: Record) -> list[str]:
    value = latency.get("value_ms")
    basis = str(latency["basis"])
    predicted = latency.get("predicted")
    return [
        f"{value:.3g} ms, {basis}" if value is not None else basis,
        *([f"{predicted['artifact']}: {predicted['line']}"] if predicted else []),
    ]


def _predicted(latency: Record) -> Block | None:
    """Predicted milliseconds by layer, the slowest first."""
    layers = (latency.get("predicted") or {}).get("layers") or []
    slowest = sorted(layers, key=lambda layer: -layer["ms"])
    rows = [(x["module"] or x["name"], x["ms"], x["kind"]) for x in slowest]
    return bars("ms predicted", rows) if rows else None


def _memory(graph: Record) -> Block:
    peak = graph["activation_peak_bytes"]
    return facts([("Activations, peak in fp32", f"{mib(peak)} (liveness bound in graph order)")])


def _accuracy(report: Record) -> list[Block]:
    """Bars by artifact: top-1 where there are labels, else agreement, and SQNR."""
    against = {a["path"]: (a["checks"].get("vs_fp32"), a["checks"]) for a in report["artifacts"]}
    known = {path: pair for path, pair in against.items() if pair[0]}
    blocks = []
    scored = [(p, v["top1"], v, c) for p, (v, c) in known.items() if v["top1"] is not None]
    if scored:
        reference = scored[0][2]["top1_reference"]
        rows = [("fp32", reference, "")]
        rows += [(p, top1, f"{v['samples']} {c['data']}") for p, top1, v, c in scored]
        blocks.append(bars("% top-1", rows))
    agreed = [
        (p, v["top1_agreement"], f"{v['samples']} {c['data']}")
        for p, (v, c) in known.items()
        if v["top1_agreement"] is not None
    ]
    blocks.append(bars("% agree with fp32", agreed))
    noise = [(p, v["sqnr_db"], "") for p, (v, _) in known.items() if v["sqnr_db"] is not None]
    blocks.append(bars("dB signal to quantization noise", noise))
    return blocks


def _divided(artifacts: Sequence[Record]) -> list[str]:
    """How delegates divide each file."""
    return [
        f"{a['path']}: {found['line']}"
        for a in artifacts
        for found in a["checks"].get("delegates", {}).values()
    ]


def _mixes(artifacts: Sequence[Record]) -> list[Block]:
    """Times of int8 and its mixes with float, what holds int8 up, what is fastest."""
    blocks = []
    for found in (a["checks"]["mixes"] for a in artifacts if "mixes" in a["checks"]):
        ratios = sorted(found["ratios"].items(), key=lambda item: item[1])
        unit = f"of the time of fp32, which is {number(found['fp32_ms'])} ms here"
        blocks.append(bars(unit, [(name, ratio, "") for name, ratio in ratios]))
        blocks.append(notes(mix_lines(found)[1:]))
    return blocks


def _calibration(calibration: Record | None) -> Block | None:
    if not calibration:
        return None
    recipe = calibration["recipe"]
    return facts(
        [
            ("Data", calibration["source"]),
            ("SHA-256", calibration["sha256"]),
            ("Used", f"{calibration['used']} of {calibration['count']} items"),
            ("Held out", calibration["held_out"]),
            ("Ranges", calibration["method"]),
            ("Recipe", f"{recipe['recipe']['name']}: {recipe['recipe']['title']}"),
            ("Chosen", recipe["chosen"]),
        ]
    )


def _bench(record: Record, reports: Sequence[Record]) -> dict[str, Any]:
    before, after = record["environment_before"], record["environment_after"]
    slowed = record.get("throttled")
    conditions = table(
        ("condition", "before", "after"),
        [
            *((key.replace("_", " "), value, after.get(key)) for key, value in before.items()),
            ("slowed down meanwhile", "", None if slowed is None else "yes" if slowed else "no"),
        ],
    )
    results = record["results"]
    summary = bars(
        "ms median",
        [
            (
                r["artifact"],
                r["latency"]["median_ms"],
                _spread(r["latency"]),
            )
            for r in results
        ],
    )
    checks = table(
        ("artifact", "largest difference to golden", "relative"),
        [
            (r["artifact"], r["output_check"]["max_abs"], r["output_check"]["relative"])
            for r in results
            if r.get("output_check")
        ],
    )
    layers = [
        section(
            f"Layers of {r['artifact']}",
            bars("ms", [(x["module"] or x["name"], x["ms"], x["name"]) for x in r["layers"]]),
        )
        for r in results
        if r.get("layers")
    ]
    title = f"{record.get('model')} measured on {record['device']}"
    return _result(
        title,
        f"{title}: {record['runtime']}, {record.get('threads', 1)} thread(s)",
        [
            section("Latency", summary),
            *(_beside(record, r, reports) for r in results),
            *layers,
            section("Energy", _energy(results)),
            section("Outputs", checks),
            section("Conditions", conditions),
        ],
    )


def _beside(record: Record, result: Record, reports: Sequence[Record]) -> Section | None:
    """Measured modules, the slowest first, each with its predicted time under it, where a bundle
    on the page has a prediction of the same artifact."""
    for report in reports:
        predicted = report["latency"].get("predicted") or {}
        same = report["model"].get("name") == record.get("model")
        if not same or predicted.get("artifact") != result["artifact"]:
            continue
        if not (predicted.get("layers") and result.get("layers")):
            continue
        measured: dict[str, float] = {}
        for layer in result["layers"]:
            module = layer["module"] or ""
            measured[module] = measured.get(module, 0.0) + layer["ms"]
        found = by_module([(x["module"], 0, x["ms"]) for x in predicted["layers"]], measured)
        both = [row for row in found if row["measured"] and row["predicted_ms"]]
        slowest = sorted(both, key=lambda row: -row["measured"])[:MOST_BESIDE]
        rows = []
        for row in slowest:
            rows.append((row["module"] or "without a module", row["measured"], "measured"))
            rows.append(("", row["predicted_ms"], "predicted"))
        return section(
            f"Predicted beside measured, {result['artifact']}",
            notes([predicted["line"]]),
            bars("ms", rows),
        )
    return None


def _energy(results: Sequence[Record]) -> Block:
    head = ("artifact", "meter", "mJ per inference", "watts", "watts idle", "seconds")
    rows = []
    for result in results:
        spent = result.get("energy")
        if spent:
            joules, watts = spent["joules_per_inference"], spent["watts"]
            idle, seconds = spent["idle_watts"], spent["seconds"]
            row = (result["artifact"], spent["meter"], number(1e3 * joules), watts, idle, seconds)
            rows.append(row)
    return table(head, rows)


def _spread(latency: Record) -> str:
    tail = next(
        (f"{key} {number(latency[f'{key}_ms'])}, " for key in ("p90", "p95", "max")
         if latency.get(f"{key}_ms") is not None),
        "",
    )  # fmt: skip
    return f"min {number(latency['min_ms'])}, {tail}{latency['runs']} runs"


def _count(record: Record) -> dict[str, Any]:
    title = f"{record.get('model')} on {record['device']} (simulated)"
    names = ("instructions", "macs", "ram_bytes", "arena_bytes", "stack_bytes", "flash_bytes")
    steps = record.get("layers") or record.get("steps") or []
    return _result(
        title,
        f"{title}: {number(record['instructions'])} instructions, which is no latency",
        [
            section(
                "Figures",
                facts(
                    [(n.replace("_", " "), number(record[n])) for n in names if record.get(n)]
                    + [("compiler", record.get("compiler")), ("simulator", record.get("simulator"))]
                ),
            ),
            section("Steps", bars("instructions", map(_step, enumerate(steps)))),
        ],
    )


def _step(item: tuple[int, Any]) -> tuple[str, float, str]:
    position, step = item
    if isinstance(step, Mapping):
        name = str(step.get("name", position))
        return str(step.get("module") or name), float(step["instructions"]), name
    return f"step {position}", float(step), ""


def _explained(record: Record) -> dict[str, Any]:
    title = f"Where the accuracy of {record['artifact']} went"
    blocks = record["blocks"]
    head = list(dict.fromkeys(key for step in record["chain"] for key in step))
    return _result(
        title,
        f"{title}: {record['count']} {record['noun']} of {record['source']}",
        [
            section(
                "Stages",
                table(
                    [key.replace("_", " ") for key in head],
                    [[step.get(key) for key in head] for step in record["chain"]],
                ),
            ),
            section(
                "Blocks, worst first",
                bars(
                    "% of the loss", [(b["block"], max(100 * b["share"], 0.0), "") for b in blocks]
                ),
            ),
            section("Fix", notes(_fix(record.get("fix")))),
        ],
    )


def _fix(fix: Record | None) -> list[str]:
    if not fix:
        return []
    return [f"{key.replace('_', ' ')}: {value}" for key, value in fix.items()]


_OTHERS: Mapping[str, Callable[[Record], dict[str, Any]]] = {
    "edgec.count/1": _count,
    "edgec.explain/1": _explained,
}
