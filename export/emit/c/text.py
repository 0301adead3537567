"""C text: escaped names, arrays, parameter structs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Fields, Function, Parameter, Scales, Table, Word

C_TYPES: Mapping[str, str] = {
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "uint8": "uint8_t",
    "uint32": "uint32_t",
    "float32": "float",
}
WIDTH = 100
_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while bool true false main".split()
)

_HEADERS = frozenset(
    "alloca arm_acle arm_mve arm_neon assert complex ctype errno features fenv float inttypes "
    "iso646 limits locale malloc math memory pthread setjmp signal stdalign stdarg stdatomic "
    "stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar "
    "unistd wchar wctype".split()
)
_TARGETS = frozenset(
    "all clean default_target depend edit_cache help install kernels list_install_components "
    "mlperf mlperf_tiny package rebuild_cache test".split()
)


def prefix_of(name: str) -> str:
    """An identifier that files may be called by: their headers hide none of the C library's, and
    no target of make or CMake has that name; nor do its symbols look like the kernels'."""
    found = identifier(name)
    taken = found in _HEADERS | _TARGETS or found.split("_")[0] == "edgec"
    return identifier(f"model_{found}") if taken else found


def identifier(name: str, fallback: str = "model") -> str:
    """A C identifier made from any text; never empty, a keyword or reserved."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    if not found or not found[0].isalpha() or found in _KEYWORDS:
        found = f"{fallback}_{found}".strip("_")
    return found[:48]


def comment(text: str) -> str:
    """Any text inside a C comment: printable ASCII, and nothing that could end it."""
    plain = text.encode("ascii", "replace").decode().replace("*/", "* /").replace("/*", "/ *")
    # no line splices, no trigraphs
    plain = re.sub(r"[^\x20-\x7e]|\?", ".", plain).replace("\\", "/")
    return plain[:120]


def array(name: str, data: NDArray[np.generic], *, section: str = "") -> str:
    """A constant array; values in rows of at most `WIDTH` characters."""
    kind = C_TYPES[data.dtype.name]
    flat = data.reshape(-1).tolist()
    values = [float_literal(v) if kind == "float" else _literal(v, kind) for v in flat]
    lines = _rows(values)
    body = ",\n".join(f"    {line}" for line in lines)
    return f"static const {kind} {name}[{max(len(values), 1)}]{section} = {{\n{body}\n}};\n"


def struct(
    kind: str, name: str, fields: Mapping[str, str], for_cmsis: Mapping[str, str] | None = None
) -> str:
    """A constant parameter struct; some fields are there in builds with CMSIS-NN only."""
    body = "".join(f"    .{field} = {value},\n" for field, value in fields.items())
    if for_cmsis:
        extra = "".join(f"    .{field} = {value},\n" for field, value in for_cmsis.items())
        body += f"#ifdef EDGEC_CMSIS_NN\n{extra}#endif\n"
    return f"static const {kind} {name} = {{\n{body}}};\n"


class Constants:
    """Constant arrays by content: equal ones are written once.

    Args:
        prefix: of all names.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._names: dict[tuple[str, bytes], str] = {}
        self._arrays: list[tuple[str, NDArray[np.generic]]] = []

    def name(self, data: NDArray[np.generic], hint: str) -> str:
        """Name of the array that holds `data`."""
        dense = np.ascontiguousarray(data)
        key = dense.dtype.name, dense.tobytes()
        if key not in self._names:
            self._names[key] = f"{self._prefix}{hint}_{len(self._arrays)}"
            self._arrays.append((self._names[key], dense))
        return self._names[key]

    def text(self) -> str:
        """All arrays, in the order of their first use."""
        return "\n".join(
            array(name, data, section=" EDGEC_CONSTANT") for name, data in self._arrays
        )

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(data.nbytes for _, data in self._arrays)


def value(parameter: Parameter, hint: str, constants: Constants) -> str:
    """A field's initializer; arrays go to `constants`."""
    match parameter:
        case Table(data=None):
            return "0"
        case Table(data=data):
            assert data is not None
            return constants.name(data, hint)
        case Scales(mantissa=mantissa, exponent=exponent):
            high = constants.name(mantissa.astype(np.int32), "mantissa")
            low = constants.name(exponent.astype(np.int8), "exponent")
            return f"{{ {high}, {low} }}"
        case Fields(fields=fields):
            inner = (f".{n} = {value(field, n, constants)}" for n, field in fields.items())
            return "{ " + ", ".join(inner) + " }"
        case Word(value=number):
            return _literal(number, "uint32_t")
        case Function(name=name):
            return name
        case float():
            return float_literal(parameter)
        case tuple():
            return "{ " + ", ".join(map(str, parameter)) + " }"
        case _:
            return _literal(int(parameter), "int32_t")


def float_literal(number: float) -> str:
    """The nearest float, in nine digits, which are enough to tell it from its neighbours."""
    if math.isnan(number):
        return "(0.0f / 0.0f)"
    if math.isinf(number):
        return "(1.0f / 0.0f)" if number > 0 else "(-1.0f / 0.0f)"
    text = f"{np.float32(number):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _literal(number: int, kind: str) -> str:
    if kind == "uint32_t":
        return f"{number}u"
    # the most negative number has no literal of its own in C
    return "(-2147483647 - 1)" if number == -(1 << 31) else str(number)


def _rows(values: Iterable[str]) -> list[str]:
    lines, line = [], ""
    for text in values:
        if line and len(line) + len(text) + 2 > WIDTH - 5:
            lines.append(line)
            line = text
        else:
            line = f"{line}, {text}" if line else text
    return [*lines, line or "0"]
