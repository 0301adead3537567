"""Predicted and measured times by module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def by_module(
    layers: Iterable[tuple[str, int, float | None]], measured: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Rows of ``module``, ``macs``, ``predicted_ms`` and ``measured`` in the network's order, then
    what was only measured.

    A measured module may hold several layers: these are summed under its name.

    Args:
        layers: module, MACs and, where there is one, the predicted milliseconds of each.
        measured: by module.
    """
    rows: dict[str, dict[str, Any]] = {}

    def row(module: str) -> dict[str, Any]:
        empty = {"module": module, "macs": 0, "predicted_ms": None, "measured": None}
        return rows.setdefault(module, empty)

    for module, macs, predicted in layers:
        found = row(_covering(module, measured))
        found["macs"] += macs
        if predicted is not None:
            found["predicted_ms"] = (found["predicted_ms"] or 0.0) + predicted
    for module, value in measured.items():
        row(module)["measured"] = value
    return list(rows.values())


def _covering(module: str, measured: Mapping[str, float]) -> str:
    """The innermost measured module that `module` is in, else `module` itself."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in measured:
            return name
    return module
