"""Writes ``litert-VERSION.toml`` or ``tflite-runtime-VERSION.toml`` from the installed package.

Usage, in an environment with ``ai-edge-litert`` (for its schema module) and, for the older runtime,
``tflite-runtime`` and ``numpy<2``::

    python targets/operators/make_tflite.py ai_edge_litert
    python targets/operators/make_tflite.py tflite_runtime

The interpreter is handed models of one operator each. Which versions it knows it says when the
model is loaded; which data types and ranks its kernels take shows when the operator is executed,
with the built-in kernels and no delegate. Operators that no ONNX node becomes are listed with their
versions only. The probes run in child processes, because some kernels abort on what they do not
take.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = {"ai_edge_litert": "litert", "tflite_runtime": "tflite-runtime"}
SCHEMA = "ai_edge_litert.schema_py_generated"
LICENCE = "Apache-2.0"
NEWEST = 30
"""Versions above this are not asked for; the newest one known is 13."""

FLOAT, FLOAT16, INT8, UINT8, INT16, INT32, INT64, BOOL = (
    "float",
    "float16",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "bool",
)
TYPES = (FLOAT, FLOAT16, INT8, UINT8, INT16, INT32, INT64, BOOL)
QUANTIZED = (INT8, UINT8, INT16)
HIGHEST_RANK = 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a probe: of the probed type unless `dtype` says otherwise."""

    shape: Shape
    dtype: str | None = None
    data: tuple[int, ...] | None = None
    constant: bool = False


@dataclass(frozen=True)
class Probe:
    """How to call an operator.

    Attributes:
        inputs: data first.
        outputs: result shapes.
        options: name of the options table in the schema and its fields.
        ranked: the rank can be varied; the shapes are then those of rank 4.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: tuple[str, dict[str, Any]] | None = None
    ranked: bool = False


X = Tensor((1, 4, 4, 8))


def ints(*values: int) -> Tensor:
    """A constant int32 vector."""
    return Tensor((len(values),), INT32, values)


def _like(options: str | None = None, *, dtype: str | None = None, **fields: Any) -> Probe:
    """One input, an output of the same shape."""
    named = None if options is None else (options, fields)
    return Probe((X,), (Tensor(X.shape, dtype),), named, ranked=True)


def _pair(options: str | None = None, *, dtype: str | None = None, **fields: Any) -> Probe:
    """Two inputs that broadcast against each other in every dimension."""
    named = None if options is None else (options, fields)
    return Probe((X, Tensor((1, 1, 4, 1))), (Tensor(X.shape, dtype),), named, ranked=True)


def _reduce() -> Probe:
    return Probe((X, ints(1, 2)), (Tensor((1, 8)),), ("ReducerOptions", {}))


def _window(options: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return options, {"padding": 1, "strideW": 1, "strideH": 1, **fields}


_DILATED = {"dilationWFactor": 1, "dilationHFactor": 1}
_POOL = Probe(
    (X,),
    (Tensor((1, 3, 3, 8)),),
    _window("Pool2DOptions", filterWidth=2, filterHeight=2),
)
_WEIGHT = "weight"
_BIAS = "bias"

PROBES: dict[str, Probe] = {
    **dict.fromkeys(("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOG"), _like()),
    **dict.fromkeys(("LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "ROUND"), _like()),
    **dict.fromkeys(("RSQRT", "SIN", "SQRT", "SQUARE", "TANH", "SIGN", "LOGICAL_NOT"), _like()),
    **dict.fromkeys(("LOG_SOFTMAX", "L2_NORMALIZATION", "ZEROS_LIKE"), _like()),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "POW", "FLOOR_DIV", "FLOOR_MOD"), _pair()),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_OR"), _pair()),
    **dict.fromkeys(("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL"), _pair(dtype=BOOL)),
    **dict.fromkeys(("GREATER", "GREATER_EQUAL"), _pair(dtype=BOOL)),
    "ADD": _pair("AddOptions"),
    "SUB": _pair("SubOptions"),
    "MUL": _pair("MulOptions"),
    "DIV": _pair("DivOptions"),
    "SQUARED_DIFFERENCE": _pair(),
    "PRELU": Probe((X, Tensor((1, 1, 8), constant=True)), (X,)),
    "GELU": _like("GeluOptions"),
    "LEAKY_RELU": _like("LeakyReluOptions", alpha=0.1),
    "SOFTMAX": _like("SoftmaxOptions", beta=1.0),
    "CAST": _like("CastOptions", dtype=FLOAT),
    "DEQUANTIZE": _like(dtype=FLOAT),
    "QUANTIZE": _like(dtype=INT8),
    "CONV_2D": Probe(
        (X, Tensor((3, 3, 3, 8), _WEIGHT), Tensor((3,), _BIAS)),
        (Tensor((1, 2, 2, 3)),),
        _window("Conv2DOptions", **_DILATED),
    ),
    "DEPTHWISE_CONV_2D": Probe(
        (X, Tensor((1, 3, 3, 8), _WEIGHT), Tensor((8,), _BIAS)),
        (Tensor((1, 2, 2, 8)),),
        _window("DepthwiseConv2DOptions", depthMultiplier=1, **_DILATED),
    ),
    "TRANSPOSE_CONV": Probe(
        (ints(1, 6, 6, 3), Tensor((3, 3, 3, 8), _WEIGHT), X),
        (Tensor((1, 6, 6, 3)),),
        _window("TransposeConvOptions"),
    ),
    "FULLY_CONNECTED": Probe(
        (Tensor((2, 8)), Tensor((3, 8), _WEIGHT), Tensor((3,), _BIAS)),
        (Tensor((2, 3)),),
        ("FullyConnectedOptions", {}),
    ),
    "BATCH_MATMUL": Probe(
        (Tensor((1, 2, 4, 8)), Tensor((1, 2, 8, 4))),
        (Tensor((1, 2, 4, 4)),),
        ("BatchMatMulOptions", {}),
        ranked=True,
    ),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduce()),
    "ARG_MAX": Probe(
        (X, ints(3)), (Tensor((1, 4, 4), INT32),), ("ArgMaxOptions", {"outputType": 2})
    ),
    "ARG_MIN": Probe(
        (X, ints(3)), (Tensor((1, 4, 4), INT32),), ("ArgMinOptions", {"outputType": 2})
    ),
    "RESHAPE": Probe((X, ints(1, 4, 4, 8)), (X,), ranked=True),
    "SQUEEZE": Probe((X,), (Tensor((4, 4, 8)),), ("SqueezeOptions", {"squeezeDims": [0]})),
    "EXPAND_DIMS": Probe((X, ints(0)), (Tensor((1, *X.shape)),)),
    "TRANSPOSE": Probe((X, ints(3, 2, 1, 0)), (Tensor((8, 4, 4, 1)),), ranked=True),
    "SLICE": Probe((X, ints(0, 0, 0, 0), ints(1, 4, 4, 8)), (X,), ranked=True),
    "STRIDED_SLICE": Probe(
        (X, ints(0, 0, 0, 0), ints(1, 4, 4, 8), ints(1, 1, 1, 1)),
        (X,),
        ("StridedSliceOptions", {}),
        ranked=True,
    ),
    "SPLIT": Probe((ints(3), X), (Tensor((1, 4, 4, 4)),) * 2, ("SplitOptions", {"numSplits": 2})),
    "SPLIT_V": Probe(
        (X, ints(2, 6), ints(3)),
        (Tensor((1, 4, 4, 2)), Tensor((1, 4, 4, 6))),
        ("SplitVOptions", {"numSplits": 2}),
    ),
    "CONCATENATION": Probe(
        (X, X), (Tensor((2, 4, 4, 8)),), ("ConcatenationOptions", {"axis": 0}), ranked=True
    ),
    "PAD": Probe(
        (X, Tensor((4, 2), INT32, (0, 0, 0, 0, 0, 0, 1, 1))),
        (Tensor((1, 4, 4, 10)),),
        ranked=True,
    ),
    "MIRROR_PAD": Probe(
        (X, Tensor((4, 2), INT32, (0, 0, 1, 1, 1, 1, 0, 0))),
        (Tensor((1, 6, 6, 8)),),
        ("MirrorPadOptions", {}),
    ),
    "GATHER": Probe((X, ints(0, 2)), (Tensor((1, 4, 4, 2)),), ("GatherOptions", {"axis": 3})),
    "GATHER_ND": Probe((X, Tensor((1, 1), INT32, (0,))), (Tensor((1, 4, 4, 8)),)),
    "BROADCAST_TO": Probe((X, ints(2, 4, 4, 8)), (Tensor((2, 4, 4, 8)),), ranked=True),
    "TILE": Probe((X, ints(2, 1, 1, 1)), (Tensor((2, 4, 4, 8)),)),
    "PACK": Probe((X, X), (Tensor((2, *X.shape)),), ("PackOptions", {"valuesCount": 2})),
    "UNPACK": Probe((X,), (Tensor((4, 4, 8)),), ("UnpackOptions", {"num": 1})),
    "SPACE_TO_DEPTH": Probe(
        (X,), (Tensor((1, 2, 2, 32)),), ("SpaceToDepthOptions", {"blockSize": 2})
    ),
    "DEPTH_TO_SPACE": Probe(
        (X,), (Tensor((1, 8, 8, 2)),), ("DepthToSpaceOptions", {"blockSize": 2})
    ),
    "RESIZE_BILINEAR": Probe(
        (X, ints(8, 8)), (Tensor((1, 8, 8, 8)),), ("ResizeBilinearOptions", {})
    ),
    "RESIZE_NEAREST_NEIGHBOR": Probe(
        (X, ints(8, 8)), (Tensor((1, 8, 8, 8)),), ("ResizeNearestNeighborOptions", {})
    ),
    "SELECT_V2": Probe((Tensor(X.shape, BOOL), X, X), (X,)),
    "CUMSUM": Probe((X, ints(3)), (X,), ("CumsumOptions", {})),
}

# The 8-bit quantization specification of TensorFlow Lite prescribes these output grids.
_UNIT = {INT8: (1 / 256, -128), UINT8: (1 / 256, 0), INT16: (1 / 32768, 0)}
_SIGNED_UNIT = {INT8: (1 / 128, 0), UINT8: (1 / 128, 128), INT16: (1 / 32768, 0)}
GRIDS = {
    "SOFTMAX": _UNIT,
    "LOGISTIC": _UNIT,
    "TANH": _SIGNED_UNIT,
    "L2_NORMALIZATION": _SIGNED_UNIT,
    "LOG_SOFTMAX": {INT8: (16 / 256, 127), UINT8: (16 / 256, 255)},
}


def main(package: str) -> None:
    """Command line."""
    runtime = RUNTIMES[package]
    distribution = metadata.distribution(package.replace("_", "-"))
    version = ".".join(distribution.version.split(".")[:2])
    path = Path(__file__).with_name(f"{runtime}-{version}.toml")
    source = (
        f"{distribution.name} {distribution.version} ({LICENCE}), built-in kernels executed "
        "without delegate"
    )
    path.write_text(table_text(package, runtime, version, source), "utf-8")
    print(path.name)


def table_text(package: str, runtime: str, version: str, source: str) -> str:
    """The TOML file for the installed package."""
    builtins = builtin_names()
    versions = asked(package, [(n, v, None, None) for n in builtins for v in range(1, NEWEST + 1)])
    known = {
        name: [v for v in range(1, NEWEST + 1) if versions[name, v, None, None] != "unknown"]
        for name in builtins
    }
    known = {name: found for name, found in known.items() if found}
    typed = asked(
        package, [(n, max(known[n]), t, None) for n in PROBES if n in known for t in TYPES]
    )
    ranked = asked(
        package,
        [
            (n, max(known[n]), dtype, rank)
            for n, probe in PROBES.items()
            for dtype in (FLOAT, INT8)
            if n in known and probe.ranked and typed[n, max(known[n]), dtype, None] == "runs"
            for rank in range(1, HIGHEST_RANK + 1)
        ],
    )
    best: dict[tuple[str, str | None], int] = {}
    ranks: dict[str, int] = {}
    for (name, _, dtype, rank), said in ranked.items():
        if said == "runs" and rank is not None:
            best[name, dtype] = max(rank, best.get((name, dtype), 0))
    for (name, _), rank in best.items():
        ranks[name] = min(rank, ranks.get(name, rank))
    lines = [
        "# Generated by make_tflite.py; do not edit.",
        f'runtime = "{runtime}"',
        f'version = "{version}"',
        'names = "tflite"',
        f"max_rank = {min(ranks.values())}",
        f"source = {json.dumps(source)}",
        "",
        "[operators]",
    ]
    for name in sorted(known):
        types = [t for t in sorted(TYPES) if typed.get((name, max(known[name]), t, None)) == "runs"]
        limit = f", max_rank = {ranks[name]}" if name in ranks else ""
        kernel = (
            f"since = {min(known[name])}, until = {max(known[name])}, types = {json.dumps(types)}"
        )
        lines.append(f"{name} = {{ kernels = [{{ {kernel} }}]{limit} }}")
    return "\n".join(lines) + "\n"


def builtin_names() -> list[str]:
    """Names of all operators of the schema."""
    schema = importlib.import_module(SCHEMA)

    names = [n for n in vars(schema.BuiltinOperator) if n.isupper() and not n.startswith("_")]
    internal = ("CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES")
    return sorted(n for n in names if n not in internal)


Question = tuple[str, int, str | None, int | None]
"""(operator, version, data type, rank); without data type only the version is asked for."""


def asked(package: str, questions: list[Question]) -> dict[Question, str]:
    """ "runs", "unknown" (no such operator version), "crash" or the interpreter's refusal."""
    answers: dict[Question, str] = {}
    while len(answers) < len(questions):
        rest = questions[len(answers) :]
        child = subprocess.run(
            [sys.executable, __file__, "--answer", package],
            input=json.dumps(rest),
            capture_output=True,
            text=True,
            check=False,
        )
        said = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('"')]
        answers.update(zip(rest, said, strict=False))
        if len(said) < len(rest):
            if child.returncode == 0 or (not said and child.returncode == 1):
                raise RuntimeError(child.stderr)
            answers[rest[len(said)]] = "crash"
    return answers


def answer(package: str) -> None:
    """The child process: one line of JSON per question read from stdin."""
    interpreter = importlib.import_module(f"{package}.interpreter")
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    for name, version, dtype, rank in json.load(sys.stdin):
        try:
            content = model(name, version, dtype, rank)
            runner = interpreter.Interpreter(
                model_content=content, experimental_op_resolver_type=plain
            )
            if dtype is None:
                said = "loads"
            else:
                runner.allocate_tensors()
                runner.invoke()
                said = "runs"
        except (ValueError, RuntimeError) as error:
            text = str(error)
            said = "unknown" if "Didn't find op for builtin" in text else text.splitlines()[0]
        print(json.dumps(said), flush=True)


def model(name: str, version: int, dtype: str | None, rank: int | None) -> bytes:
    """A flatbuffer with one operator."""
    flatbuffers = importlib.import_module("flatbuffers")
    schema = importlib.import_module(SCHEMA)

    code = getattr(schema.BuiltinOperator, name)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [], []
    tensors: list[Any] = []
    buffers = [schema.BufferT()]
    inputs: list[int] = []
    if dtype is not None:
        probe = PROBES[name] if rank is None else at_rank(name, PROBES[name], rank)
        for side, group in (("in", probe.inputs), ("out", probe.outputs)):
            for tensor in group:
                index = len(tensors)
                kind, grid = _type_of(name, tensor, dtype, side)
                data = _data(tensor, kind)
                buffer = 0
                if data is not None:
                    buffer = len(buffers)
                    buffers.append(schema.BufferT())
                    buffers[-1].data = np.frombuffer(data, np.uint8)
                elif side == "in":
                    inputs.append(index)
                tensors.append(_tensor(schema, tensor.shape, kind, grid, buffer, f"t{index}"))
                (operator.inputs if side == "in" else operator.outputs).append(index)
        if probe.options is not None:
            table, fields = probe.options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in fields.items():
                setattr(operator.builtinOptions, field, value)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [operator]
    graph.inputs, graph.outputs = inputs, list(operator.outputs)
    opcode = schema.OperatorCodeT()
    opcode.builtinCode, opcode.version = code, version
    opcode.deprecatedBuiltinCode = min(code, 127)
    whole = schema.ModelT()
    whole.version, whole.subgraphs, whole.buffers = 3, [graph], buffers
    whole.operatorCodes = [opcode]
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def at_rank(name: str, probe: Probe, rank: int) -> Probe:
    """The probe with tensors of another rank: ones in front, or dimensions taken off the front."""

    def fit(shape: Shape) -> Shape:
        return (1,) * (rank - len(shape)) + shape[max(0, len(shape) - rank) :]

    if name in ("TRANSPOSE", "RESHAPE", "SLICE", "STRIDED_SLICE", "PAD", "BROADCAST_TO"):
        shape = tuple(2 + i % 2 for i in range(rank))
        x = Tensor(shape)
        zeros, ones = ints(*(0,) * rank), ints(*(1,) * rank)
        if name == "TRANSPOSE":
            order = tuple(reversed(range(rank)))
            return Probe((x, ints(*order)), (Tensor(shape[::-1]),))
        if name == "RESHAPE":
            return Probe((x, ints(*shape)), (x,))
        if name == "SLICE":
            return Probe((x, zeros, ints(*shape)), (x,))
        if name == "STRIDED_SLICE":
            return Probe((x, zeros, ints(*shape), ones), (x,), probe.options)
        if name == "PAD":
            pads = Tensor((rank, 2), INT32, (0, 1) * rank)
            return Probe((x, pads), (Tensor(tuple(d + 1 for d in shape)),))
        return Probe((Tensor((1, *shape[1:])), ints(*shape)), (x,))
    if len(probe.inputs) == 2 and name not in ("BATCH_MATMUL", "CONCATENATION"):
        # alternate which operand is broadcast, so that no dimensions can be merged
        sides = [tuple(2 if i % 2 == odd else 1 for i in range(rank)) for odd in (0, 1)]
        whole = (2,) * rank
        return Probe(
            tuple(Tensor(s, t.dtype) for s, t in zip(sides, probe.inputs, strict=True)),
            (Tensor(whole, probe.outputs[0].dtype),),
            probe.options,
        )
    return Probe(
        tuple(Tensor(fit(t.shape), t.dtype, t.data) for t in probe.inputs),
        tuple(Tensor(fit(t.shape), t.dtype) for t in probe.outputs),
        probe.options,
    )


def _type_of(
    name: str, tensor: Tensor, dtype: str, side: str
) -> tuple[str, tuple[float, int] | None]:
    """Type and quantization of a tensor of a probe in `dtype`."""
    if tensor.dtype == _WEIGHT:
        kind = INT8 if dtype == INT16 else dtype
        return kind, (0.1, 0) if kind in QUANTIZED else None
    if tensor.dtype == _BIAS:
        if dtype in QUANTIZED:
            return (INT64 if dtype == INT16 else INT32), (0.1 * 0.1, 0)
        return dtype, None
    kind = tensor.dtype or dtype
    if kind not in QUANTIZED:
        return kind, None
    if side == "out" and name in GRIDS and kind in GRIDS[name]:
        return kind, GRIDS[name][kind]
    return kind, (0.1, 0)


def _data(tensor: Tensor, kind: str) -> bytes | None:
    if tensor.data is not None:
        return np.asarray(tensor.data, np.int32).tobytes()
    if tensor.constant or tensor.dtype in (_WEIGHT, _BIAS):
        dtype = np.float32 if kind == FLOAT else np.dtype(kind)
        return np.ones(tensor.shape, dtype).tobytes()
    return None


def _tensor(
    schema: Any, shape: Shape, kind: str, grid: tuple[float, int] | None, buffer: int, name: str
) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.buffer, tensor.name = list(shape), buffer, name
    tensor.type = getattr(schema.TensorType, "FLOAT32" if kind == FLOAT else kind.upper())
    if grid is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [grid[0]]
        tensor.quantization.zeroPoint = [grid[1]]
    return tensor


if __name__ == "__main__":
    if sys.argv[1] == "--answer":
        answer(sys.argv[2])
    else:
        main(sys.argv[1])
