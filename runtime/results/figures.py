"""The figures in a record, whatever kind of record it is.

A record is the JSON object that a verb prints: of a measurement (``edgec.bench/1``), of a simulated
run (``edgec.count/1``) or of an export (``edgec.report/1``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgec.export.errors import InputError

KINDS = {"edgec.bench/1": "bench", "edgec.count/1": "count", "edgec.report/1": "export"}


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        artifact: path inside the bundle; empty for the network as a whole.
        name: what it is, its unit at the end, e.g. ``median_ms`` or ``arena_bytes``.
    """

    artifact: str
    name: str
    value: float


@dataclass(frozen=True)
class Summary:
    """What a record is about.

    Attributes:
        kind: ``bench``, ``count`` or ``export``.
        device: where it was measured; empty for exports.
    """

    kind: str
    model: str
    target: str
    device: str
    figures: tuple[Figure, ...]


def summarize(record: Mapping[str, Any]) -> Summary:
    """What `record` says in figures.

    Raises:
        InputError: EC710, it is no record that this version knows.
    """
    kind = KINDS.get(str(record.get("schema")))
    try:
        if kind == "bench":
            return Summary(kind, _name(record["model"]), "", record["device"], _measured(record))
        if kind == "count":
            return Summary(
                kind, _name(record["model"]), record["target"], record["device"], _counted(record)
            )
        if kind == "export":
            model, target = _name(record["model"]), record["target"]["name"]
            return Summary(kind, model, target, "", tuple(_exported(record)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unknown(record, f"{type(error).__name__}: {error}") from error
    raise _unknown(record, f"known: {', '.join(KINDS)}")


def _unknown(record: Mapping[str, Any], why: str) -> InputError:
    return InputError(
        "EC710",
        f"no record of a measurement or an export: {record.get('schema')!r}",
        why=why,
        fix="give the file that edgec bench --save or edgec export --json wrote, or a bundle",
    )


def _name(model: Any) -> str:
    return str(model.get("name") if isinstance(model, Mapping) else model or "")


def _measured(record: Mapping[str, Any]) -> tuple[Figure, ...]:
    found = []
    for result in record["results"]:
        path = result["artifact"]
        for name in ("min_ms", "median_ms", "p90_ms"):
            if result["latency"][name] is not None:
                found.append(Figure(path, name, float(result["latency"][name])))
        if result.get("energy"):
            joules = float(result["energy"]["joules_per_inference"])
            found.append(Figure(path, "joules_per_inference", joules))
        if result.get("bytes") is not None:
            found.append(Figure(path, "bytes", float(result["bytes"])))
    if record.get("peak_rss_bytes"):
        found.append(Figure("", "peak_rss_bytes", float(record["peak_rss_bytes"])))
    return tuple(found)


def _counted(record: Mapping[str, Any]) -> tuple[Figure, ...]:
    names = ("instructions", "ram_bytes", "arena_bytes", "stack_bytes", "flash_bytes", "macs")
    return tuple(Figure("c", n, float(record[n])) for n in names if record.get(n) is not None)


def _exported(report: Mapping[str, Any]) -> Iterator[Figure]:
    graph = report["graph"]
    for name in ("macs", "parameters", "nodes", "transposes", "activation_peak_bytes"):
        if graph.get(name) is not None:
            yield Figure("", name, float(graph[name]))
    for artifact in report["artifacts"]:
        path, checks = artifact["path"], artifact["checks"]
        if artifact.get("bytes") is not None:
            yield Figure(path, "bytes", float(artifact["bytes"]))
        against = checks.get("vs_fp32") or {}
        for key, name in (
            ("top1", "top1_percent"),
            ("top1_agreement", "agreement_percent"),
            ("sqnr_db", "sqnr_db"),
        ):
            if against.get(key) is not None:
                yield Figure(path, name, float(against[key]))
        for name in ("drop", "arena_bytes", "constant_bytes", "operators"):
            if checks.get(name) is not None:
                yield Figure(path, name, float(checks[name]))
