"""The C files of a network: model, header, golden data, example and build files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c import cmsis_nn
from edgec.export.emit.c.arenas import Arena, arenas_of
from edgec.export.emit.c.call import (
    CALLED,
    FUNCTIONS,
    SOURCES,
    WITH_SCRATCH,
    Table,
    elements,
    on_floats,
    struct_of,
)
from edgec.export.emit.c.cost import Cost, cost_of
from edgec.export.emit.c.lower import Lowered, scratch_id
from edgec.export.emit.c.text import (
    C_TYPES,
    Constants,
    array,
    comment,
    float_literal,
    identifier,
    prefix_of,
    struct,
    value,
)
from edgec.export.tflite.model import Model
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reference.fixed_point import scale_of, zero_of
from edgec.profiles.memory.plan import Plan

HEADERS = (
    "edgec_kernels.h",
    "edgec_fixed_point.h",
    "edgec_dot_s8.h",
    "edgec_rows_s8.h",
    "edgec_cmsis_nn.h",
    "edgec_root.h",
    "edgec_window.h",
    "edgec_binary.h",
    "edgec_reduce.h",
    "edgec_resize.h",
    "edgec_layer_norm.h",
    "edgec_stream.h",
)
WIDE_HEADERS = ("edgec_kernels_s16.h", "edgec_rows_s16.h", "edgec_interpolate_s16.h")
FLOAT_HEADERS = ("edgec_kernels_f32.h", "edgec_math_f32.h")
FIRMWARE = "mlperf_tiny/firmware.c"
"""Serial protocol around a network with one input and one output."""
REGIONS = "regions.ld"
"""For the linker, where arenas lie in several memories."""
TOLERANCE = 1e-4
"""Difference of floats, relative to the largest of an output, that the order of sums explains."""


@dataclass(frozen=True)
class Port:
    """An input or output of the network as C code sees it.

    Attributes:
        name: a C identifier, unique among the ports.
        label: the name in the file.
        arena: name of the one that it lies in.
        offset: bytes from the start of the arena.
    """

    name: str
    label: str
    arena: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    scale: float = 1.0
    zero_point: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def type(self) -> str:
        """Of an element in C."""
        return C_TYPES[self.dtype]


@dataclass(frozen=True)
class Sources:
    """What is written.

    Attributes:
        files: text by path.
        prefix: of every symbol.
        arenas: in the order of the plan's memories.
        weight_bytes, macs: of the network.
        cost: code and stack.
        steps: names of the calls, in order, for profiles.
        inputs, outputs: in the order of the model's.
    """

    files: dict[str, str]
    prefix: str
    arenas: tuple[Arena, ...]
    weight_bytes: int
    macs: int
    cost: Cost
    steps: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def arena_bytes(self) -> int:
        """Of all arenas together."""
        return sum(arena.bytes for arena in self.arenas)


def write_sources(
    model: Model,
    lowered: Lowered,
    plan: Plan,
    *,
    prefix: str,
    golden: Sequence[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]] = (),
    title: str = "",
    flash_bytes: int | None = None,
    bases: Mapping[str, int] | None = None,
) -> Sources:
    """All C files of a network.

    Args:
        plan: offsets for `lowered.program`; an arena for each memory that it uses.
        prefix: any text; made into a C identifier that files can be called by.
        golden: pairs of inputs and outputs by name for the self-test, in the network's types.
        flash_bytes: of the target, for the check at compile time, as are the plan's memories.
        bases: addresses of these memories, for the linker.
    """
    prefix = prefix_of(prefix)
    arenas = arenas_of(plan, bases)
    names_of = {arena.region: arena.name for arena in arenas}
    placed = {b.id: plan.offset(b.id) for b in plan.program.buffers}
    places = {id: (names_of[region], offset) for id, (region, offset) in placed.items()}
    inputs = _ports(model, model.main.inputs, lowered.inputs, input_names(model), places)
    outputs = _ports(model, model.main.outputs, lowered.outputs, output_names(model), places)
    constants, for_cmsis = Constants(), Constants("cmsis_")
    structs, calls = [], []
    for number, call in enumerate(lowered.calls):
        fields = {
            name: value(parameter, name, constants) for name, parameter in call.parameters.items()
        }
        structs.append(
            f"/* {comment(call.name)} */\n"
            + struct(
                struct_of(call.kernel),
                f"step_{number}",
                fields,
                {n: for_cmsis.name(data, n) for n, data in cmsis_nn.constants(call).items()},
            )
        )
        reads, writes = elements(call.kernel)
        operands = [
            _constant(constants.name(operand.data, "operand"), operand, reads is not None)  # type: ignore[arg-type]
            if isinstance(operand, Table)
            else _place(places[f"t{operand}"], f"const {reads}" if reads else None)
            for operand in call.inputs
        ]
        operands.append(_place(places[f"t{call.output}"], writes))
        if call.kernel in WITH_SCRATCH:
            scratch = places[scratch_id(number)] if call.scratch else None
            operands.append("0" if scratch is None else _place(scratch, None))
        arguments = ", ".join(operands)
        calls.append(f"{call.kernel}(&step_{number}, {arguments});")
    called = {SOURCES[call.kernel] for call in lowered.calls}
    called |= {FUNCTIONS[name] for call in lowered.calls for name in call.functions}
    kernels = sorted(called.union(*(CALLED.get(file, ()) for file in called)))
    cost = cost_of(lowered.calls)
    facts: dict[str, Any] = {
        "cost": cost,
        "prefix": prefix,
        "upper": prefix.upper(),
        "title": comment(title or prefix),
        "arenas": arenas,
        "several": len(arenas) > 1,
        "handle": f"const {prefix}_arenas *" if len(arenas) > 1 else "void *",
        "inputs": inputs,
        "outputs": outputs,
        "structs": structs,
        "calls": calls,
        "constants": constants.text(),
        "for_cmsis": for_cmsis.text(),
        "cmsis_sources": cmsis_nn.SOURCES,
        "kernels": kernels,
        "golden": [_golden(n, inputs, outputs, *pair) for n, pair in enumerate(golden)],
        "flash_bytes": flash_bytes,
        "weight_bytes": constants.bytes,
        "macs": sum(call.macs for call in lowered.calls),
        "steps": [comment(call.name) for call in lowered.calls],
        "proved": plan.proved,
        "array": array,
        "on_integers": any(not on_floats(call.kernel) for call in lowered.calls),
        "on_words": any(call.kernel.endswith("_s16") for call in lowered.calls),
        "on_floats": any(on_floats(call.kernel) for call in lowered.calls),
        "float_outputs": any(port.type == "float" for port in outputs),
        "tolerance": float_literal(TOLERANCE),
        "one_to_one": len(inputs) == len(outputs) == 1,
        **_integers([*inputs, *outputs]),
    }
    names = {
        f"{prefix}.h": "model.h.j2",
        f"{prefix}.c": "model.c.j2",
        f"{prefix}_golden.h": "golden.h.j2",
        "main.c": "main.c.j2",
        "Makefile": "Makefile.j2",
        "CMakeLists.txt": "CMakeLists.txt.j2",
        "README.md": "README.md.j2",
    }
    if facts["several"]:
        names[REGIONS] = "regions.ld.j2"
    if facts["one_to_one"]:
        names[FIRMWARE] = "mlperf_tiny.c.j2"
    files = {path: _templates().get_template(name).render(facts) for path, name in names.items()}
    folder = resources.files("edgec.runtime").joinpath("kernels")
    headers: tuple[str, ...] = HEADERS if facts["on_integers"] else ()
    headers += WIDE_HEADERS if facts["on_words"] else ()
    headers += FLOAT_HEADERS if facts["on_floats"] else ()
    for name in (*headers, *kernels):
        files[f"kernels/{name}"] = folder.joinpath(name).read_text("utf-8")
    return Sources(
        dict(sorted(files.items())),
        prefix,
        arenas,
        constants.bytes,
        facts["macs"],
        cost,
        tuple(call.name for call in lowered.calls),
        tuple(inputs),
        tuple(outputs),
    )


@cache
def _templates() -> jinja2.Environment:
    """Kept, because it keeps the templates compiled: that takes longer than to fill them in."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("edgec.export.emit.c", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 the templates print C, every name comes from `identifier`
    )


def _integers(ports: Sequence[Port]) -> dict[str, Any]:
    """The integers of a network's ends; all are of one type."""
    kinds = [port.dtype for port in ports if port.type != "float"]
    limits = np.iinfo(kinds[0] if kinds else "int8")
    return {
        "quantized": bool(kinds),
        "integer": C_TYPES[limits.dtype.name],
        "lowest": int(limits.min),
        "highest": int(limits.max),
        "far": f"{4 * (int(limits.max) + 1)}.0f",
    }


def _place(place: tuple[str, int], kind: str | None) -> str:
    """An address in an arena; `kind` is an element's type, None for bytes."""
    address = f"{place[0]} + {place[1]}"
    return address if kind is None else f"({kind} *)(void *)({address})"


def _constant(name: str, operand: Table, floats: bool) -> str:
    """An operand that is a constant; kernels that move things take bytes."""
    assert operand.data is not None
    return f"(const int8_t *){name}" if operand.data.dtype != np.int8 and not floats else name


def _ports(
    model: Model,
    indices: Sequence[int],
    roots: Sequence[int],
    names: Sequence[str],
    places: Mapping[str, tuple[str, int]],
) -> list[Port]:
    ports: list[Port] = []
    taken: set[str] = set()
    for index, root, label in zip(indices, roots, names, strict=True):
        base = name = identifier(label, "tensor")
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        tensor = model.main.tensors[index]
        grid = () if tensor.dtype == "FLOAT32" else (float(scale_of(tensor)), zero_of(tensor))
        dtype = tensor.numpy_dtype.name
        place = places[f"t{root}"]
        ports.append(Port(name, comment(label), *place, tensor.shape, dtype, *grid))
    return ports


def _golden(
    number: int,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    feeds: Mapping[str, NDArray[Any]],
    wanted: Mapping[str, NDArray[Any]],
) -> dict[str, list[str]]:
    return {
        kind: [
            array(f"golden_{number}_{kind}_{i}", np.asarray(data, port.dtype))
            for i, (port, data) in enumerate(zip(ports, arrays.values(), strict=True))
        ]
        for kind, ports, arrays in (("input", inputs, feeds), ("output", outputs, wanted))
    }
