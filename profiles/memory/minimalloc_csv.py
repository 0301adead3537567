"""Problems and plans as CSV, in the format of google/minimalloc.

Header ``id,lower,upper,size`` with an optional ``offset``; a buffer lives from `lower` to before
`upper`. Column order is free, further columns are ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from edgec.export.errors import InputError
from edgec.profiles.memory.problem import Item, Problem

COLUMNS = ("id", "lower", "upper", "size")
LARGEST = 1 << 48
MOST_BUFFERS = 20_000
MOST_BYTES = 16 << 20


def read_csv(path: Path) -> tuple[Problem, list[int] | None]:
    """A problem, and the offsets if the file has them.

    Raises:
        InputError: not readable, not such a table, or numbers that make no sense.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _wrong(path, f"the file is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from error
    return parse_csv(text, path)


def parse_csv(text: str, path: Path) -> tuple[Problem, list[int] | None]:
    """The same from text; `path` is for messages.

    Raises:
        InputError: as `read_csv`.
    """
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise _wrong(path, str(error)) from error
    rows = [row for row in rows if row]
    if not rows:
        raise _wrong(path, "the file is empty")
    header = [cell.strip() for cell in rows[0]]
    missing = [name for name in COLUMNS if name not in header]
    if missing or len(set(header)) != len(header):
        raise _wrong(
            path,
            f"the header is {','.join(header)[:80]!r}"
            + (f"; {', '.join(missing)} missing" if missing else "; a column stands twice"),
        )
    if len(rows) - 1 > MOST_BUFFERS:
        raise _wrong(path, f"{len(rows) - 1} buffers; the most are {MOST_BUFFERS}")
    column = {name: header.index(name) for name in header}
    items: list[Item] = []
    offsets: list[int] = []
    seen: set[str] = set()
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise _wrong(path, f"row {line} has {len(row)} cells, the header {len(header)}")
        name = row[column["id"]].strip()
        if not name or name in seen:
            raise _wrong(path, f"row {line}: the id {name[:40]!r} is empty or stands twice")
        seen.add(name)
        lower, upper, size = (_number(path, line, n, row[column[n]]) for n in COLUMNS[1:])
        if upper <= lower or size == 0:
            raise _wrong(path, f"row {line}: a buffer of {size} bytes from {lower} to {upper}")
        items.append(Item(name, lower, upper, size))
        if "offset" in column:
            offsets.append(_number(path, line, "offset", row[column["offset"]]))
    return Problem(tuple(items)), offsets if "offset" in column else None


def format_csv(problem: Problem, offsets: Sequence[int] | None = None) -> str:
    """The text of a problem, with offsets when given. Allowed overlaps have no place in it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, "offset"] if offsets is not None else COLUMNS)
    for n, item in enumerate(problem.items):
        row = [item.id, item.lower, item.upper, item.size]
        writer.writerow([*row, offsets[n]] if offsets is not None else row)
    return out.getvalue()


def _number(path: Path, line: int, name: str, cell: str) -> int:
    text = cell.strip()
    # int() also takes signs, underscores and other scripts' digits
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) < LARGEST):
        raise _wrong(path, f"row {line}: {name} = {text[:40]!r} is not a whole number from 0 on")
    return int(text)


def _wrong(path: Path, why: str) -> InputError:
    return InputError(
        "EC750",
        "not a table of buffers",
        where=str(path),
        why=why,
        fix="columns id,lower,upper,size and optionally offset, as google/minimalloc writes them",
    )
