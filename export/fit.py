"""Which targets a zoo network fits: memory, and the operators that each runtime executes.

Two depths. `expected_fit` reads facts only (parameters of the registry, memory of the target) and
is there at once. `measured_fit` captures the network, builds the graph of every precision of every
target as an export would, lints it, and takes sizes from it; the weights are random, because
neither sizes nor operators depend on their values. Its result is cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from edgec.export.cache import StageCache
from edgec.export.errors import EdgecError
from edgec.export.progress import Reporter
from edgec.models.registry import ModelSpec
from edgec.profiles.memory.regions import Region
from edgec.targets.registry import get_target
from edgec.targets.schema import Runtime, Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgec.export.emit.c.forms import Forms
    from edgec.export.lint.engine import LintReport
    from edgec.export.quantize.calibrate import Calibration
    from edgec.profiles.layers import Layer

OWN = "generic-c99"
"""The target whose runtime is the C that edgec writes."""
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of one weight or activation."""

Verdict = Literal["fits", "weights fit", "activations fit", "too large", "unknown"]
Operators = Literal["pass", "refused", "not built", "not checked"]


@dataclass(frozen=True)
class Fit:
    """A network in one precision on one target.

    Attributes:
        target, precision: which.
        weights_bytes: parameters as stored; an estimate (all parameters in the precision) unless
            `measured`.
        activation_bytes: where the target gets C, the planned arena; else the peak of live
            activations in graph order, without the runtime's buffers; None where no graph was
            looked at.
        ram_bytes: the target's memory, of a microcontroller the largest of its RAMs, or all of
            them where only together they hold the network; None where no source states it.
        ram_source: where that number is from.
        flash_bytes, flash_source: memory that weights lie in of their own; None where they lie in
            RAM.
        weights_apart: weights take no RAM, be the flash known or not.
        operators: ``"pass"`` or ``"refused"`` by the rules of ``edgec check``, ``"not built"``
            when the graph of this precision cannot be made, ``"not checked"``.
        errors, warnings: findings of these rules.
        codes: of the errors, or of what kept the graph from being built.
        measured: whether a graph was looked at.
        latency: predicted for one thread, ``12 (9.5 to 15) ms``, or ``refused``; None where no
            graph was looked at.
    """

    target: str
    precision: str
    weights_bytes: int
    activation_bytes: int | None
    ram_bytes: int | None
    ram_source: str | None
    operators: Operators = "not checked"
    errors: int = 0
    warnings: int = 0
    codes: tuple[str, ...] = ()
    measured: bool = False
    latency: str | None = None
    flash_bytes: int | None = None
    flash_source: str | None = None
    weights_apart: bool = False

    @property
    def needed_bytes(self) -> int:
        """Least RAM that it takes: what is known of the activations, and weights that lie there."""
        return (0 if self.weights_apart else self.weights_bytes) + (self.activation_bytes or 0)

    @property
    def memory(self) -> Verdict:
        """Verdict on memory.

        ``"weights fit"`` says nothing about activations, ``"activations fit"`` nothing about
        weights, which lie in a flash that belongs to the board.
        """
        if self.ram_bytes is None:
            return "unknown"
        if self.needed_bytes > self.ram_bytes:
            return "too large"
        if self.flash_bytes is not None and self.weights_bytes > self.flash_bytes:
            return "too large"
        if self.weights_apart and self.flash_bytes is None:
            return "unknown" if self.activation_bytes is None else "activations fit"
        return "weights fit" if self.activation_bytes is None else "fits"

    def to_json(self) -> dict[str, Any]:
        """All fields and verdicts, JSON-ready."""
        return {**asdict(self), "needed_bytes": self.needed_bytes, "memory": self.memory}


def expected_fit(spec: ModelSpec, targets: Sequence[Target]) -> list[Fit]:
    """What facts alone tell, per target and precision: the weights against the memory."""
    return [
        Fit(
            target=target.name,
            precision=precision,
            weights_bytes=spec.params * BYTES[precision],
            activation_bytes=None,
            **asdict(_memories(target)),
        )
        for target in targets
        for precision in target.precisions
    ]


def cached_fit(spec: ModelSpec, targets: Sequence[Target]) -> list[Fit] | None:
    """An earlier result of `measured_fit` for all of `targets`, or None."""
    store = StageCache()
    found: list[Fit] = []
    for target in targets:
        entries = store.load_json(_key(spec, target))
        if entries is None:
            return None
        found += [Fit(**{**entry, "codes": tuple(entry["codes"])}) for entry in entries]
    return found


def measured_fit(
    spec: ModelSpec, targets: Sequence[Target], reporter: Reporter | None = None
) -> list[Fit]:
    """Build, lint and measure the graph of every precision of every target.

    Raises:
        EdgecError: the network cannot be captured or rewritten. A precision that cannot be built
            is part of the result.
    """
    from edgec.export.options import ExportOptions
    from edgec.export.source import capture

    reporter = reporter or Reporter(quiet=True)
    own = get_target(OWN).runtime if any("c" in t.formats for t in targets) else None
    # targets of equal runtimes share their graphs
    runtimes = {_same(t.runtime): t.runtime for t in targets} | ({_same(own): own} if own else {})
    reporter.stages = 1 + 2 * len(runtimes)
    with reporter.stage("capture"):
        options = ExportOptions(weights="random")
        captured = capture(spec.name, options, needs_accuracy=False, reporter=reporter)
    graphs = {key: _Graphs(captured.graph, r, reporter) for key, r in runtimes.items()}
    found: dict[str, list[Fit]] = {}
    for key, runtime in runtimes.items():
        members = [t for t in targets if _same(t.runtime) == key]
        with reporter.stage(f"check {len(members)} targets of {runtime.name}") as tick:
            for index, target in enumerate(members, 1):
                c = graphs[_same(own)] if own is not None and "c" in target.formats else None
                found[target.name] = [_fit(target, p, graphs[key], c) for p in target.precisions]
                tick(index, len(members))
    store = StageCache()
    for target in targets:
        entries = [asdict(fit) for fit in found[target.name]]
        store.store_json(_key(spec, target), entries)
    return [fit for target in targets for fit in found[target.name]]


def _same(runtime: Runtime) -> tuple[str, str, int]:
    """Equal for runtimes that get the same graphs."""
    return runtime.name, runtime.version, runtime.opset


@dataclass(frozen=True)
class _C:
    """A network as C: its forms, and bytes of its constants."""

    forms: Forms
    constant_bytes: int


class _Graphs:
    """The graphs of all precisions for one runtime, each built once."""

    def __init__(self, captured: ir.Model, runtime: Runtime, reporter: Reporter) -> None:
        import onnx_ir as ir

        from edgec.export.pipeline import tensor_infos
        from edgec.export.rewrite.engine import run_stages
        from edgec.export.rewrite.legalise.flatten_tokens import wants_matrices
        from edgec.export.rewrite.legalise.lacking import operators_lacking
        from edgec.profiles.activations import activation_peak_bytes
        from edgec.targets.operators.table import view_rank

        self.master = ir.from_proto(ir.to_proto(captured))
        with reporter.stage(f"rewrite for {runtime.name} {runtime.version}") as tick:
            run_stages(
                self.master,
                target_opset=runtime.opset,
                lacking=operators_lacking(runtime),
                max_rank=view_rank(runtime.name, runtime.version),
                matrices=wants_matrices(runtime),
                on_progress=lambda name, done, total: tick(done, total),
            )
        self.activation_bytes = activation_peak_bytes(self.master.graph)
        self._inputs = tensor_infos(self.master)[0]
        self._calibration: Calibration | None = None
        self._built: dict[tuple[str, str | None], ir.Model] = {}
        self._layers: dict[tuple[str, str | None], tuple[Layer, ...]] = {}
        self._c: dict[str, _C | None] = {}
        self._linted: dict[tuple[str, str | None, tuple[str, ...]], LintReport] = {}

    def get(self, precision: str, scheme: str | None) -> ir.Model:
        """The graph in one precision; int8 by the quantization scheme called `scheme`."""
        key = (precision, scheme if precision == "int8" else None)
        if key not in self._built:
            self._built[key] = self._build(precision, scheme)
        return self._built[key]

    def lint(self, precision: str, target: Target) -> LintReport:
        """What the rules say of a graph; they ask a target for its runtime, scheme and formats."""
        from edgec.export.lint.engine import lint

        key = (precision, target.int8_scheme, target.formats)
        if key not in self._linted:
            self._linted[key] = lint(self.get(precision, target.int8_scheme), target)
        return self._linted[key]

    def layers(self, precision: str, scheme: str | None) -> tuple[Layer, ...]:
        """The kernels of a graph, profiled once."""
        from edgec.profiles.from_graph import graph_layers

        key = (precision, scheme if precision == "int8" else None)
        if key not in self._layers:
            self._layers[key] = graph_layers(self.get(precision, scheme))
        return self._layers[key]

    def c(self, precision: str, scheme: str | None) -> _C | None:
        """What is known of the C that an export writes; None where it writes none."""
        from edgec.export.c_artifacts import c_network
        from edgec.export.emit.c.forms import Forms, constant_bytes
        from edgec.export.errors import UnsupportedError

        if precision not in self._c:
            try:
                lowered = c_network(self.get(precision, scheme), integers=precision == "int8")
            except UnsupportedError:
                self._c[precision] = None
            else:
                self._c[precision] = _C(Forms(lowered), constant_bytes(lowered))
        return self._c[precision]

    def _build(self, precision: str, scheme: str | None) -> ir.Model:
        from edgec.export.quantize.float16 import to_float16
        from edgec.export.quantize.insert import quantize
        from edgec.export.quantize.scheme import get_scheme

        if precision == "fp16":
            return to_float16(self.master, calibration=self._ranges())
        if precision == "int8":
            assert scheme is not None
            return quantize(self.master, self._ranges(), get_scheme(scheme))
        return self.master

    def _ranges(self) -> Calibration:
        """Ranges from one random input: where quantizers go does not depend on their values."""
        from edgec.export.golden import golden_feeds
        from edgec.export.quantize.calibrate import calibrate

        if self._calibration is None:
            self._calibration = calibrate(self.master, golden_feeds(self._inputs, None, 0)[:1])
        return self._calibration


def _fit(target: Target, precision: str, graphs: _Graphs, own: _Graphs | None = None) -> Fit:
    """One row; `own` are the graphs that C is written from, for targets that get it."""
    memories = _memories(target)
    width = BYTES[precision]
    try:
        graph = graphs.get(precision, target.int8_scheme)
        report = graphs.lint(precision, target)
    except EdgecError as error:
        parameters = _initializer_bytes(graphs.master)
        return Fit(
            target=target.name,
            precision=precision,
            weights_bytes=parameters * width // BYTES["fp32"],
            activation_bytes=graphs.activation_bytes * width // BYTES["fp32"],
            operators="not built",
            codes=(error.code,),
            measured=True,
            **asdict(memories),
        )
    counts = report.counts()
    errors = report.of("error")
    weights = _initializer_bytes(graph)
    activations = graphs.activation_bytes * width // BYTES["fp32"]
    c = own.c(precision, target.int8_scheme) if own is not None else None
    if c is not None:
        planned = c.forms.fitted([Region.of(memory) for memory in target.memories("ram")]).plan
        weights, activations = c.constant_bytes, planned.peak
        rams = [r.capacity for r in planned.regions if r.kind == "ram" and r.capacity is not None]
        if len(rams) > 1:
            memories = replace(memories, ram_bytes=sum(rams))
    return Fit(
        target=target.name,
        precision=precision,
        weights_bytes=weights,
        activation_bytes=activations,
        operators="refused" if errors else "pass",
        errors=counts["errors"],
        warnings=counts["warnings"],
        codes=tuple(dict.fromkeys(finding.code for finding in errors)),
        measured=True,
        latency=_latency(graphs.layers(precision, target.int8_scheme), precision, target),
        **asdict(memories),
    )


def _latency(layers: Sequence[Layer], precision: str, target: Target) -> str:
    from edgec.profiles.latency.target import predict_for

    found = predict_for(layers, precision, target)
    if found.latency_ms is None or found.low_ms is None or found.high_ms is None:
        return "refused"
    return f"{found.latency_ms:.3g} ({found.low_ms:.3g} to {found.high_ms:.3g}) ms"


def _initializer_bytes(graph: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for value in graph.graph.initializers.values()
        if value.const_value is not None
    )


@dataclass(frozen=True)
class _Memories:
    """The fields of `Fit` that tell of a target's memory."""

    ram_bytes: int | None
    ram_source: str | None
    flash_bytes: int | None = None
    flash_source: str | None = None
    weights_apart: bool = False


def _memories(target: Target) -> _Memories:
    if target.memory:
        ram, flash = target.largest("ram"), target.largest("flash")
        return _Memories(
            None if ram is None else ram.bytes,
            None if ram is None else ram.source,
            None if flash is None else flash.bytes,
            None if flash is None else flash.source,
            weights_apart=True,
        )
    fact = target.facts.get("ram_bytes")
    if fact is None or not isinstance(fact.value, int):
        return _Memories(None, None)
    return _Memories(fact.value, fact.source)


def _key(spec: ModelSpec, target: Target) -> str:
    return StageCache.key("fit", spec=spec.to_json(), target=target.to_json(), rules=_rules_hash())


@cache
def _rules_hash() -> str:
    """Hash of what decides besides the sources that every key holds: tables, rules, profiles."""
    digest = hashlib.sha256()
    folders = (
        "edgec.targets.operators",
        "edgec.export.lint",
        "edgec.profiles",
        "edgec.profiles.latency",
    )
    for file in _files(folders):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(packages: Sequence[str]) -> Iterator[resources.abc.Traversable]:
    for package in packages:
        entries = resources.files(package).iterdir()
        files = [e for e in entries if e.name.endswith((".py", ".toml", ".json"))]
        yield from sorted(files, key=lambda entry: entry.name)
