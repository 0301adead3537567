"""What NVIDIA's own parser and compiler say of a graph, on a machine without a GPU.

TensorRT for RTX (``tensorrt-rtx`` on PyPI) compiles ahead of time for a compute capability without
a GPU. Its engines run on no Jetson, and its compiler is not the Jetson's; but it parses ONNX with
NVIDIA's parser, builds with NVIDIA's fusions and lists the kernels, so that it finds most of what
would go wrong on the device and shows why int8 may be no faster than float16 there. Everything it
says is worded as what it is: a proxy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources, util
from pathlib import Path
from typing import Any

from edgec.targets.schema import Target

SCHEMA = "edgec.trt-proxy/1"
PYTHON_VARIABLE = "EDGEC_TENSORRT_RTX"
TIMEOUT_SECONDS = 900
SYNCHRONIZATION = ("signal", "wait")
STAND_INS: tuple[tuple[int, str, str], ...] = (
    # from this compute capability on, what is compiled for, what that stands for
    (0, "SM86", "Ampere; the device's GPU is older and has fewer fusions"),
    (75, "SM75", "Turing"),
    (80, "SM80", "Ampere"),
    (86, "SM86", "Ampere"),
    (87, "SM86", "Ampere, like the Orin's SM87"),
    (89, "SM89", "Ada"),
    (90, "SM89", "Ada; there is no Hopper in TensorRT for RTX"),
    (100, "SM120", "Blackwell, like Thor's SM101 or SM110"),
    (120, "SM120", "Blackwell"),
)


@dataclass(frozen=True)
class Plan:
    """What became of one graph.

    Attributes:
        built: parsed and compiled.
        errors: the compiler's words, if not.
        kernels: how many there are, without those that only make streams wait for each other.
        kinds: kernels by kind (``kgen`` are generated elementwise ones, ``runtime_fusion`` fused
            convolutions or matrix products, ``gemm`` and ``correlation`` plain ones).
        types: kernels by what they write (``Half``, ``Float``, ``Int8``, or several).
        attention: fused attention kernels.
        synchronizations: steps that signal another stream or wait for one.
        activation_bytes, scratch_bytes, weight_bytes: memory of the engine.
        engine_sha256: hash of the engine: equal inputs give equal ones.
    """

    built: bool
    errors: tuple[str, ...] = ()
    kernels: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    attention: int = 0
    synchronizations: int = 0
    activation_bytes: int | None = None
    scratch_bytes: int | None = None
    weight_bytes: int | None = None
    engine_sha256: str | None = None


def proxy_python() -> str | None:
    """A Python that has TensorRT for RTX: ``EDGEC_TENSORRT_RTX``, else this one if it has.

    ``EDGEC_TENSORRT_RTX=none`` switches the proxy off.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return None if named == "none" else named
    modules = ("tensorrt_rtx", "tensorrt_rtx_bindings")
    return sys.executable if any(util.find_spec(name) for name in modules) else None


def stand_in(sm: int | None) -> tuple[str, str]:
    """What is compiled for, and what that stands for, given the device's compute capability."""
    found = STAND_INS[0]
    for row in STAND_INS:
        if sm is not None and row[0] <= sm:
            found = row
    return found[1], found[2]


def compile_for(python: str, model: Path, capability: str) -> tuple[Plan, str | None]:
    """Parse and build `model` in a process of its own.

    Returns:
        The plan, and the compiler's version (None if it did not run).
    """
    worker = resources.files("edgec.export.emit.tensorrt").joinpath("proxy_worker.py")
    with resources.as_file(worker) as script:
        try:
            done = subprocess.run(
                [python, str(script), str(model), capability],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else None
        except subprocess.TimeoutExpired:
            return Plan(False, (f"no answer within {TIMEOUT_SECONDS} s",)), None
        except (OSError, ValueError) as error:
            return Plan(False, (str(error),)), None
    if answer is None:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return Plan(False, (last,)), None
    return _plan(answer), answer["version"]


def _plan(answer: Mapping[str, Any]) -> Plan:
    listed = answer.get("kernels", [])
    kernels = [kernel for kernel in listed if kernel["kind"] not in SYNCHRONIZATION]
    types = Counter("+".join(kernel["types"]) or "?" for kernel in kernels)
    return Plan(
        built=answer["built"],
        errors=tuple(answer["errors"]),
        kernels=len(kernels),
        kinds=dict(sorted(Counter(kernel["kind"] for kernel in kernels).items())),
        types=dict(sorted(types.items())),
        attention=sum("mha" in kernel["name"] for kernel in kernels),
        synchronizations=len(listed) - len(kernels),
        activation_bytes=answer.get("activation_bytes"),
        scratch_bytes=answer.get("scratch_bytes"),
        weight_bytes=answer.get("weight_bytes"),
        engine_sha256=answer.get("engine_sha256"),
    )


def ask_proxy(
    python: str, target: Target, models: Mapping[str, Path], attentions: int
) -> dict[str, Any]:
    """Compile the graphs of a bundle; content of ``tensorrt/proxy.json``.

    Args:
        python: from `proxy_python`.
        models: ONNX file by precision.
        attentions: softmax attentions that the graph holds, for "how many of them are fused".
    """
    sm = target.fact("gpu_sm")
    capability, meaning = stand_in(sm if isinstance(sm, int) else None)
    plans, versions = {}, set()
    for precision, path in models.items():
        plans[precision], version = compile_for(python, path, capability)
        versions |= {version} - {None}
    return {
        "schema": SCHEMA,
        "compiler": f"TensorRT for RTX {', '.join(sorted(map(str, versions))) or 'unknown'}",
        "capability": capability,
        "stands_for": meaning,
        "note": "A proxy: the device's own TensorRT has other kernels and chooses by timing.",
        "attentions": attentions,
        "engines": {precision: asdict(plan) for precision, plan in plans.items()},
        "statements": statements(plans, attentions),
    }


def statements(plans: Mapping[str, Plan], attentions: int) -> list[str]:
    """Plain sentences on what the compiler made of each precision, and of int8 beside float16."""
    found = []
    for precision, plan in plans.items():
        if not plan.built:
            found.append(f"{precision}: refused: {plan.errors[0] if plan.errors else 'no reason'}")
            continue
        kinds = ", ".join(f"{count} {kind}" for kind, count in plan.kinds.items())
        line = f"{precision}: {plan.kernels} kernels ({kinds})"
        if attentions:
            line += f", {plan.attention} of {attentions} attentions fused"
        found.append(line)
    half, whole = plans.get("fp16"), plans.get("int8")
    if half is not None and whole is not None and half.built and whole.built:
        more = whole.kernels - half.kernels
        if more > 0:
            lost = half.kinds.get("runtime_fusion", 0) - whole.kinds.get("runtime_fusion", 0)
            broken = f", {lost} fusions are broken" if lost > 0 else ""
            unfused = half.attention - whole.attention
            broken += f", {unfused} attentions fall apart" if unfused > 0 else ""
            found.append(
                f"int8 needs {more} kernels more than fp16{broken}: it may not be faster; "
                "measure both on the device"
            )
        else:
            found.append(f"int8 needs no more kernels than fp16 ({whole.kernels}, {half.kernels})")
    return found
