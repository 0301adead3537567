"""Containers of encoded images, read without writing anything to disk.

A `Source` lists entries (a name and the class folder it lies in) and reads one entry's bytes.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgec.export.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
# A camera JPEG has some 10 MB; one entry beyond this is not an image of a data set.
MAX_ENTRY_BYTES = 256 << 20
# Deflate reaches about 1000:1 on constant data; encoded images stay near 1:1 and flat bitmaps
# below 200:1.
MAX_RATIO = 250
MAX_ENTRIES = 5_000_000


@dataclass(frozen=True)
class Entry:
    """One encoded image: its name in the container and its class folder ("" if none)."""

    name: str
    folder: str


Reader = Callable[[Entry], bytes]
"""Bytes of one entry; raises InputError EC770 or EC771 if they cannot be read."""


class Source(Protocol):
    """A container of encoded images."""

    @property
    def kind(self) -> str: ...
    @property
    def entries(self) -> Sequence[Entry]: ...
    @property
    def ignored(self) -> Sequence[str]: ...
    def reader(self) -> AbstractContextManager[Reader]:
        """Open the container for reading entries."""
        ...


class FolderSource:
    """Images in a folder and its subfolders; symbolic links to folders are not followed."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self.ignored: list[str] = []
        for folder, subfolders, files in os.walk(root, onerror=_unreadable_folder):
            subfolders[:] = [d for d in subfolders if not _hidden(d)]
            for file in files:
                if _hidden(file):
                    continue
                relative = (Path(folder) / file).relative_to(root).as_posix()
                _sort_in(relative, self.entries, self.ignored)
        self.entries.sort(key=lambda e: e.name)
        self.ignored.sort()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        def read(entry: Entry) -> bytes:
            path = self.root / entry.name
            try:
                if path.stat().st_size > MAX_ENTRY_BYTES:
                    raise _too_large(str(path), path.stat().st_size)
                return path.read_bytes()
            except OSError as error:
                raise _unreadable(str(path), error) from error

        yield read


class ZipSource:
    """Images in a zip archive, streamed entry by entry.

    Nothing is extracted, so names cannot escape anywhere; sizes and compression ratios are
    checked before and while reading, so an archive that lies about them is cut off.
    """

    kind = "zip"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.ignored: list[str] = []
        with _opened_zip(path) as archive:
            infos = archive.infolist()
        if len(infos) > MAX_ENTRIES:
            raise InputError("EC770", f"the archive lists {len(infos)} entries", where=str(path))
        names = set()
        for info in infos:
            parts = PurePosixPath(info.filename).parts
            if info.is_dir() or any(_hidden(p) or p == "__MACOSX" for p in parts if p != ".."):
                continue
            if ".." in parts or info.filename.startswith("/"):
                raise InputError(
                    "EC770",
                    f"the archive holds the path {info.filename!r}",
                    where=str(path),
                    why="it points outside of the archive",
                    fix="make the archive again from inside the image folder",
                )
            if info.filename in names:
                raise InputError(
                    "EC770", f"the archive holds {info.filename!r} twice", where=str(path)
                )
            names.add(info.filename)
            if not _sort_in(info.filename, self.entries, self.ignored):
                continue
            where = f"{path}:{info.filename}"
            if info.flag_bits & 0x1:
                raise InputError(
                    "EC770", "the archive is encrypted", where=where, fix="unpack it yourself"
                )
            if info.file_size > MAX_ENTRY_BYTES:
                raise _too_large(where, info.file_size)
            if info.file_size > MAX_RATIO * max(info.compress_size, 1 << 10):
                raise InputError(
                    "EC770",
                    f"an entry inflates {info.file_size / max(info.compress_size, 1):.0f}-fold",
                    where=where,
                    why="encoded images hardly compress; this looks like a zip bomb",
                )
        self.entries.sort(key=lambda e: e.name)
        self.ignored.sort()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        with _opened_zip(self.path) as archive:

            def read(entry: Entry) -> bytes:
                where = f"{self.path}:{entry.name}"
                try:
                    with archive.open(entry.name) as stream:
                        data = stream.read(MAX_ENTRY_BYTES + 1)
                except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
                    raise _unreadable(where, error) from error
                except Exception as error:  # zlib.error and lzma.LZMAError share no base class
                    raise _unreadable(where, error) from error
                if len(data) > MAX_ENTRY_BYTES:
                    raise _too_large(where, len(data))
                return data

            yield read


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            "EC770",
            "the file is not a readable zip archive",
            where=str(path),
            why=str(error),
            fix="download or copy it again; it may be cut off",
        ) from error
    with archive:
        yield archive


def _sort_in(name: str, entries: list[Entry], ignored: list[str]) -> bool:
    path = PurePosixPath(name)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        ignored.append(name)
        return False
    entries.append(Entry(name, path.parent.name))
    return True


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _unreadable_folder(error: OSError) -> None:
    raise _unreadable(str(error.filename), error) from error


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError("EC771", "an image file cannot be read", where=where, why=str(error))


def _too_large(where: str, size: int) -> InputError:
    return InputError(
        "EC770",
        f"an entry has {size / 2**20:.0f} MiB",
        where=where,
        why=f"the limit for one image file is {MAX_ENTRY_BYTES >> 20} MiB",
    )
