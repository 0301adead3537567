"""What `edgec doctor` looks at: Python packages, programs, folders."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from edgec.export.cache import cache_root
from edgec.export.emit.tensorrt.proxy import PYTHON_VARIABLE, proxy_python


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        tested: the version range that edgec is tested with.
        status: ``ok``, ``missing``, ``untested version`` or ``broken``.
        required: the main job needs it.
    """

    what: str
    purpose: str
    found: str | None
    tested: str
    status: str
    hint: str
    required: bool


OPTIONAL_PACKAGES = {
    "timm": ("more networks", "pip install 'edgec[timm]'"),
    "ai-edge-litert>=2.1,<3": ("running .tflite files", "pip install 'edgec[tflite]'"),
    "onnxsim": ("peer in benchmarks", "pip install 'edgec[bench]'"),
    "onnxslim": ("peer in benchmarks", "pip install 'edgec[bench]'"),
}
PROGRAMS = {
    "trtexec": ("TensorRT without its Python module", "on a Jetson: /usr/src/tensorrt/bin"),
    "adb": ("reaching Android devices", "apt-get install adb, or Android's platform tools"),
    "aarch64-linux-gnu-gcc": (
        "C for 64-bit Arm boards without a compiler",
        "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ),
    "arm-linux-gnueabihf-gcc": (
        "C for 32-bit Arm boards without a compiler",
        "apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    ),
    "cc": ("embedded C on this machine, planning at speed", "apt-get install gcc libc6-dev make"),
    "arm-none-eabi-gcc": (
        "embedded C for Cortex-M",
        "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
    "qemu-system-arm": ("simulated Cortex-M boards", "apt-get install qemu-system-arm"),
    "ssh": ("reaching devices", "apt-get install openssh-client"),
}


def examine() -> list[Finding]:
    """All findings, required things first."""
    findings = [_python()]
    findings += [_package(line, required=True) for line in _requirements()]
    findings.append(_cache_folder())
    findings += [
        _package(name, required=False, purpose=purpose, hint=hint)
        for name, (purpose, hint) in OPTIONAL_PACKAGES.items()
    ]
    findings += [_tensorrt(), _tensorrt_rtx(), _tflite_runtime()]
    findings += [_program(name, purpose, hint) for name, (purpose, hint) in PROGRAMS.items()]
    return findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "edgec itself",
        found,
        ">=3.11",
        "ok" if ok else "untested version",
        "install Python 3.11 or newer",
        True,
    )


def _requirements() -> list[str]:
    """Requirement lines without markers: the installed package's, else the checkout's."""
    try:
        lines = metadata.requires("edgec") or []
    except metadata.PackageNotFoundError:
        import tomllib

        text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text("utf-8")
        lines = tomllib.loads(text)["project"]["dependencies"]
    return [line for line in lines if "extra ==" not in line]


def _package(line: str, *, required: bool, purpose: str = "core", hint: str = "") -> Finding:
    match = re.match(r"[A-Za-z0-9_.-]+", line)
    assert match is not None
    name, tested = match[0], line[match.end() :].strip() or "any"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(
            name, purpose, None, tested, "missing", hint or f"pip install '{line}'", required
        )
    ok = _within(found, tested)
    return Finding(
        name,
        purpose,
        found,
        tested,
        "ok" if ok else "untested version",
        hint or f"pip install '{line}'",
        required,
    )


def _within(version: str, tested: str) -> bool:
    """Whether `version` is in a range such as ``>=1.2,<2`` (only these comparisons occur)."""

    def parts(text: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3])

    for clause in tested.split(",") if tested != "any" else []:
        match = re.fullmatch(r"\s*(>=|<|==)\s*([\d.]+)\s*", clause)
        if match is None:
            return True
        have, want = parts(version), parts(match[2])
        have, want = (t + (0,) * (3 - len(t)) for t in (have, want))
        if not {">=": have >= want, "<": have < want, "==": have == want}[match[1]]:
            return False
    return True


def _cache_folder() -> Finding:
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
        free = shutil.disk_usage(root).free
        return Finding(
            "cache folder",
            "weights, stages",
            f"{root}, {free >> 30} GiB free",
            "-",
            "ok" if free > 1 << 30 else "untested version",
            "free some space",
            True,
        )
    except OSError as error:
        return Finding(
            "cache folder",
            "weights, stages",
            f"{root}: {error}",
            "-",
            "broken",
            "set EDGEC_CACHE_DIR to a folder that can be written",
            True,
        )


def _tensorrt() -> Finding:
    found = util.find_spec("tensorrt")
    return Finding(
        "tensorrt",
        "building engines (on the device)",
        "installed" if found else None,
        "8.2 to 10.x",
        "ok" if found else "missing",
        "not needed off the device; on a Jetson: apt-get install python3-libnvinfer",
        False,
    )


def _tensorrt_rtx() -> Finding:
    found = proxy_python()
    return Finding(
        "tensorrt-rtx",
        "NVIDIA's parser and compiler as a proxy, without a GPU",
        found,
        "1.7",
        "ok" if found else "missing",
        f"pip install 'edgec[trt-check]', or {PYTHON_VARIABLE}=PYTHON that has it",
        False,
    )


def _tflite_runtime() -> Finding:
    found = os.environ.get("EDGEC_TFLITE_RUNTIME_PYTHON", "")
    there = bool(found) and Path(found).is_file()
    return Finding(
        "tflite-runtime",
        "checking .tflite files with the runtime of 2023",
        found or None,
        "2.14",
        "ok" if there else "broken" if found else "missing",
        "set EDGEC_TFLITE_RUNTIME_PYTHON to the Python of an environment that has "
        "tflite-runtime==2.14.0 and numpy==1.26.4",
        False,
    )


def _program(name: str, purpose: str, hint: str) -> Finding:
    found = shutil.which(name)
    if found is not None and not os.access(found, os.X_OK):
        found = None
    return Finding(name, purpose, found, "-", "ok" if found else "missing", hint, False)
