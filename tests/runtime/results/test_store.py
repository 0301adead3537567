"""The results store: nothing lost, whatever happens to the process or the file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgec.export.errors import InputError, MissingToolError, UsageError
from edgec.runtime.results import store as module
from edgec.runtime.results.store import Store, chosen_path, default_path, remember, stored_path

Record = dict[str, Any]
ADD = """
import json, sys
from pathlib import Path
from edgec.runtime.results.store import Store
record = json.loads(sys.argv[2])
for number in range(int(sys.argv[3])):
    with Store.open(Path(sys.argv[1])) as store:
        store.add({**record, "model": f"{sys.argv[4]}{number}"})
        print(number, flush=True)
"""


def adder(root: Path, path: Path, record: Record, times: int, name: str) -> subprocess.Popen[str]:
    """A process that adds records one by one."""
    import json

    return subprocess.Popen(
        [sys.executable, "-c", ADD, str(path), json.dumps(record), str(times), name],
        env={**os.environ, "PYTHONPATH": str(root / ".src")},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_goes_in_comes_out(tmp_path: Path, measurement: Record, export: Record) -> None:
    with Store.open(tmp_path / "deep" / "results.sqlite3") as store:
        assert store.add(measurement, created="2026-01-02T03:04:05+00:00") == 1
        assert store.add(export) == 2
        newest, oldest = store.entries()
        assert (newest.id, newest.kind, newest.target) == (2, "export", "x86")
        assert newest.figures["onnx/model_int8.onnx", "drop"] == 0.5
        assert ("onnx/model_int8.onnx", "sqnr_db") not in newest.figures
        assert (oldest.created, oldest.device) == ("2026-01-02T03:04:05+00:00", "local")
        assert oldest.figures['tflite/"quoted".tflite', "median_ms"] == 2.0
        assert store.record(1) == measurement
        assert [e.id for e in store.entries(limit=1)] == [2]
        with pytest.raises(UsageError, match="EC234"):
            store.record(3)


def test_a_file_of_the_first_version_gets_its_figures(
    tmp_path: Path, measurement: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.sqlite3"
    with monkeypatch.context() as old:
        old.setattr(module, "MIGRATIONS", module.MIGRATIONS[:1])
        old.setattr(module, "_insert_figures", lambda *_: None)
        with Store.open(path) as store:
            store.add(measurement)
    with Store.open(path) as store:
        (entry,) = store.entries()
        assert entry.figures["onnx/model.onnx", "p90_ms"] == 3.0


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, measurement: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.sqlite3"
    with Store.open(path) as store:
        store.add(measurement)

    def broken(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE figures")
        raise RuntimeError("in the middle")

    with monkeypatch.context() as new:
        new.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, broken))
        with pytest.raises(RuntimeError), Store.open(path):
            pass
    with Store.open(path) as store:
        assert store.entries()[0].figures


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(InputError, match="EC711"), Store.open(path):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 500])
def test_other_files_are_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match="EC711"), Store.open(path):
        pass
    assert path.read_bytes() == content


def test_places_that_cannot_be_used(tmp_path: Path, measurement: Record) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MissingToolError, match="EC690"),
        Store.open(tmp_path / "file" / "r.sqlite3"),
    ):
        pass
    with pytest.raises(InputError, match="EC712"), Store.open(tmp_path / "no", create=False):
        pass
    assert not (tmp_path / "no").exists()
    warnings: list[str] = []
    remember(str(tmp_path / "file" / "r.sqlite3"), measurement, warnings.append)
    assert len(warnings) == 1
    assert "not stored" in warnings[0]


def test_a_locked_file_is_an_error_not_a_hang(
    tmp_path: Path, measurement: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.sqlite3"
    with Store.open(path) as store:
        store.add(measurement)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MissingToolError, match="EC690"), Store.open(path) as store:
        store.add(measurement)
    holder.execute("ROLLBACK")
    holder.close()
    with Store.open(path) as store:
        assert len(store.entries()) == 1


def test_two_processes_at_once_lose_nothing(
    tmp_path: Path, root: Path, measurement: Record
) -> None:
    path = tmp_path / "results.sqlite3"
    writers = [adder(root, path, measurement, 20, name) for name in "ab"]
    assert [w.communicate(timeout=60) and w.returncode for w in writers] == [0, 0]
    with Store.open(path) as store:
        names = {e.model for e in store.entries()}
    assert names == {f"{name}{i}" for name in "ab" for i in range(20)}


def test_a_killed_process_loses_at_most_what_it_was_adding(
    tmp_path: Path, root: Path, measurement: Record
) -> None:
    path = tmp_path / "results.sqlite3"
    with adder(root, path, measurement, 100_000, "n") as writer:
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        said = 5 + len(writer.stdout.read().splitlines())
    with Store.open(path) as store:
        entries = store.entries()
        assert said <= len(entries) <= said + 1
        assert all(len(e.figures) == 8 for e in entries)
        store.add(measurement)


def test_where_results_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(module.VARIABLE)
    assert chosen_path(None) == default_path()
    assert chosen_path("none") is None
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "team"))
    assert chosen_path(None) == tmp_path / "team"
    assert chosen_path("mine") == Path("mine")
    monkeypatch.setenv(module.VARIABLE, "none")
    assert chosen_path(None) is None
    with pytest.raises(InputError, match="EC712"):
        stored_path(None)
