"""Instructions that a network executes on 64-bit Arm cores, by the Arm builds of its runtimes.

The runtime runs in QEMU's user mode, and a plugin of ours (arm64/count.c) counts: exact for the
build, the file and the core, but no latency: caches and pipelines are not modelled. EDGEC_ARM64
names a folder that holds

* ``root/``: Python 3.11 for arm64 with the libraries it needs, for example Debian's packages
  libc6, libgcc-s1, libstdc++6, python3.11-minimal, libpython3.11-minimal, libpython3.11-stdlib,
  zlib1g, libexpat1, libffi8, libbz2-1.0 and liblzma5 (``apt-get download NAME:arm64``), each
  unpacked there by ``dpkg -x``;
* ``site/``: numpy, ai-edge-litert, flatbuffers and onnxruntime for aarch64
  (``pip install --platform manylinux_2_28_aarch64 --python-version 3.11 --no-deps --target site``).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent / "arm64"
VARIABLE = "EDGEC_ARM64"
INFERENCES = 3


@dataclass(frozen=True)
class Core:
    """A processor core as QEMU simulates it and as runtimes find it in /proc/cpuinfo.

    Runtimes choose their kernels by the features and the part number, hence both must be right.
    Values: Arm's technical reference manuals of the cores, and the processors' data sheets.

    Attributes:
        cache: of level 1 for data, level 1 for instructions, level 2, level 3: KiB, ways, shared.
    """

    name: str
    device: str
    part: int
    variant: int
    revision: int
    features: str
    cache: tuple[tuple[int, str, int, int, bool], ...]


CORES = (
    Core(
        "cortex-a76",
        "Raspberry Pi 5",
        0xD0B,
        4,
        1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
        (
            (1, "Data", 64, 4, False),
            (1, "Instruction", 64, 4, False),
            (2, "Unified", 512, 8, False),
            (3, "Unified", 2048, 16, True),
        ),
    ),
    Core(
        "cortex-a72",
        "Raspberry Pi 4",
        0xD08,
        0,
        3,
        "fp asimd evtstrm crc32 cpuid",
        (
            (1, "Data", 32, 2, False),
            (1, "Instruction", 48, 3, False),
            (2, "Unified", 1024, 16, True),
        ),
    ),
)
_CORES_OF_A_BOARD = 4
_LINE = 64


@dataclass(frozen=True)
class Counted:
    """`instructions` of one inference after the first, and its `outputs`."""

    instructions: int
    outputs: Mapping[str, NDArray[Any]]


class Simulator:
    """Runs networks on one core.

    Args:
        folder: for what it builds; the caller's to delete.

    Raises:
        SystemExit: EDGEC_ARM64, the simulator or a compiler is missing.
    """

    def __init__(self, core: Core, folder: Path) -> None:
        named = os.environ.get(VARIABLE)
        if not named or not (Path(named) / "root").is_dir():
            raise SystemExit(f"{VARIABLE} names no folder with root/ and site/ (see {__file__})")
        for tool in ("qemu-aarch64", "cc"):
            if shutil.which(tool) is None:
                raise SystemExit(f"{tool} is missing (Debian: qemu-user, gcc)")
        self.core = core
        self._given = Path(named).resolve()
        self._folder = folder
        self._plugin = folder / "count.so"
        subprocess.run(
            # QEMU itself has the functions that the plugin calls
            [
                *("cc", "-O2", "-shared", "-fPIC", "-Wl,--unresolved-symbols=ignore-all"),
                *("-o", str(self._plugin), str(HERE / "count.c")),
            ],
            check=True,
        )
        _system(core, self._given / "root", folder / "system")

    def count(self, content: bytes, suffix: str, inputs: Mapping[str, NDArray[Any]]) -> Counted:
        """Run a ``.tflite`` or ``.onnx`` network.

        Raises:
            RuntimeError: the runtime refused or crashed; with its last words.
        """
        network, given, made = (
            self._folder / name for name in (f"network{suffix}", "inputs.npz", "outputs.npz")
        )
        network.write_bytes(content)
        np.savez(given, **inputs)  # type: ignore[arg-type]
        marks = self._folder / "marks"
        command = ["qemu-aarch64", "-cpu", self.core.name, "-L", str(self._folder / "system")]
        command += ["-plugin", f"file={self._plugin},out={marks}"]
        command += [str(self._given / "root/usr/bin/python3.11"), str(HERE / "run.py")]
        command += [str(network), str(given), str(made), str(INFERENCES)]
        environment = os.environ | {
            "PYTHONPATH": str(self._given / "site"),
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-400:])
        counts = [int(line) for line in marks.read_text().split()]
        spans = [end - start for start, end in zip(counts[::2], counts[1::2], strict=True)]
        with np.load(made) as arrays:
            return Counted(round(statistics.median(spans)), dict(arrays))


def _system(core: Core, root: Path, folder: Path) -> None:
    """A file system like `root`, with what Linux says of the processor.

    QEMU's user mode looks up absolute paths there first; without these files runtimes would read
    what the kernel says of this machine's processor, and crash or choose other kernels.
    """
    folder.mkdir(parents=True)
    for name in ("lib", "usr", "etc"):
        if (root / name).exists():
            (folder / name).symlink_to(root / name)
    processor = (
        "processor\t: {}\nBogoMIPS\t: 108.00\n"
        f"Features\t: {core.features}\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {core.variant:#x}\nCPU part\t: {core.part:#x}\n"
        f"CPU revision\t: {core.revision}\n\n"
    )
    everything = "".join(processor.format(number) for number in range(_CORES_OF_A_BOARD))
    _write(folder / "proc/cpuinfo", everything)
    processors = folder / "sys/devices/system/cpu"
    all_of_them = f"0-{_CORES_OF_A_BOARD - 1}"
    for name in ("possible", "present", "online"):
        _write(processors / name, f"{all_of_them}\n")
    _write(processors / "kernel_max", "255\n")
    for number in range(_CORES_OF_A_BOARD):
        one = processors / f"cpu{number}"
        for name, value in (
            ("physical_package_id", "0"),
            ("core_id", str(number)),
            ("core_siblings_list", all_of_them),
            ("thread_siblings_list", str(number)),
        ):
            _write(one / "topology" / name, f"{value}\n")
        for index, (level, kind, kib, ways, shared) in enumerate(core.cache):
            for name, value in (
                ("level", str(level)),
                ("type", kind),
                ("size", f"{kib}K"),
                ("coherency_line_size", str(_LINE)),
                ("ways_of_associativity", str(ways)),
                ("number_of_sets", str(kib * 1024 // ways // _LINE)),
                ("shared_cpu_list", all_of_them if shared else str(number)),
            ):
                _write(one / "cache" / f"index{index}" / name, f"{value}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
