"""What a report page is made of: plain data that a template draws and ``--json`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Block = dict[str, Any]
"""One of ``facts`` (rows of label and text), ``table`` (head, rows), ``bars`` (unit, rows of label,
value, shown text, note), ``picture`` (an SVG document) and ``notes`` (paragraphs)."""

MOST_BARS = 40


def facts(rows: Iterable[tuple[str, object]]) -> Block:
    """Labels and texts; rows without a value are left out."""
    return {
        "kind": "facts",
        "rows": [[label, str(value)] for label, value in rows if value not in (None, "")],
    }


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Block:
    """A table; every cell is text."""
    return {
        "kind": "table",
        "head": list(head),
        "rows": [["" if cell is None else str(cell) for cell in row] for row in rows],
    }


def bars(unit: str, rows: Iterable[tuple[str, float, str]], *, most: int = MOST_BARS) -> Block:
    """Horizontal bars in the given order; those beyond `most` are one bar, their sum.

    Args:
        unit: behind every value.
        rows: label, value (not negative), note.
    """
    found = list(rows)
    rest = found[most:]
    shown = found[:most]
    if rest:
        shown.append((f"{len(rest)} more", sum(value for _, value, _ in rest), ""))
    top = max((value for _, value, _ in shown), default=0.0)
    return {
        "kind": "bars",
        "rows": [
            {
                "label": label,
                "value": value,
                "text": f"{number(value)} {unit}".strip(),
                "share": round(100 * value / top, 2) if top > 0 else 0.0,
                "note": note,
            }
            for label, value, note in shown
        ],
    }


def picture(svg: str, caption: str) -> Block:
    """A drawing."""
    return {"kind": "picture", "svg": svg, "caption": caption}


def notes(texts: Iterable[str]) -> Block:
    """Paragraphs."""
    return {"kind": "notes", "texts": list(texts)}


def section(title: str, *parts: Block | None) -> dict[str, Any] | None:
    """A titled group of blocks; None if nothing is in them."""
    kept = [p for p in parts if p is not None and any(p.get(k) for k in ("rows", "svg", "texts"))]
    return {"title": title, "blocks": kept} if kept else None


def number(value: float) -> str:
    """Four significant digits; whole numbers with separators."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
