"""Reads the tables of delegates: what takes TFLite operators over from LiteRT's own kernels.

The TOML files in ``delegates/`` are written by ``make_xnnpack.py`` from an installed package,
``make_gpu.py`` from the delegate's source and ``make_edgetpu.py`` from published tables; none is
written by hand.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Form:
    """The calls of an operator on certain types that a delegate takes.

    Attributes:
        ranks: of the first input; empty where any goes.
        operand: ``"constant"``, ``"computed"``, what the second input may be; empty: either.
        activations: fused activations; empty: any.
        axes: reduced axes as ``"[1, 2]"``; empty: any.
        keep_dims: values of that option; empty: either.
        beta: of SOFTMAX; empty: any.
        ratio: bounds of input over output scale as powers of two, the upper one refused.
        product: the same of the product of both input scales over the output's.
        same_grid: inputs and output have one scale and zero point.
        unit_strides: of STRIDED_SLICE, all strides are 1.
        covered: of TRANSPOSE_CONV, with SAME padding the kernel is as large as the stride.
        symmetric: input whose zero point is 0; None: any zero point goes.
        most_inputs: of CONCATENATION; None: any number that was tried.
    """

    ranks: tuple[int, ...] = ()
    operand: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    keep_dims: tuple[bool, ...] = ()
    beta: tuple[float, ...] = ()
    ratio: tuple[int, int] | None = None
    product: tuple[int, int] | None = None
    same_grid: bool = False
    unit_strides: bool = False
    covered: bool = False
    symmetric: int | None = None
    most_inputs: int | None = None


@dataclass(frozen=True)
class DelegateTable:
    """What a delegate takes.

    Attributes:
        name: ``"xnnpack"``, ``"gpu"``, ``"edgetpu"``.
        title: for messages.
        version: of the package that it was found in; empty where the source is a document.
        source: package, file and commit, or page.
        operators: builtins of which it takes some calls.
        forms: builtin → types → limits, where the table has them: ``"float"``, ``"int8"``, …,
            ``"int8 weights"`` with float activations.
        limitations: builtin → limitation in the source's words.
    """

    name: str
    title: str
    version: str
    source: str
    operators: frozenset[str]
    forms: dict[str, dict[str, Form]]
    limitations: dict[str, str]


@cache
def delegate_table(name: str) -> DelegateTable:
    """The newest table of a delegate.

    Raises:
        KeyError: there is none.
    """
    folder = resources.files("edgec.targets").joinpath("operators", "delegates")
    found = [
        table
        for file in folder.iterdir()
        if file.name.endswith(".toml")
        for table in (parse_delegate(tomllib.loads(file.read_text("utf-8"))),)
        if table.name == name
    ]
    if not found:
        raise KeyError(name)
    return max(found, key=lambda table: tuple(int(p) for p in table.version.split(".") if p))


def parse_delegate(data: dict[str, Any]) -> DelegateTable:
    """Build a table from parsed TOML."""
    rows: dict[str, dict[str, Any]] = data["operators"]
    forms = {
        name: {types: _form(limits) for types, limits in row.items() if isinstance(limits, dict)}
        for name, row in rows.items()
    }
    return DelegateTable(
        name=data["delegate"],
        title=data["title"],
        version=data.get("version", ""),
        source=data["source"],
        operators=frozenset(rows),
        forms={name: row for name, row in forms.items() if row},
        limitations={n: row["limitation"] for n, row in rows.items() if "limitation" in row},
    )


def _form(limits: dict[str, Any]) -> Form:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in limits.items()}
    return Form(**fields)
