"""The C files of a network: model, header, golden data, example and build files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import SOURCES, WITH_SCRATCH, Table, struct_of
from edgec.export.emit.c.lower import Lowered, scratch_id
from edgec.export.emit.c.text import Constants, array, comment, identifier, struct, value
from edgec.export.tflite.model import Model
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reference.fixed_point import scale_of, zero_of
from edgec.profiles.memory.plan import Plan

COMMON = ("edgec_kernels.h", "edgec_fixed_point.h", "edgec_dot_s8.h", "edgec_rows_s8.h")


@dataclass(frozen=True)
class Port:
    """An input or output of the network as C code sees it.

    Attributes:
        name: a C identifier, unique among the ports.
        label: the name in the file.
        offset: bytes from the start of the arena.
    """

    name: str
    label: str
    offset: int
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Sources:
    """What is written.

    Attributes:
        files: text by path.
        prefix: of every symbol.
        arena_bytes, weight_bytes, macs: of the network.
        steps: names of the calls, in order, for profiles.
    """

    files: dict[str, str]
    prefix: str
    arena_bytes: int
    weight_bytes: int
    macs: int
    steps: tuple[str, ...]


def write_sources(
    model: Model,
    lowered: Lowered,
    plan: Plan,
    *,
    prefix: str,
    golden: Sequence[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]] = (),
    title: str = "",
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
) -> Sources:
    """All C files of a network.

    Args:
        plan: offsets for `lowered.program`, in one region.
        prefix: any text; made into a C identifier.
        golden: pairs of inputs and outputs by name for the self-test, int8.
        ram_bytes, flash_bytes: of the target, for the check at compile time.
    """
    prefix = identifier(prefix)
    offsets = {b.id: plan.offset(b.id)[1] for b in plan.program.buffers}
    inputs = _ports(model, model.main.inputs, lowered.inputs, input_names(model), offsets)
    outputs = _ports(model, model.main.outputs, lowered.outputs, output_names(model), offsets)
    constants = Constants()
    structs, calls = [], []
    for number, call in enumerate(lowered.calls):
        fields = {
            name: value(parameter, name, constants) for name, parameter in call.parameters.items()
        }
        structs.append(
            f"/* {comment(call.name)} */\n"
            + struct(struct_of(call.kernel), f"step_{number}", fields)
        )
        operands = [
            constants.name(operand.data, "operand")  # type: ignore[arg-type]
            if isinstance(operand, Table)
            else f"arena + {offsets[f't{operand}']}"
            for operand in call.inputs
        ]
        operands.append(f"arena + {offsets[f't{call.output}']}")
        if call.kernel in WITH_SCRATCH:
            place = f"arena + {offsets[scratch_id(number)]}" if call.scratch else "0"
            operands.append(place)
        arguments = ", ".join(operands)
        calls.append(f"{call.kernel}(&step_{number}, {arguments});")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgec.export.emit.c", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 the templates print C, every name comes from `identifier`
    )
    kernels = sorted({SOURCES[call.kernel] for call in lowered.calls})
    facts: dict[str, Any] = {
        "prefix": prefix,
        "upper": prefix.upper(),
        "title": comment(title or prefix),
        "arena_bytes": plan.peak,
        "inputs": inputs,
        "outputs": outputs,
        "structs": structs,
        "calls": calls,
        "constants": constants.text(),
        "kernels": kernels,
        "golden": [_golden(n, inputs, outputs, *pair) for n, pair in enumerate(golden)],
        "ram_bytes": ram_bytes,
        "flash_bytes": flash_bytes,
        "weight_bytes": constants.bytes,
        "macs": sum(call.macs for call in lowered.calls),
        "steps": [comment(call.name) for call in lowered.calls],
        "proved": plan.proved,
        "array": array,
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
    files = {path: environment.get_template(name).render(facts) for path, name in names.items()}
    folder = resources.files("edgec.runtime").joinpath("kernels")
    for name in (*COMMON, *kernels):
        files[f"kernels/{name}"] = folder.joinpath(name).read_text("utf-8")
    return Sources(
        dict(sorted(files.items())),
        prefix,
        plan.peak,
        constants.bytes,
        facts["macs"],
        tuple(call.name for call in lowered.calls),
    )


def _ports(
    model: Model,
    indices: Sequence[int],
    roots: Sequence[int],
    names: Sequence[str],
    offsets: Mapping[str, int],
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
        scale, zero = float(scale_of(tensor)), zero_of(tensor)
        ports.append(Port(name, comment(label), offsets[f"t{root}"], tensor.shape, scale, zero))
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
            array(f"golden_{number}_{kind}_{i}", np.asarray(data, np.int8))
            for i, data in enumerate(arrays.values())
        ]
        for kind, arrays in (("input", feeds), ("output", wanted))
    }
