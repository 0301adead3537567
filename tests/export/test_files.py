"""Atomic writing: whole or not at all, also on a full disk and on Ctrl-C."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgec.export.errors import MissingToolError, UsageError
from edgec.export.files import atomic_folder, atomic_write, dump_json


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bundle"
    with atomic_folder(out) as work:
        (work / "a").write_text("1")
        assert not out.exists()
    assert leftovers(out) == ["a"]
    assert leftovers(out.parent) == ["bundle"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), atomic_folder(tmp_path / "bundle") as work:
        (work / "a").write_text("1")
        raise stop
    assert leftovers(tmp_path) == []


def test_an_existing_folder_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(UsageError, match="already exists"), atomic_folder(out):
        pass
    with atomic_folder(out, overwrite=True) as work:
        (work / "new").write_text("2")
    assert leftovers(out) == ["new"]
    assert leftovers(tmp_path) == ["bundle"]


def test_a_failure_while_replacing_keeps_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(ValueError), atomic_folder(out, overwrite=True):
        raise ValueError
    assert leftovers(out) == ["old"]
    assert leftovers(tmp_path) == ["bundle"]


def test_a_link_or_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(UsageError), atomic_folder(tmp_path / name, overwrite=True):
            pass


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "EC680"),
        (errno.EDQUOT, "EC680"),
        (errno.EACCES, "EC681"),
        (errno.EROFS, "EC681"),
    ],
)
def test_a_full_or_read_only_disk_is_one_clear_error(
    tmp_path: Path, number: int, code: str
) -> None:
    with pytest.raises(MissingToolError) as caught, atomic_folder(tmp_path / "bundle"):
        raise OSError(number, "simulated")
    assert caught.value.code == code
    assert leftovers(tmp_path) == []


def test_a_real_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(MissingToolError) as caught, atomic_folder(tmp_path / "bundle"):
        full.write_bytes(b"x" * 65536)
    assert caught.value.code == "EC680"


def test_one_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert leftovers(tmp_path) == ["file"]


def test_json_is_sorted_and_refuses_nan() -> None:
    assert dump_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        dump_json({"a": float("nan")})
