"""The results store: every measurement and export, in one SQLite file.

SQLite keeps it whole: each record is one transaction, so a killed process leaves the file as it was
before, and two processes at once wait for each other. The journal is SQLite's default one rather
than a write-ahead log, which does not work on network file systems (sqlite.org/wal.html), where a
team's shared file may lie.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.export.errors import EdgecError, InputError, MissingToolError, UsageError
from edgec.runtime.results.figures import Summary, summarize

VARIABLE = "EDGEC_STORE"
OFF = "none"
WAIT_SECONDS = 30.0


def _records(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE records (id INTEGER PRIMARY KEY AUTOINCREMENT, created TEXT NOT NULL, "
        "kind TEXT NOT NULL, model TEXT NOT NULL, target TEXT NOT NULL, device TEXT NOT NULL, "
        "record TEXT NOT NULL)"
    )


def _figures(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE figures (record INTEGER NOT NULL REFERENCES records(id), "
        "artifact TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL)"
    )
    db.execute("CREATE INDEX figures_of_record ON figures(record)")
    for number, text in db.execute("SELECT id, record FROM records").fetchall():
        _insert_figures(db, number, summarize(json.loads(text)))


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_records, _figures)
"""Each brings the file from the version that is its index to the next one."""


@dataclass(frozen=True)
class Entry:
    """A stored record without its content.

    Attributes:
        created: UTC, ISO 8601.
        figures: (artifact, name) → value.
    """

    id: int
    created: str
    kind: str
    model: str
    target: str
    device: str
    figures: dict[tuple[str, str], float]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        head = {k: v for k, v in vars(self).items() if k != "figures"}
        return head | {
            "figures": [
                {"artifact": artifact, "name": name, "value": value}
                for (artifact, name), value in self.figures.items()
            ]
        }


def default_path() -> Path:
    """Where results go by default: the operating system's place for application data."""
    import platformdirs

    return Path(platformdirs.user_data_dir("edgec")) / "results.sqlite3"


def chosen_path(option: str | None) -> Path | None:
    """``--store``, else ``EDGEC_STORE``, else the default; None where one of them is ``none``."""
    wanted = option or os.environ.get(VARIABLE)
    if wanted == OFF:
        return None
    return Path(wanted) if wanted else default_path()


def stored_path(option: str | None) -> Path:
    """The file to read from, chosen as `chosen_path` does.

    Raises:
        InputError: EC712, storing is switched off.
    """
    path = chosen_path(option)
    if path is None:
        raise InputError(
            "EC712",
            "nothing is stored",
            why=f"--store or {VARIABLE} is {OFF!r}",
            fix="name a file with --store",
        )
    return path


def remember(option: str | None, record: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Store `record`; where that fails the result itself is not lost, so it is a warning."""
    path = chosen_path(option)
    if path is None:
        return
    try:
        with Store.open(path) as store:
            store.add(record)
    except EdgecError as error:
        warn(f"not stored: {error.what}" + (f" ({error.why})" if error.why else ""))


class Store:
    """An open results file."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, create: bool = True) -> Iterator[Store]:
        """Open `path`, made or brought to the newest version where needed.

        Raises:
            InputError: EC711, no results file, damaged, or of a newer edgec; EC712, none is there
                and `create` is False.
            MissingToolError: EC690, another process holds it too long, or it cannot be written.
        """
        if not create and not path.is_file():
            raise InputError(
                "EC712",
                "nothing is stored yet",
                where=str(path),
                fix="measure something (edgec bench BUNDLE), or name another file with --store",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # transactions are opened by hand: several statements are one step
            db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise _unusable(path, error) from error
        try:
            with _explained(path):
                db.execute("PRAGMA foreign_keys = ON")
                _migrate(db, path)
                yield cls(db, path)
        finally:
            db.close()

    def add(self, record: Mapping[str, Any], *, created: str | None = None) -> int:
        """Store a record; returns its number.

        Raises:
            InputError: EC710, the record is of no known kind.
        """
        found = summarize(record)
        now = created or datetime.now(UTC).isoformat(timespec="seconds")
        with _explained(self.path), _transaction(self._db):
            cursor = self._db.execute(
                "INSERT INTO records (created, kind, model, target, device, record) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    now,
                    found.kind,
                    found.model,
                    found.target,
                    found.device,
                    json.dumps(record, sort_keys=True),
                ),
            )
            number = cursor.lastrowid
            assert number is not None
            _insert_figures(self._db, number, found)
        return number

    def entries(self, *, limit: int | None = None) -> list[Entry]:
        """Stored records, newest first."""
        with _explained(self.path):
            rows = self._db.execute(
                "SELECT id, created, kind, model, target, device FROM records "
                "ORDER BY id DESC LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
            return [
                Entry(number, created, kind, model, target, device, self._figures_of(number))
                for number, created, kind, model, target, device in rows
            ]

    def record(self, number: int) -> dict[str, Any]:
        """The record of a number.

        Raises:
            UsageError: EC234, there is none.
        """
        with _explained(self.path):
            row = self._db.execute("SELECT record FROM records WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise UsageError(
                "EC234",
                f"no record has the number {number}",
                where=str(self.path),
                fix="edgec bench --list shows what is stored",
            )
        found: dict[str, Any] = json.loads(row[0])
        return found

    def _figures_of(self, number: int) -> dict[tuple[str, str], float]:
        rows = self._db.execute(
            "SELECT artifact, name, value FROM figures WHERE record = ? ORDER BY rowid", (number,)
        )
        return {(artifact, name): value for artifact, name, value in rows}


def _insert_figures(db: sqlite3.Connection, number: int, summary: Summary) -> None:
    db.executemany(
        "INSERT INTO figures (record, artifact, name, value) VALUES (?, ?, ?, ?)",
        [(number, f.artifact, f.name, f.value) for f in summary.figures],
    )


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) == len(MIGRATIONS):
        return
    with _transaction(db):  # only one process migrates; the others find it done
        version = _version(db)
        if version > len(MIGRATIONS):
            raise InputError(
                "EC711",
                "the results file was written by a newer edgec",
                where=str(path),
                why=f"its version is {version}, this edgec knows {len(MIGRATIONS)}",
                fix="update edgec, or name another file with --store",
            )
        for step in MIGRATIONS[version:]:
            step(db)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            "EC711",
            "the file is no results file of edgec, or is damaged",
            where=str(path),
            why=str(error),
            fix="name another file with --store, or none; the damaged one is left as it is",
        ) from error


def _unusable(path: Path, error: Exception) -> MissingToolError:
    return MissingToolError(
        "EC690",
        "the results file cannot be used now",
        where=str(path),
        why=str(error),
        fix="check its permissions and the disk, or name another file with --store, or none",
    )
