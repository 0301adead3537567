"""What a target file holds, as frozen dataclasses.

A target is data: facts about a device, each with a source, and the choices that follow from its
runtime (opset, formats, precisions, quantization scheme). A number nobody could source is left out
of the file, never guessed; `Target.fact` then returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgec.export.errors import InputError

KINDS = ("gpu", "cpu", "mcu", "npu")
FORMATS = ("onnx", "tensorrt", "tflite", "c")
PRECISIONS = ("fp32", "fp16", "int8")
INT8_SCHEMES = ("ort-x86", "ort-arm", "tensorrt", "tflite", "tflite-full")
MEMORY_KINDS = ("ram", "flash")
DELEGATES = ("xnnpack", "gpu", "edgetpu")


@dataclass(frozen=True)
class Fact:
    """One number or word about a device.

    Attributes:
        value: in the unit that the fact's name ends with (``_bytes``, ``_mhz``, …), or a word.
        source: document, page or repository it was read from.
    """

    value: int | float | str | bool
    source: str


@dataclass(frozen=True)
class Runtime:
    """The inference runtime on the device.

    Attributes:
        name: ``"tensorrt"`` or ``"onnxruntime"``.
        version: the version that the target stands for, e.g. ``"10.3"``.
        opset: newest ai.onnx opset that artifacts for it use.
        source: where version and opset come from.
    """

    name: str
    version: str
    opset: int
    source: str

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """The version as integers, for comparisons: ``"10.3"`` → ``(10, 3)``."""
        return tuple(int(part) for part in self.version.split("."))


@dataclass(frozen=True)
class Memory:
    """A memory of a device that artifacts are planned into, e.g. ``axi`` or ``flash``.

    Attributes:
        name: as the device's manual calls it, in lower case.
        kind: ``"ram"`` or ``"flash"``.
        bytes: its size.
        base: address that it begins at; None where it is not fixed.
        source: document the numbers were read from.
    """

    name: str
    kind: str
    bytes: int
    source: str
    base: int | None = None


@dataclass(frozen=True)
class Target:
    """A deployment target.

    Attributes:
        name: file name without ``.toml``, e.g. ``"jetson-orin-nano-jp6.2"``.
        formats: artifact formats written by default.
        precisions: what the runtime executes on this device.
        default_precision: what is built when the user does not say.
        int8_scheme: placement and arithmetic of Q/DQ (see `edgec.export.quantize`), None where
            the device gains nothing from int8.
        facts: numbers with sources.
        notes: sentences shown by ``edgec targets show``.
        memory: memories of a microcontroller, the preferred ones first; empty where the operating
            system hands out memory.
        delegates: what runs .tflite files there in place of the runtime's own kernels, as far as
            there is a table of what it takes.
    """

    name: str
    title: str
    kind: str
    runtime: Runtime
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    default_precision: str
    int8_scheme: str | None
    aliases: tuple[str, ...]
    facts: dict[str, Fact]
    notes: tuple[str, ...]
    memory: tuple[Memory, ...] = ()
    delegates: tuple[str, ...] = ()

    def fact(self, name: str) -> int | float | str | bool | None:
        """The value of a fact, or None when it is not established."""
        found = self.facts.get(name)
        return None if found is None else found.value

    def memories(self, kind: str) -> list[Memory]:
        """Those of a kind of `MEMORY_KINDS`, the preferred ones first."""
        return [memory for memory in self.memory if memory.kind == kind]

    def largest(self, kind: str) -> Memory | None:
        """The largest memory of a kind; None where there is none."""
        return max(self.memories(kind), key=lambda memory: memory.bytes, default=None)

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_toml(cls, name: str, data: dict[str, Any], origin: str) -> Target:
        """Build a target from a parsed TOML table.

        Args:
            name: the target's name.
            data: the parsed file.
            origin: file name, for error messages.

        Raises:
            InputError: a field is missing, unknown or out of its list of values.
        """
        data = dict(data)

        def wrong(what: str, fix: str) -> InputError:
            return InputError("EC781", f"bad target file: {what}", where=origin, fix=fix)

        def take(key: str, kind: type, *, optional: bool = False) -> Any:
            if key not in data:
                if optional:
                    return kind()
                raise wrong(f"{key!r} is missing", f"add `{key} = …`")
            value = data.pop(key)
            if not isinstance(value, kind):
                raise wrong(
                    f"{key!r} is a {type(value).__name__}, not a {kind.__name__}",
                    f"write {key} as a {kind.__name__}",
                )
            return value

        def among(key: str, value: str, allowed: tuple[str, ...]) -> str:
            if value not in allowed:
                raise wrong(f"{key} = {value!r}", f"one of {', '.join(allowed)}")
            return value

        runtime_data = take("runtime", dict)
        try:
            runtime = Runtime(**runtime_data)
        except TypeError as error:
            raise wrong(f"[runtime] {error}", "name, version, opset and source") from error
        facts = {}
        for key, entry in take("facts", dict, optional=True).items():
            if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
                raise wrong(f"fact {key!r}", f'write {key} = {{ value = …, source = "…" }}')
            if not str(entry["source"]).strip():
                raise wrong(f"fact {key!r} has no source", "name the document, or drop the fact")
            facts[key] = Fact(**entry)
        memory = tuple(_memory(entry, wrong) for entry in take("memory", list, optional=True))
        if len({m.name for m in memory}) != len(memory):
            raise wrong("two [[memory]] of one name", "give each memory its own name")
        precisions = tuple(among("precisions", p, PRECISIONS) for p in take("precisions", list))
        named = take("delegates", list, optional=True)
        delegates = tuple(among("delegates", d, DELEGATES) for d in named)
        scheme = take("int8_scheme", str, optional=True) or None
        if scheme is not None:
            among("int8_scheme", scheme, INT8_SCHEMES)
        target = cls(
            name=name,
            title=take("title", str),
            kind=among("kind", take("kind", str), KINDS),
            runtime=runtime,
            formats=tuple(among("formats", f, FORMATS) for f in take("formats", list)),
            precisions=precisions,
            default_precision=among(
                "default_precision", take("default_precision", str), precisions
            ),
            int8_scheme=scheme,
            aliases=tuple(take("aliases", list, optional=True)),
            facts=facts,
            notes=tuple(take("notes", list, optional=True)),
            memory=memory,
            delegates=delegates,
        )
        if data:
            raise wrong(f"unknown field {sorted(data)[0]!r}", "remove it or correct its name")
        return target


def _memory(entry: Any, wrong: Callable[[str, str], InputError]) -> Memory:
    example = "write [[memory]] with name, kind, bytes, source and optionally base"
    try:
        memory = Memory(**entry)
    except TypeError as error:
        raise wrong(f"[[memory]] {error}", example) from error
    sizes = (memory.bytes, 0 if memory.base is None else memory.base)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in sizes):
        raise wrong(f"memory {memory.name!r}: bytes or base is no whole number", example)
    if not memory.bytes or memory.kind not in MEMORY_KINDS:
        raise wrong(
            f"memory {memory.name!r}: kind = {memory.kind!r}, bytes = {memory.bytes}",
            f"kind is one of {', '.join(MEMORY_KINDS)}, bytes is not 0",
        )
    if not str(memory.name).strip() or not str(memory.source).strip():
        raise wrong("a [[memory]] without name or source", example)
    return memory
