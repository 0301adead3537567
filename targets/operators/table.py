"""Reads the operator tables and picks the one that stands for a runtime version.

A table is a TOML file beside this module, written by ``make_tensorrt.py`` from the parser's
documentation, by ``make_onnxruntime.py`` and ``make_tflite.py`` from an installed package, by
``make_tflm.py`` from source, or by ``make_c.py`` from edgec's own C emitter; none is written by
hand. Data types carry ONNX's names in lower case (``float``, ``float16``, ``int64``, …). Tables of
TFLite runtimes list builtin operators; they are read through ``onnx_to_tflite.toml``, which says
what an ONNX operator becomes there.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Kernel:
    """One registered implementation of an operator.

    Attributes:
        since: first operator version it covers.
        until: last one; None for a kernel whose range is open.
        types: data types of the first input; empty where the input is no tensor.
    """

    since: int
    until: int | None
    types: frozenset[str]

    def covers(self, version: int) -> bool:
        """Whether it executes the operator as defined in `version`.

        An open range means "this definition until a newer one exists", so it matches exactly
        (onnxruntime/core/framework/kernel_registry.cc).
        """
        return version == self.since or (
            self.until is not None and self.since < version <= self.until
        )


@dataclass(frozen=True)
class Operator:
    """What a runtime version does with one operator.

    Attributes:
        supported: False for operators listed as not implemented.
        types: data types of its tensors, where the table has no kernels.
        restrictions: conditions in words, where the source states some.
        kernels: implementations by operator version; empty where the source does not tell.
        function: has no kernel of its own but a definition in other operators, which the runtime
            inlines.
        max_rank: most dimensions its kernels take; None where the source does not tell.
        becomes: operators of the runtime's own format that it turns into.
    """

    supported: bool = True
    types: frozenset[str] = frozenset()
    restrictions: str = ""
    kernels: tuple[Kernel, ...] = ()
    function: bool = False
    max_rank: int | None = None
    becomes: tuple[str, ...] = ()

    def executes(self, version: int) -> bool:
        """Whether the runtime takes the operator as defined in ai.onnx `version`."""
        if not self.supported:
            return False
        return self.function or not self.kernels or any(k.covers(version) for k in self.kernels)

    def types_at(self, version: int) -> frozenset[str]:
        """Data types taken at operator `version`; empty where unknown or anything goes."""
        if self.function:
            return frozenset()
        if not self.kernels:
            return self.types
        found = [k.types for k in self.kernels if k.covers(version)]
        return frozenset().union(*found) if all(found) else frozenset()


@dataclass(frozen=True)
class OperatorTable:
    """All operators of one runtime version.

    Attributes:
        runtime: ``"tensorrt"``, ``"onnxruntime"``, ``"litert"``, ``"tflite-runtime"``, ``"tflm"``,
            ``"edgec-c"``.
        version: the version that the source describes.
        opset: newest ai.onnx opset; 0 where the runtime does not read ONNX.
        oldest_opset: oldest one.
        source: repository, branch and licence, or package.
        operators: ONNX name → operator; other domains as ``domain::name``.
        max_rank: dimensions that all its operators take, as far as known; None: no limit known.
        builtins: operators of the runtime's own format, where that is not ONNX.
    """

    runtime: str
    version: str
    opset: int
    oldest_opset: int
    source: str
    operators: dict[str, Operator]
    max_rank: int | None = None
    builtins: dict[str, Operator] = field(default_factory=dict)

    def find(self, domain: str, name: str) -> Operator | None:
        """The row of an operator, or None if the table does not mention it."""
        return self.operators.get(name if domain in DEFAULT_DOMAINS else f"{domain}::{name}")


@dataclass(frozen=True)
class Selected:
    """A table, and what to say about how well it fits.

    Attributes:
        note: empty when the table describes exactly the version asked for.
    """

    table: OperatorTable
    note: str


def table_versions(runtime: str) -> list[str]:
    """Versions of `runtime` with a table, oldest first."""
    return [table.version for table in _tables() if table.runtime == runtime]


def table_runtimes() -> list[str]:
    """Runtimes with a table."""
    return sorted({table.runtime for table in _tables()})


def select_table(runtime: str, version: str) -> Selected:
    """The newest table that is not newer than `version`; the oldest one if all are newer.

    Raises:
        KeyError: there is no table for this runtime at all.
    """
    tables = [table for table in _tables() if table.runtime == runtime]
    if not tables:
        raise KeyError(runtime)
    older = [table for table in tables if _key(table.version) <= _key(version)]
    table = older[-1] if older else tables[0]
    if _key(table.version) == _key(version)[: len(_key(table.version))]:
        return Selected(table, "")
    relation = "newest table not newer than" if older else "oldest table, which is newer than"
    return Selected(table, f"operator table {runtime} {table.version}: the {relation} {version}")


VIEW_RANK = 5
"""Rank that Reshape and Transpose chains keep to where the runtime sets no lower limit."""


def view_rank(runtime: str, version: str) -> int:
    """Rank that views of graphs for this runtime have to keep to."""
    try:
        limit = select_table(runtime, version).table.max_rank
    except KeyError:
        limit = None
    return VIEW_RANK if limit is None else min(VIEW_RANK, limit)


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@cache
def _tables() -> tuple[OperatorTable, ...]:
    tables = [
        parse_table(tomllib.loads(file.read_text("utf-8")))
        for file in _folder().iterdir()
        if file.name.endswith(".toml") and file.name != _MAPPING
    ]
    return tuple(sorted(tables, key=lambda table: (table.runtime, _key(table.version))))


_MAPPING = "onnx_to_tflite.toml"


def _folder() -> Traversable:
    return resources.files("edgec.targets").joinpath("operators")


@cache
def tflite_mapping() -> dict[str, tuple[str, ...]]:
    """ONNX operator → the TFLite builtins that it becomes."""
    data = tomllib.loads(_folder().joinpath(_MAPPING).read_text("utf-8"))
    return {name: tuple(row["becomes"]) for name, row in data["operators"].items()}


def parse_table(data: dict[str, Any]) -> OperatorTable:
    """Build a table from parsed TOML."""
    operators = {name: _operator(row) for name, row in data["operators"].items()}
    builtins: dict[str, Operator] = {}
    if data.get("names") == "tflite":
        builtins = operators
        operators = {
            name: _composed(becomes, builtins) for name, becomes in tflite_mapping().items()
        }
    return OperatorTable(
        runtime=data["runtime"],
        version=data["version"],
        opset=data.get("opset", 0),
        oldest_opset=data.get("oldest_opset", 0),
        source=data["source"],
        operators=operators,
        max_rank=data.get("max_rank"),
        builtins=builtins,
    )


def _operator(row: dict[str, Any]) -> Operator:
    kernels = tuple(
        Kernel(k["since"], k.get("until"), frozenset(k["types"])) for k in row.get("kernels", ())
    )
    return Operator(
        supported=row.get("supported", True),
        types=frozenset(row.get("types", ())),
        restrictions=row.get("restrictions", ""),
        kernels=kernels,
        function=row.get("function", False),
        max_rank=row.get("max_rank"),
    )


def _composed(becomes: tuple[str, ...], builtins: dict[str, Operator]) -> Operator:
    """What holds for an ONNX operator that becomes all of these builtins.

    The writer of the file chooses the builtin's version, so that any version will do.
    """
    parts = [builtins[name] for name in becomes if name in builtins]
    types = [frozenset().union(p.types, *(k.types for k in p.kernels)) for p in parts]
    known = [t for t in types if t]
    ranks = [p.max_rank for p in parts if p.max_rank is not None]
    return Operator(
        supported=len(parts) == len(becomes),
        types=frozenset.intersection(*known) if known else frozenset(),
        max_rank=min(ranks, default=None),
        becomes=becomes,
    )
