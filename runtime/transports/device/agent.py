"""The far side of a device link: stores files, runs jobs, sends results; standard library only.

The near side (`edgec.runtime.transports.link`) starts it with a constant command line and talks in
frames over stdin and stdout: one JSON object on one line, followed by as many raw bytes as its
field "bytes" says. Names travel in JSON only, never through a shell.

Files are kept by their SHA-256, so that what was sent once, or in part before the link broke, is
not sent again. Jobs run in a session of their own: they go on when the link breaks, and the next
link follows them from where the last one stopped.
"""

# This file runs on JetPack 4.6, whose Python is 3.6: no newer syntax.
import errno
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time

PIECE = 1 << 20
KEEP_DAYS = 30
HEARTBEAT_SECONDS = 5.0


class Refused(Exception):
    """An answer that is an error: a word for the program, a text for people."""

    def __init__(self, kind, text):
        Exception.__init__(self, text)
        self.kind = kind


def checked_relative(path):
    """A path below the job's folder, whatever it contains."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or ".." in parts or "" in parts:
        raise Refused("path", "not a path inside the job: %r" % path)
    return os.path.join(*parts)


def checked_hash(digest):
    if len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise Refused("hash", "not a SHA-256: %r" % digest)
    return digest


def file_hash(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path, data):
    with open(path + ".tmp", "wb") as stream:
        stream.write(data)
    os.replace(path + ".tmp", path)


def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


class Agent:
    def __init__(self, source, sink):
        self.source = source
        self.sink = sink
        self.root = None

    def send(self, message, payload=b""):
        if payload:
            message["bytes"] = len(payload)
        self.sink.write(json.dumps(message).encode("utf-8") + b"\n" + payload)
        self.sink.flush()

    def read(self, size):
        pieces = []
        while size:
            piece = self.source.read(size)
            if not piece:
                raise EOFError
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def job(self, message):
        name = checked_hash(message["job"])
        return os.path.join(self.root, "jobs", name)

    # requests, one method each

    def hello(self, message):
        root = message.get("root") or os.path.join("~", ".cache", "edgec-device")
        self.root = os.path.abspath(os.path.expanduser(root))
        for name in ("store", "jobs"):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        self.forget_old()
        return {
            "python": platform.python_version(),
            "executable": sys.executable,
            "machine": platform.machine(),
            "root": self.root,
            "free_bytes": shutil.disk_usage(self.root).free,
        }

    def forget_old(self):
        """Small disks: what nobody used for a month goes."""
        store = os.path.join(self.root, "store")
        for name in os.listdir(store):
            path = os.path.join(store, name)
            if time.time() - os.stat(path).st_mtime > KEEP_DAYS * 86400:
                os.remove(path)

    def have(self, message):
        path = os.path.join(self.root, "store", checked_hash(message["sha256"]))
        if os.path.isfile(path):
            if file_hash(path) == message["sha256"]:
                os.utime(path, None)
                return {"complete": True}
            os.remove(path)  # the disk, or somebody, changed it
        partial = os.path.getsize(path + ".part") if os.path.isfile(path + ".part") else 0
        return {"complete": False, "partial": partial}

    def put(self, message):
        data = self.read(message.get("bytes", 0))
        path = os.path.join(self.root, "store", checked_hash(message["sha256"]))
        part = path + ".part"
        if message["offset"] == 0:
            open(part, "wb").close()
        if os.path.getsize(part) != message["offset"]:
            raise Refused("offset", "the stored part has another length")
        with open(part, "ab") as stream:
            stream.write(data)
        if os.path.getsize(part) < message["size"]:
            return {"complete": False}
        if file_hash(part) != message["sha256"]:
            os.remove(part)
            raise Refused("hash", "the file arrived damaged")
        os.replace(part, path)
        return {"complete": True}

    def place(self, message):
        folder = os.path.join(self.job(message), "files")
        os.makedirs(folder, exist_ok=True)
        for item in message["files"]:
            target = os.path.join(folder, checked_relative(item["path"]))
            source = os.path.join(self.root, "store", checked_hash(item["sha256"]))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.lexists(target):
                os.remove(target)
            try:
                os.link(source, target)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, target + ".tmp")
                os.replace(target + ".tmp", target)
        return {"folder": folder}

    def state(self, folder):
        """None before the start, else whether it runs, and how it ended."""
        try:
            with open(os.path.join(folder, "status.json"), "rb") as stream:
                return json.loads(stream.read().decode("utf-8"))
        except OSError:
            pass
        try:
            with open(os.path.join(folder, "pid")) as stream:
                pid = int(stream.read() or 0)
        except OSError:
            return None
        if pid == 0 or alive(pid):
            return {"running": True}
        return {"running": False, "exit": None, "signal": None, "lost": True}

    def start(self, message):
        folder = self.job(message)
        state = self.state(folder)
        if state is not None and state.get("running"):
            return self.attached(folder, message["argv"])
        if state is not None:
            for name in ("status.json", "pid", "log", "argv.json"):
                if os.path.exists(os.path.join(folder, name)):
                    os.remove(os.path.join(folder, name))
        os.makedirs(folder, exist_ok=True)
        try:
            handle = os.open(os.path.join(folder, "pid"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:  # another link was faster
            return self.attached(folder, message["argv"])
        write_whole(os.path.join(folder, "argv.json"), json.dumps(message["argv"]).encode("utf-8"))
        argv = [sys.executable if a == "{python}" else a for a in message["argv"]]
        cwd = os.path.join(folder, "files")
        with os.fdopen(handle, "w") as pid_file:
            child = os.fork()
            if child == 0:
                self.supervise(folder, cwd, argv)
            pid_file.write(str(child))
        return {"attached": False}

    def attached(self, folder, argv):
        """Follow what runs, if it is what was asked for."""
        for _ in range(100):  # the link that started it writes this right after taking the job
            try:
                with open(os.path.join(folder, "argv.json"), "rb") as stream:
                    running = json.loads(stream.read().decode("utf-8"))
            except OSError:
                time.sleep(0.02)
                continue
            if running != argv:
                raise Refused("busy", "it runs: " + " ".join(running[-4:]))
            return {"attached": True}
        raise Refused("busy", "somebody took the job and did not start it")

    def supervise(self, folder, cwd, argv):
        """In a process of its own: run, wait, note the end; never returns."""
        try:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            null = os.open(os.devnull, os.O_RDWR)
            log = os.open(os.path.join(folder, "log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                code = subprocess.call(argv, cwd=cwd, stdin=null)
            except OSError as error:
                sys.stderr.write("cannot start %s: %s\n" % (argv[0], error))
                sys.stderr.flush()
                code = 127
            status = {"running": False, "exit": code if code >= 0 else None}
            status["signal"] = -code if code < 0 else None
            write_whole(os.path.join(folder, "status.json"), json.dumps(status).encode("utf-8"))
        finally:
            os._exit(0)

    def follow(self, message):
        """Stream the log from an offset on until the job ends."""
        folder = self.job(message)
        offset = message["offset"]
        path = os.path.join(folder, "log")
        spoken = time.time()
        while True:
            state = self.state(folder)  # before the log: what is written until the end is read
            data = b""
            if os.path.isfile(path):
                with open(path, "rb") as stream:
                    stream.seek(offset)
                    data = stream.read(PIECE)
            if data:
                offset += len(data)
                self.send({"log": data.decode("utf-8", "replace"), "offset": offset})
                spoken = time.time()
                continue
            if state is None:
                raise Refused("job", "no such job")
            if not state.get("running"):
                return dict(state, done=True)
            if time.time() - spoken > HEARTBEAT_SECONDS:
                self.send({"heartbeat": True})
                spoken = time.time()
            reap()
            time.sleep(0.05)

    def fetch(self, message):
        path = os.path.join(self.job(message), "files", checked_relative(message["path"]))
        if not os.path.isfile(path):
            return {"missing": True}
        with open(path, "rb") as stream:
            stream.seek(message["offset"])
            data = stream.read(PIECE)
        answer = {"size": os.path.getsize(path)}
        if message["offset"] == 0:
            answer["sha256"] = file_hash(path)
        self.send(answer, data)
        return None

    def stop(self, message):
        """End a running job, with all that it started."""
        folder = self.job(message)
        try:
            with open(os.path.join(folder, "pid")) as stream:
                group = int(stream.read())
            if group > 1:
                os.killpg(group, signal.SIGTERM)
        except (OSError, ValueError):  # it ended, or never started
            pass
        return {}

    def remove(self, message):
        shutil.rmtree(self.job(message), ignore_errors=True)
        return {}

    def serve(self):
        self.send({"edgec_agent": 1})
        requests = {
            name: getattr(self, name)
            for name in "hello have put place start follow fetch stop remove".split()
        }
        while True:
            line = self.source.readline()
            if not line:
                return
            message = json.loads(line.decode("utf-8"))
            try:
                answer = requests[message["do"]](message)
            except Refused as refusal:
                answer = {"error": refusal.kind, "text": str(refusal)}
            except OSError as error:
                kind = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EACCES: "denied"}
                answer = {"error": kind.get(error.errno, "system"), "text": str(error)}
            if answer is not None:
                self.send(answer)
            reap()


def reap():
    """Collect supervisors that ended, so that their numbers do not look alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass


def main():
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints must not look like a frame
    try:
        Agent(sys.stdin.buffer, sink).serve()
    except (EOFError, KeyboardInterrupt):
        pass
    except OSError:  # the link is gone
        pass


if __name__ == "__main__":
    main()
