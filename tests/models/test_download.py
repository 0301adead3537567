"""Downloads against a server on the loopback interface that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgec.export.errors import EdgecError, InputError, MissingToolError, UsageError
from edgec.models import download as module
from edgec.models.download import cache_folder, check_redirect, download, terminal_progress

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
HALF = len(CONTENT) // 2

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.ranges.append(self.headers.get("Range"))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(
        self, body: bytes, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """Gives the answers in order, the last one for ever; remembers the Range headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [whole]
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/net.pth"


def whole(handler: Handler) -> None:
    handler.send(CONTENT, ETag='"v1"')


def cut_off(handler: Handler) -> None:
    handler.send(CONTENT[:HALF], length=len(CONTENT), ETag='"v1"')


def cut_off_untagged(handler: Handler) -> None:
    handler.send(CONTENT[:HALF], length=len(CONTENT))


def resuming(handler: Handler) -> None:
    """As a real server: the rest if the tag still holds, else the whole file."""
    start = handler.headers.get("Range")
    if start is None or handler.headers.get("If-Range", '"v1"') != '"v1"':
        whole(handler)
        return
    first = int(start.removeprefix("bytes=").removesuffix("-"))
    span = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
    handler.send(CONTENT[first:], 206, Content_Range=span, ETag='"v1"')


def status(code: int) -> Answer:
    return lambda handler: handler.send(b"no", code)


def redirect(location: str) -> Answer:
    return lambda handler: handler.send(b"", 302, Location=location)


def silent(handler: Handler) -> None:
    threading.Event().wait(1)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def fails(server: Server, cache: Path, **options: object) -> EdgecError:
    with pytest.raises(EdgecError) as caught:
        download(server.url, cache_dir=cache, **options)  # type: ignore[arg-type]
    return caught.value


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name.split("-", 1)[1] for path in (cache / "weights").iterdir())


def test_downloads_once(server: Server, tmp_path: Path) -> None:
    first = download(server.url, cache_dir=tmp_path)
    again = download(server.url, cache_dir=tmp_path)
    assert first == again
    assert first.path.read_bytes() == CONTENT
    assert (first.sha256, first.verified) == (SHA256, False)
    assert first.path.parent == tmp_path / "weights"
    assert server.ranges == [None]
    assert leftovers(tmp_path) == ["net.pth", "net.pth.json", "net.pth.lock"]


def test_equal_names_of_two_addresses_do_not_collide(server: Server, tmp_path: Path) -> None:
    one = download(server.url + "?a", cache_dir=tmp_path)
    other = download(server.url + "?b", cache_dir=tmp_path)
    assert one.path != other.path


@pytest.mark.parametrize("hashes", [{"sha256": SHA256}, {"git_blob": GIT_BLOB}])
def test_verifies_published_hash(server: Server, tmp_path: Path, hashes: dict[str, str]) -> None:
    assert download(server.url, cache_dir=tmp_path, **hashes).verified


@pytest.mark.parametrize("hashes", [{"sha256": "0" * 64}, {"git_blob": "0" * 40}])
def test_wrong_hash(server: Server, tmp_path: Path, hashes: dict[str, str]) -> None:
    error = fails(server, tmp_path, **hashes)
    assert isinstance(error, InputError)
    assert error.code == "EC726"
    assert leftovers(tmp_path) == ["net.pth.lock"]


def test_wrong_hash_of_cached_file_downloads_again(server: Server, tmp_path: Path) -> None:
    path = download(server.url, cache_dir=tmp_path).path
    path.write_bytes(b"altered on disk")
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_changed_at_its_source(server: Server, tmp_path: Path) -> None:
    path = download(server.url, cache_dir=tmp_path).path
    path.unlink()
    server.answers = [lambda handler: handler.send(b"something else")]
    error = fails(server, tmp_path)
    assert error.code == "EC726"
    assert SHA256 in str(error)
    assert not path.exists()


def test_truncated_answer_is_resumed(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_off, resuming]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_truncated_for_ever_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_off_untagged]
    error = fails(server, tmp_path)
    assert isinstance(error, MissingToolError)
    assert error.code == "EC620"
    assert f"{HALF} of {len(CONTENT)} bytes" in str(error)
    assert "net.pth.part" in leftovers(tmp_path)
    assert "net.pth" not in leftovers(tmp_path)


def test_untagged_part_is_not_continued_without_a_hash(server: Server, tmp_path: Path) -> None:
    """Two halves of different versions would go together unnoticed."""
    server.answers = [cut_off_untagged, resuming]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_untagged_part_is_continued_under_a_hash(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_off_untagged, resuming]
    assert download(server.url, cache_dir=tmp_path, sha256=SHA256).path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_file_that_changed_between_the_halves_starts_over(server: Server, tmp_path: Path) -> None:
    server.answers = [
        lambda handler: handler.send(b"x" * 100, length=200, ETag='"old"'),
        resuming,  # its tag is "v1", so it sends everything
    ]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_range_not_satisfiable_starts_over(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_off, status(416), whole]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_other_range_than_asked_for_starts_over(server: Server, tmp_path: Path) -> None:
    def wrong(handler: Handler) -> None:
        handler.send(CONTENT[7:], 206, Content_Range=f"bytes 7-{len(CONTENT) - 1}/*")

    server.answers = [cut_off, wrong, whole]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_interrupt_leaves_the_part_for_later(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        assert total == len(CONTENT)
        if done >= HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, cache_dir=tmp_path, progress=interrupt)
    server.answers = [resuming]
    seen: list[int] = []
    path = download(
        server.url, cache_dir=tmp_path, progress=lambda done, total: seen.append(done)
    ).path
    assert path.read_bytes() == CONTENT
    assert server.ranges[-1] not in (None, "bytes=0-")
    assert seen[0] > HALF
    assert seen[-1] == len(CONTENT)


def test_answer_without_length(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler: handler.send(CONTENT, length=-1)]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [403, 404, 410])
def test_refusals_are_not_retried(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    error = fails(server, tmp_path)
    assert error.code == "EC620"
    assert str(code) in str(error)
    assert len(server.ranges) == 1
    assert leftovers(tmp_path) == ["net.pth.lock"]


def test_server_errors_are_retried(server: Server, tmp_path: Path) -> None:
    server.answers = [status(503), status(500), whole]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_silent_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.answers = [silent]
    start = time.monotonic()
    assert fails(server, tmp_path, timeout=0.2).code == "EC620"
    assert time.monotonic() - start < 0.9


def test_nobody_listens(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url
    with pytest.raises(MissingToolError) as caught:
        download(url, cache_dir=tmp_path)
    assert caught.value.code == "EC620"


def test_follows_redirects(server: Server, tmp_path: Path) -> None:
    server.answers = [redirect("/elsewhere"), whole]
    assert download(server.url, cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_redirect_loop(server: Server, tmp_path: Path) -> None:
    server.answers = [redirect(server.url)]
    assert fails(server, tmp_path).code == "EC620"


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/net.pth", "data:text/plain,x"]
)
def test_unsafe_redirects(server: Server, tmp_path: Path, location: str) -> None:
    server.answers = [redirect(location)]
    error = fails(server, tmp_path)
    assert error.code == "EC622"
    assert location in str(error)


def test_redirects_keep_encryption() -> None:
    check_redirect("https://example.org/a", "https://example.com/b")
    check_redirect("http://example.org/a", "https://example.org/a")
    with pytest.raises(MissingToolError) as caught:
        check_redirect("https://example.org/a", "http://example.org/a")
    assert caught.value.code == "EC622"


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "file:///etc/passwd", "https://", "data:,x"]
)
def test_other_schemes(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        download(url, cache_dir=tmp_path)
    assert caught.value.code == "EC223"


def test_too_little_space_is_told_before_writing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    error = fails(server, tmp_path)
    assert error.code == "EC621"
    assert "space" in error.what
    assert "net.pth" not in leftovers(tmp_path)


def test_disk_that_fills_up_while_writing(server: Server, tmp_path: Path) -> None:
    """A limit on the file size stands in for the full disk: the same error of write(2)."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from edgec.export.errors import EdgecError\n"
        "from edgec.models.download import download\n"
        "try:\n"
        "    download(sys.argv[1], cache_dir=Path(sys.argv[2]))\n"
        "except EdgecError as error:\n"
        "    print(error.code, error.what)\n"
    )
    done = run_python(script, server.url, str(tmp_path))
    assert done.stdout.startswith("EC621 no space left"), done


def test_cache_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("in the way")
    assert fails(server, tmp_path).code == "EC621"


def test_two_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        handler.send(CONTENT[:HALF], length=len(CONTENT))
        handler.wfile.flush()
        threading.Event().wait(0.5)
        handler.wfile.write(CONTENT[HALF:])

    server.answers = [slow]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgec.models.download import download\n"
        "print(download(sys.argv[1], cache_dir=Path(sys.argv[2])).sha256)\n"
    )
    arguments = [sys.executable, "-c", script, server.url, str(tmp_path)]
    processes = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=python_environment())
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [SHA256] * 3
    assert server.ranges == [None]


def test_cache_folder_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEC_CACHE_DIR", raising=False)
    assert cache_folder().parts[-2:] == ("edgec", "weights")
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "environment"))
    assert cache_folder() == tmp_path / "environment" / "weights"
    assert cache_folder(tmp_path / "argument") == tmp_path / "argument" / "weights"


def test_unreadable_record_counts_as_none(server: Server, tmp_path: Path) -> None:
    path = download(server.url, cache_dir=tmp_path).path
    record = path.with_name(path.name + ".json")
    assert json.loads(record.read_text())["sha256"] == SHA256
    record.write_text("{")
    assert download(server.url, cache_dir=tmp_path).sha256 == SHA256


def test_no_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("net.pth") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_progress_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with terminal_progress("net.pth") as progress:
        assert progress is not None
        progress(500_000, 1_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "net.pth" in captured.err


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=python_environment(),
    )


def python_environment() -> dict[str, str]:
    import os

    import edgec

    return {**os.environ, "PYTHONPATH": str(Path(edgec.__file__).parents[1])}
