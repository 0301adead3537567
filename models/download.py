"""Downloads files once: cached, resumed, checked, safe for several processes at a time.

A file of the cache stands next to ``NAME.json``, which records where it came from and its
SHA-256. Where the publisher states no hash, the first download is trusted and every later one
must equal it. ``NAME.part`` is a download that was interrupted; the next call goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

import platformdirs

from edgec.export.errors import EdgecError, InputError, MissingToolError, UsageError

Progress = Callable[[int, int | None], None]
"""Called with the bytes present so far and the size of the whole file, if it is known."""

CHUNK = 1 << 18
ATTEMPTS = 3  # how often a broken connection is taken up again before giving up


@dataclass(frozen=True)
class Download:
    """A file in the cache.

    Attributes:
        path: where it lies.
        sha256: hash of its content, lower-case hex.
        verified: whether it was compared with a hash stated by its publisher.
    """

    path: Path
    sha256: str
    verified: bool


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Folder of downloaded weights: ``cache_dir``, else EDGEC_CACHE_DIR, else the user's cache."""
    root = cache_dir or os.environ.get("EDGEC_CACHE_DIR") or platformdirs.user_cache_dir("edgec")
    return Path(root) / "weights"


def download(
    url: str,
    *,
    cache_dir: Path | None = None,
    sha256: str | None = None,
    git_blob: str | None = None,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Download:
    """Return the file behind an http(s) URL, from the cache where possible.

    Args:
        url: its address; redirects are followed, but never from https to anything else.
        cache_dir: see `cache_folder`.
        sha256: expected hash, lower-case hex.
        git_blob: expected Git object id (SHA-1) of the file.
        timeout: seconds without any byte after which the server counts as gone.
        progress: see `Progress`.

    Raises:
        UsageError: not an http(s) URL (EC223).
        MissingToolError: server unreachable or refusing (EC620), no room in or no access to the
            cache (EC621), or a redirect that gives up encryption (EC622).
        InputError: the content has another hash than expected or than last time (EC726).
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UsageError(
            "EC223",
            f"cannot download {url!r}",
            why="only http:// and https:// addresses are supported",
            fix="download it yourself and give the path",
        )
    folder = cache_folder(cache_dir)
    target = folder / _file_name(url)
    expected = _Expected(sha256, git_blob)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            record = _read_record(target)
            if target.exists() and record is not None:
                actual = _hashes(target)
                if actual.sha256 == record["sha256"] and expected.accepts(actual):
                    return Download(target, actual.sha256, expected.known)
            part = _Part(target)
            _fetch(url, part, expected.known, timeout, progress)
            actual = _hashes(part.path)
            first = None if expected.known or record is None else str(record["sha256"])
            if not expected.accepts(actual) or first not in (None, actual.sha256):
                part.discard()
                _refuse(url, actual, expected, first, target)
            _write_record(target, {"url": url, "sha256": actual.sha256, "bytes": actual.size})
            part.promote()
            return Download(target, actual.sha256, expected.known)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise MissingToolError(
            "EC621",
            "no space left for the download" if full else "cannot use the download cache",
            where=str(folder),
            why=error.strerror or str(error),
            fix="free some space, or set EDGEC_CACHE_DIR to a folder on another disk",
        ) from error


def cached(url: str, cache_dir: Path | None = None) -> Download | None:
    """What `download` left for this address, or None; the file is not hashed again."""
    target = cache_folder(cache_dir) / _file_name(url)
    record = _read_record(target)
    if record is None or not target.is_file():
        return None
    return Download(target, str(record["sha256"]), verified=False)


def forget(path: Path) -> None:
    """Remove a downloaded file and its record, e.g. because it turned out to be unreadable."""
    path.unlink(missing_ok=True)
    _record_path(path).unlink(missing_ok=True)


@contextmanager
def terminal_progress(label: str) -> Iterator[Progress | None]:
    """A progress bar on stderr while the context lasts; None where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, TransferSpeedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass(frozen=True)
class _Hashes:
    sha256: str
    git_blob: str
    size: int


@dataclass(frozen=True)
class _Expected:
    sha256: str | None
    git_blob: str | None

    @property
    def known(self) -> bool:
        return bool(self.sha256 or self.git_blob)

    def accepts(self, actual: _Hashes) -> bool:
        return (self.sha256 is None or self.sha256.lower() == actual.sha256) and (
            self.git_blob is None or self.git_blob.lower() == actual.git_blob
        )


class _Part:
    """The unfinished file beside a target, with the server's tag of the version it belongs to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._tag = target.with_name(f"{target.name}.part.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> str | None:
        return self._tag.read_text() if self._tag.exists() else None

    def start(self, tag: str | None) -> None:
        """Forget what was there; `tag` is the strong ETag or date of the new version."""
        self.discard()
        if tag:
            self._tag.write_text(tag)

    def promote(self) -> None:
        os.replace(self.path, self.target)
        self._tag.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)


class _Interrupted(Exception):
    """The connection broke in the middle; what has come so far is in the .part file."""


def _fetch(url: str, part: _Part, checked: bool, timeout: float, progress: Progress | None) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_once(url, part, checked, timeout, progress)
            return
        except _Interrupted as error:
            if attempt == ATTEMPTS:
                raise _unavailable(
                    url, str(error), "run the same command again: it goes on where it stopped"
                ) from error
            time.sleep(0.2 * attempt)


def _fetch_once(
    url: str, part: _Part, checked: bool, timeout: float, progress: Progress | None
) -> None:
    with _open(url, part, checked, timeout) as response:
        start = _resume_point(response, part)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        if total is not None and shutil.disk_usage(part.path.parent).free < total - start:
            raise OSError(errno.ENOSPC, f"{total - start} bytes needed")
        with part.path.open("ab") as stream:
            _copy(response, stream, start, total, progress)
        if total is not None and part.size != total:
            raise _Interrupted(f"the connection ended after {part.size} of {total} bytes")


def _open(url: str, part: _Part, checked: bool, timeout: float) -> Any:
    """Send the request, for the rest of the file if a part is there that can be continued.

    It can if the server's tag tells that the file is still the same one, or if a published hash
    will tell (`checked`).
    """
    from edgec import __version__

    request = urllib.request.Request(url, headers={"User-Agent": f"edgec/{__version__}"})  # noqa: S310 -- the scheme is checked
    if part.size and (part.tag or checked):
        request.add_header("Range", f"bytes={part.size}-")
        if part.tag:
            request.add_header("If-Range", part.tag)
    try:
        return _OPENER.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
                part.discard()
                raise _Interrupted("the part on disk does not belong to the file") from error
            reason = f"the server answers {error.code} {error.reason}"
            if error.code >= 500:
                raise _Interrupted(reason) from error
            raise _unavailable(url, reason, "check the address, or give a local file") from error
    except urllib.error.URLError as error:
        raise _unavailable(
            url, str(error.reason), "check the network, or give a local file with --weights"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no answer: {str(error) or type(error).__name__}") from error


def _resume_point(response: Any, part: _Part) -> int:
    """Where in the file the response starts; the part is emptied if it starts at the front."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if match and int(match[1]) == part.size:
            return part.size
        part.discard()
        raise _Interrupted("the server sent another range than asked for")
    tag = response.headers.get("ETag")
    if tag is None or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = response.headers.get("Last-Modified")
    part.start(tag)
    return 0


def _copy(
    response: Any, stream: IO[bytes], done: int, total: int | None, progress: Progress | None
) -> None:
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            reason = "no data any more" if isinstance(error, TimeoutError) else str(error)
            raise _Interrupted(f"the connection broke: {reason}") from error
        if not chunk:
            return
        stream.write(chunk)
        done += len(chunk)
        if progress:
            progress(done, total)


def check_redirect(old: str, new: str) -> None:
    """Refuse a redirect that gives up encryption or leads to something other than http(s).

    Raises:
        MissingToolError: EC622.
    """
    before, after = urlsplit(old).scheme, urlsplit(new).scheme
    if after not in ("http", "https") or (before == "https" and after != "https"):
        raise MissingToolError(
            "EC622",
            "refused a redirect to an unsafe address",
            where=old,
            why=f"it leads from {before} to {new}",
            fix="download the file yourself and give the path",
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        target = headers.get("Location")
        if target is not None:
            try:
                check_redirect(req.full_url, urljoin(req.full_url, target))
            except MissingToolError:
                fp.close()
                raise
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone: `build_opener` would add file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time work on `target`; released by the system if the process dies."""
    with target.with_name(f"{target.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _file_name(url: str) -> str:
    """A readable name that no other URL has."""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    name = re.sub(r"[^\w.-]", "_", name)[-80:].lstrip(".") or "file"
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"


def _hashes(path: Path) -> _Hashes:
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return _Hashes(sha256.hexdigest(), blob.hexdigest(), size)


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _read_record(target: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(_record_path(target).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and "sha256" in record else None


def _write_record(target: Path, record: dict[str, Any]) -> None:
    temporary = target.with_name(f"{target.name}.json.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    os.replace(temporary, _record_path(target))


def _refuse(
    url: str, actual: _Hashes, expected: _Expected, first: str | None, target: Path
) -> NoReturn:
    if expected.known:
        wanted = expected.sha256 or f"Git object {expected.git_blob}"
        found = actual.sha256 if expected.sha256 else f"Git object {actual.git_blob}"
        why = f"{actual.size} bytes with hash {found}, published is {wanted}"
        fix = "try again; if it stays, the file was replaced at its source: do not use it unseen"
    else:
        why = f"its SHA-256 is {actual.sha256}, at the first download it was {first}"
        fix = f"if the change is known to be right, delete {_record_path(target)} and try again"
    raise InputError(
        "EC726", "the downloaded file is not the expected one", where=url, why=why, fix=fix
    )


def _unavailable(url: str, why: str, fix: str) -> EdgecError:
    return MissingToolError("EC620", "the download failed", where=url, why=why, fix=fix)
