"""What a network's C costs beside its arena and constants: code and stack, before it is compiled.

Kernels have the sizes that one compiler gave them (``kernel_sizes.json``); the calls and parameters
between them are counted. The linker of the device's own toolchain has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from edgec.export.emit.c.call import Call, Fields, Parameter, Scales

_CALL_BYTES = 16
"""Code of a call in the network's ``run``: addresses of its operands and parameters."""
_RUN_STACK = 48
"""Frame of the network's ``run``."""


@dataclass(frozen=True)
class Cost:
    """Bytes.

    Attributes:
        code: of the kernels and of the calls.
        parameters: constant structs of the calls.
        stack: deepest chain of calls from the network's ``run`` on, without the C library's, on
            the core where it is deepest.
        measured: compiler and core that the kernels' code is of.
    """

    code: int
    parameters: int
    stack: int
    measured: str


def cost_of(calls: Sequence[Call]) -> Cost:
    """Code and stack of a network's calls."""
    table = _table()
    used: set[str] = set()
    deepest = 0
    for call in calls:
        roots = [call.kernel, *call.functions]
        for root in roots:
            used.update(_reached(root))
        # a function that parameters point to is called from within the kernel
        deepest = max(deepest, _depth(call.kernel) + max(map(_depth, call.functions), default=0))
    functions = table["functions"]
    return Cost(
        sum(functions[name]["code"] for name in used) + _CALL_BYTES * len(calls),
        sum(_bytes(call.parameters) for call in calls),
        deepest + _RUN_STACK,
        f"{table['compiler']} -O2, {table['core']}",
    )


@cache
def _table() -> dict[str, Any]:
    text = resources.files("edgec.export.emit.c").joinpath("kernel_sizes.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _callees(name: str) -> Iterator[str]:
    functions = _table()["functions"]
    return (callee for callee in functions[name]["calls"] if callee in functions)


def _reached(name: str) -> Iterator[str]:
    """It and whatever it calls; nothing is recursive."""
    yield name
    for callee in _callees(name):
        yield from _reached(callee)


def _depth(name: str) -> int:
    frame: int = _table()["functions"][name]["stack"]
    return frame + max(map(_depth, _callees(name)), default=0)


def _bytes(parameters: Mapping[str, Parameter]) -> int:
    """Of a struct: every number and pointer takes four."""
    total = 0
    for parameter in parameters.values():
        if isinstance(parameter, Fields):
            total += _bytes(parameter.fields)
        elif isinstance(parameter, tuple):
            total += 4 * len(parameter)
        else:
            total += 8 if isinstance(parameter, Scales) else 4
    return total
