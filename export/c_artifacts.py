"""The C artifact of an export: written, planned for the target's memories, its golden data made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.export import as_in_file
from edgec.export.bundle import Artifact
from edgec.export.emit.c import execute
from edgec.export.emit.c.forms import Forms
from edgec.export.emit.c.lower import Lowered, lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.c.source import Port, Sources, write_sources
from edgec.export.emit.tflite.boundary import integer_ends
from edgec.export.emit.tflite.flavour import C
from edgec.export.emit.tflite.lower import emit
from edgec.export.emit.tflite.normalise import normalise
from edgec.export.emit.tflite.read import read_graph
from edgec.export.errors import UnsupportedError
from edgec.export.options import INT16X8, MIXED
from edgec.export.progress import Reporter
from edgec.export.quantize.scheme import C_INT16X8, QuantScheme, get_scheme
from edgec.export.tflite.model import Model
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite_artifacts import Source, at_opset
from edgec.profiles.memory.bill import check_budget, peak_text
from edgec.profiles.memory.plan import Plan, RegionUse
from edgec.profiles.memory.regions import Region
from edgec.runtime.feeds import Tensor
from edgec.runtime.litert_runner import dequantized
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.tflite_artifact import as_integers
from edgec.targets.schema import Target

FOLDER = "c"
SCHEME = "tflite-full"
"""Every operator on integers; the arithmetic of the kernels is that of TFLite."""


@dataclass(frozen=True)
class CArtifact:
    """The artifact and its files, by path inside its folder."""

    artifact: Artifact
    files: dict[str, str]


def c_artifact(source: Source, reporter: Reporter, tick: Callable[[int, int], None]) -> CArtifact:
    """Write ``c/`` of the bundle.

    Returns:
        The artifact; a skipped one without files if the network has an operator without a kernel
        and the target, not the user, asked for the format.

    Raises:
        UnsupportedError: EC330 no kernel, EC390, EC391 no integer form of an operator.
        BudgetError: EC550, the target's memories are too small.
        InternalError: EC151, the plan does not compute what the reference does.
    """
    integers = source.job.quantized or source.quantization is not None
    wide = source.job.options.precision == INT16X8
    precision = (INT16X8 if wide else "int8") if integers else "fp32"
    try:
        graph, mixed = source.master, dict[str, Any]()
        if integers and not source.job.quantized:
            graph, mixed = _quantized(source, tick)
        model = _model(graph, integers=integers)
        lowered = lower(model, name=source.job.name)
    except UnsupportedError as error:
        asked = not source.job.resolved.origin["formats"].startswith("target")
        if asked or error.code not in ("EC330", "EC390", "EC391"):
            raise
        reporter.warn(f"no C: {error.where or 'network'}: {error.why or error.what}")
        why = f"{error.code} {error.what}: {error.where or ''}"
        return CArtifact(Artifact(FOLDER, "c", precision, "skipped", why=why), {})
    target = source.job.target
    rams = [Region.of(memory) for memory in target.memories("ram")]
    found = Forms(lowered).fitted(rams, source.job.options.ram)
    lowered, planned = found.lowered, found.plan
    executed = execute.executable(lowered)
    if precision == "fp32":
        # golden data are ONNX Runtime's, to a tolerance; the plan is checked to the last bit
        golden = _float_golden(source, model)
        if executed:
            feeds, _ = golden[0]
            execute.check(model, lowered, planned, [(feeds, reference(model, feeds))])
    else:
        golden = [_golden(model, feed) for feed in source.golden]
        execute.check(model, lowered, planned, golden)
    flash = target.largest("flash")
    sources = write_sources(
        model,
        lowered,
        planned,
        prefix=source.job.name,
        golden=golden,
        title=f"{source.job.name} for {target.title}",
        flash_bytes=None if flash is None else flash.bytes,
        bases={m.name: m.base for m in target.memory if m.base is not None},
    )
    bill = _bill(planned, sources)
    check_budget(_with_constants(planned, sources, target), target.name, rams, bill)
    artifact = Artifact(
        path=FOLDER,
        format="c",
        precision=precision,
        status="built",
        scheme=_scheme(source, precision),
        bytes=sources.weight_bytes,
        checks=_facts(model, planned, sources, len(golden))
        | {"streamed": list(found.streamed), "executed": executed}
        | {"bill": bill, "peak": peak_text(planned)}
        | (_agreement(source, model, golden) if integers else {})
        | mixed,
    )
    return CArtifact(artifact, sources.files)


def c_network(graph: ir.Model, *, integers: bool) -> Lowered:
    """The calls of a float graph, or of one with quantizers, as an export writes them.

    Raises:
        UnsupportedError: as `c_artifact`.
    """
    return lower(_model(graph, integers=integers))


def _model(graph: ir.Model, *, integers: bool) -> Model:
    read = normalise(read_graph(graph, C))
    if integers:
        integer_ends(read)
    return emit(read, C).model


def _scheme(source: Source, precision: str) -> str | None:
    if source.job.quantized:
        return as_in_file.scheme_of(precision)
    mixed = ", mixed" if source.job.options.precision == MIXED else ""
    return None if precision == "fp32" else f"{precision}{mixed} ({_scheme_for(source).name})"


def _scheme_for(source: Source) -> QuantScheme:
    return C_INT16X8 if source.job.options.precision == INT16X8 else get_scheme(SCHEME)


def _quantized(source: Source, tick: Callable[[int, int], None]) -> tuple[ir.Model, dict[str, Any]]:
    """The Q/DQ graph, and what a search for a mixed precision found."""
    quantization, data = source.quantization, source.data
    assert quantization is not None
    assert source.calibration is not None
    assert data is not None
    scheme = _scheme_for(source)
    own = quantization.in_format(scheme, C_INT16X8, _has_kernels)
    master = source.master
    if source.job.options.precision in (INT16X8, MIXED):
        master = at_opset(master, C_INT16X8.lowest_opset)
    return own.quantize(master, source.calibration, data, tick), own.mixed()


def _has_kernels(graph: ir.Model) -> bool:
    try:
        c_network(graph, integers=True)
    except UnsupportedError:
        return False
    return True


def _with_constants(planned: Plan, sources: Sources, target: Target) -> Plan:
    """The plan with constants and code in the target's flash, for the bill."""
    flash = target.largest("flash")
    if flash is None:
        return planned
    size = sources.weight_bytes + sources.cost.code + sources.cost.parameters
    use = RegionUse(flash.name, "flash", flash.bytes, size, size)
    return replace(planned, regions=(*planned.regions, use))


def _bill(planned: Plan, sources: Sources) -> str:
    """What a network takes, the parts that no memory of the plan shows included."""
    ports = sum(port.size for port in (*sources.inputs, *sources.outputs))
    scratch = max((b.size for b in planned.buffers if b.kind == "scratch"), default=0)
    cost = sources.cost
    return (
        f"arena {planned.peak:,} (inputs and outputs {ports:,}, largest scratch {scratch:,}), "
        f"stack about {cost.stack:,}, constants {sources.weight_bytes:,}, code and parameters "
        f"about {cost.code + cost.parameters:,} ({cost.measured})"
    )


def _golden(
    model: Model, feed: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A golden input as the network takes it, channels last, and what comes out."""
    tensors = [model.main.tensors[i] for i in model.main.inputs]
    integers = {}
    for name, tensor in zip(input_names(model), tensors, strict=True):
        array = np.asarray(feed[name])
        stored = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        floats = tensor.dtype == "FLOAT32"
        integers[name] = stored.astype(np.float32) if floats else as_integers(stored, tensor)
    return integers, reference(model, integers)


def _float_golden(
    source: Source, model: Model
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Golden inputs, channels last, and what ONNX Runtime computes."""
    master = OnnxRunner(source.built[0].data)

    def stored(arrays: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        found = {name: np.asarray(arrays[name]) for name in names}
        return {n: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for n, a in found.items()}

    return [
        (stored(feed, input_names(model)), stored(master.run(feed), output_names(model)))
        for feed in source.golden
    ]


def _agreement(
    source: Source, model: Model, golden: list[tuple[dict[str, Tensor], dict[str, Tensor]]]
) -> dict[str, Any]:
    """How far the integers are from the master on the golden inputs."""
    master = OnnxRunner(source.built[0].data, emulate=source.job.quantized)
    tensors = [model.main.tensors[i] for i in model.main.outputs]
    signal = noise = 0.0
    for feed, (_, outputs) in zip(source.golden, golden, strict=True):
        wanted = master.run(feed)
        for name, tensor in zip(output_names(model), tensors, strict=True):
            value = dequantized(outputs[name], tensor).astype(np.float64)
            value = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
            signal += float((wanted[name].astype(np.float64) ** 2).sum())
            noise += float(((value - wanted[name]) ** 2).sum())
    return {
        "golden_sqnr_db": round(10 * float(np.log10(signal / noise)), 2) if noise else None,
        "executed": "byte by byte in its arena, equal to the integer reference",
    }


def _facts(model: Model, planned: Plan, sources: Sources, samples: int) -> dict[str, Any]:
    """What programs that run the artifact have to know, and what it costs."""

    def described(ports: Sequence[Port], names: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for port, name in zip(ports, names, strict=True):
            entry: dict[str, Any] = {
                "name": name,
                "identifier": port.name,
                "shape": list(port.shape),
                "dtype": port.dtype,
            }
            if port.type != "float":
                entry |= {"scale": port.scale, "zero_point": port.zero_point}
            found.append(entry)
        return found

    return {
        "arena_bytes": planned.peak,
        **_arenas(sources),
        "arena_lower_bound": planned.lower_bound,
        "arena_proved": planned.proved,
        "constant_bytes": sources.weight_bytes,
        "code_bytes": sources.cost.code + sources.cost.parameters,
        "stack_bytes": sources.cost.stack,
        "macs": sources.macs,
        "steps": len(sources.steps),
        "step_names": list(sources.steps),
        "golden_samples": samples,
        "prefix": sources.prefix,
        "ports": {
            "inputs": described(sources.inputs, input_names(model)),
            "outputs": described(sources.outputs, output_names(model)),
        },
    }


def _arenas(sources: Sources) -> dict[str, Any]:
    """Which memories hold the arenas, where there are several."""
    if len(sources.arenas) == 1:
        return {}
    found = [
        {"region": a.region, "identifier": a.name, "bytes": a.bytes, "capacity": a.capacity}
        for a in sources.arenas
    ]
    return {"arenas": found}
