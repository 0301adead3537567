"""Writing files so that they are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgec.export.errors import MissingToolError, UsageError


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def dump_json(data: Any) -> str:
    """JSON text with a fixed layout and key order, so that equal data give equal bytes."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts by their paths below `folder`, in UTF-8; folders are made."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into one clear error.

    Raises:
        MissingToolError: the disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingToolError(
                "EC680",
                "no space left on the disk",
                where=str(path),
                why=str(error),
                fix="free some space or choose another --out; nothing half-written is left",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise MissingToolError(
                "EC681",
                "cannot write to the output place",
                where=str(path),
                why=str(error),
                fix="check the permissions or choose another place with --out",
            ) from error
        raise


@contextmanager
def atomic_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes `out` when the block ends well, and vanishes otherwise.

    The working folder is a hidden sibling of `out`, on the same file system, so that the final
    rename is atomic. With `overwrite` the old folder is moved aside first and deleted last.

    Raises:
        UsageError: `out` exists and `overwrite` is not set, or its name cannot be a folder.
        MissingToolError: disk full or place not writable.
    """
    out = out.absolute()
    if out.name in ("", ".", "..") or "\0" in str(out):
        raise UsageError(
            "EC203", f"{str(out)!r} cannot be an output folder", fix="give a new folder with --out"
        )
    refuse_existing(out, overwrite=overwrite)
    with explain_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    old: Path | None = None
    try:
        with explain_os_errors(out):
            yield work
            # mkdtemp makes the folder private to the user; a bundle is an ordinary folder
            umask = os.umask(0)
            os.umask(umask)
            work.chmod(0o777 & ~umask)
            refuse_existing(out, overwrite=overwrite)
            if out.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent)) / "old"
                out.rename(old)
            try:
                work.rename(out)
            except OSError:
                if old is not None:
                    old.rename(out)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise when `out` is taken.

    Raises:
        UsageError: `out` exists (and `overwrite` is not set, or it is not a folder).
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError("EC204", f"{out} is not a folder", fix="choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(
            "EC204",
            f"the output folder {out} already exists",
            fix="choose another --out, or replace it with --overwrite",
        )


def atomic_write(path: Path, data: bytes) -> None:
    """Write one file by way of a temporary sibling and a rename.

    Raises:
        MissingToolError: disk full or place not writable.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        # not mkstemp: that file would be its owner's alone
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            name.replace(path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
