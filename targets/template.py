"""The commented file that ``edgec targets new`` writes."""

from __future__ import annotations

import re
from pathlib import Path

from edgec.export.errors import UsageError
from edgec.export.files import atomic_write
from edgec.targets.registry import list_targets, target_toml

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

TEMPLATE = """\
# A deployment target: facts about a device, and the choices that follow from its runtime.
# A number that you have no source for is left out, never guessed.
# Use it:   edgec check --model NETWORK --target ./{name}.toml
# By name:  put it into the folder that `edgec targets list` names.

# For people: maker, chip or board, what tells it from others.
title = "{name}"

# mcu: artifacts are planned into the memories below; cpu: an operating system gives memory;
# gpu: a Jetson or another GPU with TensorRT; npu: an accelerator behind a runtime of its own.
kind = "mcu"

# Other names for --target. Names of shipped targets come first.
aliases = []

# What `edgec export` writes: onnx, tflite, tensorrt (runtime tensorrt only), c.
formats = ["tflite", "c"]

# What the runtime executes on the device, and what is built when --precision is not given.
precisions = ["fp32", "int8"]
default_precision = "int8"

# How int8 is laid out:
#   tflite-full  integers from end to end (microcontrollers, Edge TPU)
#   tflite       TFLite files with float inputs and outputs (LiteRT)
#   ort-arm, ort-x86  ONNX Runtime;  tensorrt  TensorRT
# Leave it out, and int8 out of `precisions`, where the device gains nothing from int8.
int8_scheme = "tflite-full"

# Sentences that `edgec targets show` and every report print.
notes = []

# The runtime decides which operators are legal. Known here, with their operator tables:
# onnxruntime, tensorrt, litert, tflite-runtime, tflm.
[runtime]
name = "tflm"
version = "2026.8"
opset = 20
source = "where you read which version runs on the device"

# Numbers with their unit at the end of the name (_mhz, _bytes, _gb_s, ...), each with the document
# it was read from. `core` and `cpu_mhz` decide which fitted constants predict latency.
[facts]
# core = {{ value = "Arm Cortex-M7", source = "data sheet, title page" }}
# cpu_mhz = {{ value = 216, source = "data sheet, features" }}

# Memories that artifacts are planned into, the preferred ones first; microcontrollers only.
# kind is ram (arena) or flash (weights and code); base is optional.
# [[memory]]
# name = "sram"
# kind = "ram"
# bytes = 327680
# base = 0x20000000
# source = "reference manual, memory map"
"""


def write_template(path: Path, *, like: str | None = None) -> Path:
    """Write a target file to start from, and return its path.

    Args:
        path: file to write, or a bare name for ``NAME.toml`` in the current folder.
        like: a shipped target whose file is copied instead of the commented template.

    Raises:
        UsageError: the name is taken or not usable, or the file is already there (EC232); no
            target `like` (EC201).
        MissingToolError: the file cannot be written.
    """
    path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    name = path.stem
    if NAME.fullmatch(name) is None:
        raise _refused(path, f"{name!r} is not a usable name", "small letters, digits, - and .")
    if name in list_targets():
        raise _refused(path, f"{name!r} is a shipped target", "choose another name")
    if path.exists():
        raise _refused(path, "the file is already there", "choose another name, or remove it")
    text = TEMPLATE.format(name=name) if like is None else _without_aliases(target_toml(like))
    atomic_write(path, text.encode())
    return path


def _without_aliases(text: str) -> str:
    """Aliases stay with the shipped target."""
    return re.sub(r"^aliases = .*$", "aliases = []", text, count=1, flags=re.MULTILINE)


def _refused(path: Path, what: str, fix: str) -> UsageError:
    return UsageError("EC232", "no target file written", where=str(path), why=what, fix=fix)
