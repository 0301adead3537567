"""Capture of a torch network: torch.export, then torch.onnx's dynamo exporter.

The exporter's own optimizer stays off: it fuses BatchNorm into convolutions and gives the result
the module path of the BatchNorm, and it costs more time than the rewrite stage that follows.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from torch import nn

from edgec.export.capture import CAPTURE_DIFFERENCE, OPSET
from edgec.export.capture.attention_rank import with_four_axes
from edgec.export.errors import InternalError, UnsupportedError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.export.rewrite.snapshot import Snapshot
from edgec.export.rewrite.stages import tidy

Example = tuple[int, ...] | tuple[torch.Tensor, ...]


def from_torch(
    network: nn.Module,
    input_shape: Example,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSET,
    verify: bool = True,
) -> ir.Model:
    """Capture `network` in eval mode, batch 1, static shapes.

    Args:
        network: its ``forward`` takes one or more tensors and returns a tensor or a (nested) dict,
            list or tuple of tensors. Mode and ``requires_grad`` of every part are left as found.
        input_shape: shape of the one float32 input without batch, e.g. ``(3, 224, 224)``, or a
            tuple of example tensors, batch included, one per input.
        input_names: graph input names; default ``input``, or the parameter names of ``forward``
            where there are several.
        output_names: graph output names; default ``output``, or ``output_0``, ``output_1``, ….
        opset: opset of the graph; lower ones come from the rewrite stage.
        verify: compare with torch on three seeded inputs, a heavy network on one
            (`verify_capture`).

    Returns:
        The graph, every node with its module path under `MODULE_KEY`.

    Raises:
        UnsupportedError: data-dependent control flow or an operator without ONNX equivalent.
        UsageError: wrong number of names, or a shape that is none.
        InternalError: the graph computes something else than the network.
    """
    if opset != OPSET:
        raise UsageError(
            "EC244",
            f"the master graph is captured at opset {OPSET}, not {opset}",
            fix="Give the opset to the rewrite stage (target_opset).",
        )
    example = example_inputs(input_shape)
    with evaluation_mode(network):
        program, outputs = _export_program(network, example)
        model = to_onnx(program)
        if input_names is None and len(model.graph.inputs) > 1:
            input_names = [v.name or "" for v in model.graph.inputs]
        name_io(model, input_names, output_names)
        if len(model.graph.outputs) != len(outputs):
            raise UnsupportedError(
                "EC346",
                "the network returns something other than tensors",
                where=type(network).__name__,
                why=f"{len(outputs)} tensors, but {len(model.graph.outputs)} graph outputs",
                fix="Return a tensor or a dict, list or tuple of tensors.",
            )
        if verify:
            seeds = (1,) if numerics.is_heavy(model) else (1, 2, 3)
            difference = verify_capture(network, model, example, seeds=seeds)
            model.metadata_props[CAPTURE_DIFFERENCE] = f"{difference:.2e}"
    return model


def example_inputs(input_shape: Example) -> tuple[torch.Tensor, ...]:
    """The example tensors behind `from_torch`'s `input_shape`; zeros for a shape.

    Raises:
        UsageError: neither a tuple of positive integers nor of tensors.
    """
    items = tuple(input_shape)
    if items and all(isinstance(item, torch.Tensor) for item in items):
        return items  # type: ignore[return-value]
    if items and all(isinstance(item, int) and item > 0 for item in items):
        return (torch.zeros((1, *items)),)  # type: ignore[arg-type]
    raise UsageError(
        "EC243",
        "no usable input shape",
        where=repr(input_shape),
        fix="Give (C, H, W) without batch, e.g. (3, 224, 224), or a tuple of example tensors.",
    )


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """`network.eval()` for the block; the mode of each submodule is put back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def flatten_outputs(result: Any) -> list[torch.Tensor]:
    """The tensors of a nested result in the exporter's order (dicts in insertion order)."""
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _export_program(
    network: nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[torch.export.ExportedProgram, list[torch.Tensor]]:
    """Trace with torch.export; translate its errors."""
    try:
        with torch.no_grad():
            outputs = flatten_outputs(network(*example))
    except Exception as error:
        raise UnsupportedError(
            "EC347",
            "the network does not run on the example input",
            where=f"{type(network).__name__} with {[tuple(t.shape) for t in example]}",
            why=_first_line(error),
            fix="Give the input shape the network was made for.",
        ) from error
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(network, example, strict=False)
    except Exception as error:
        raise UnsupportedError(
            "EC340",
            "the network's control flow depends on the values of its input",
            where=_failing_module(network, error),
            why=_first_line(error),
            fix="Replace Python `if`/loops over tensor values by torch.where, or take the decision "
            "from shapes, which are static.",
        ) from error
    return program, outputs


def to_onnx(program: torch.export.ExportedProgram) -> ir.Model:
    """ONNX graph at opset `OPSET` of an exported program, tidied and free of machine details.

    Raises:
        UnsupportedError: an operator has no ONNX equivalent; names it and its module.
    """
    try:
        with torch.no_grad(), quiet():
            onnx_program = torch.onnx.export(
                with_four_axes(program),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        operator, module = _failing_operator(error)
        raise UnsupportedError(
            "EC341",
            f"no ONNX equivalent for the torch operator {operator}",
            where=module,
            why=_first_line(error),
            fix="Express this part of the network with other torch operators.",
        ) from error
    if onnx_program is None:
        raise InternalError("EC140", "torch.onnx.export returned nothing")
    model: ir.Model = onnx_program.model
    _keep_module_paths_only(model)
    common.OutputFixPass()(model)  # a tensor returned twice, or an input returned, gets an Identity
    tidy(model)
    return model


def _keep_module_paths_only(model: ir.Model) -> None:
    """Replace the exporter's metadata (file paths, stack traces, fx dumps) by `MODULE_KEY`."""
    model.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    model.graph.metadata_props.clear()
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
    nodes = [*model.graph.all_nodes(), *(n for f in model.functions.values() for n in f)]
    for node in nodes:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
        # ['', 'stage1.0', 'stage1.0.conv', 'conv2d_7']: every enclosing module, then the operation
        path = ast.literal_eval(scopes)[-2:-1] if scopes else []
        if path and path[0]:
            node.metadata_props[MODULE_KEY] = path[0]
    model.producer_name, model.producer_version = "edgec", None
    model.graph.name = "main"


def name_io(
    model: ir.Model, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> None:
    """Give inputs and outputs their names; whatever else carries one of them moves aside.

    Raises:
        UsageError: the number of names differs from the number of inputs or outputs, or a name is
            given twice.
    """
    graph = model.graph
    if input_names is None:
        n = len(graph.inputs)
        input_names = ["input"] if n == 1 else [f"input_{i}" for i in range(n)]
    if output_names is None:
        n = len(graph.outputs)
        output_names = ["output"] if n == 1 else [f"output_{i}" for i in range(n)]
    for kind, names, values in (
        ("input", input_names, graph.inputs),
        ("output", output_names, graph.outputs),
    ):
        if len(names) != len(values):
            raise UsageError(
                "EC242",
                f"{len(names)} {kind} names for {len(values)} {kind}s",
                where=", ".join(v.name or "?" for v in values),
                fix=f"Give {len(values)} names.",
            )
    wanted = [*input_names, *output_names]
    if len(set(wanted)) != len(wanted):
        raise UsageError("EC242", "an input or output name is given twice", where=", ".join(wanted))
    values = [*graph.inputs, *graph.outputs]
    io = {id(v) for v in values}
    for node in graph.all_nodes():
        for value in (*node.inputs, *node.outputs):
            if value is not None and id(value) not in io and value.name in wanted:
                value.name = f"{value.name}__inner"
    for position, value in enumerate(values):  # two steps, so that names can be permuted
        value.name = f"__io_{position}"
    for value, name in zip(values, wanted, strict=True):
        value.name = name


def verify_capture(
    network: nn.Module,
    model: ir.Model,
    example: tuple[torch.Tensor, ...],
    *,
    seeds: Sequence[int] = (1, 2, 3),
) -> float:
    """Run network and graph on seeded inputs; returns the largest absolute difference.

    Tolerance as in `numerics.RELATIVE_TOLERANCE`: both sides compute in float32, but torch and
    ONNX Runtime sum in different orders. A badly conditioned network is allowed a multiple of what
    rounding does to it in torch, as rewrite passes are (`numerics.NOISE_FACTOR`).

    Raises:
        InternalError: they differ; names the folder with graph, inputs and both outputs.
        UnsupportedError: ONNX Runtime cannot execute the graph.
    """
    names = [v.name or "" for v in model.graph.outputs]
    snapshot = Snapshot.of(model)
    runner = None
    moved: list[list[float]] = []
    worst = 0.0
    for at, seed in enumerate(seeds):
        feeds = _random_like(example, seed)
        with torch.no_grad():
            want = [t.detach().cpu().numpy() for t in flatten_outputs(network(*feeds))]
        arrays = {v.name or "": t.numpy() for v, t in zip(model.graph.inputs, feeds, strict=True)}
        try:
            runner = runner or snapshot.session()
            got = runner.run(None, arrays)
        except Exception as error:
            raise UnsupportedError(
                "EC343",
                "ONNX Runtime cannot execute the captured graph",
                why=_first_line(error),
            ) from error
        mismatch = numerics.compare(names, want, got)
        if mismatch is not None:
            moved = moved or [_rounding_noise(network, example, seed) for seed in seeds]
            telling = [noise for noise in moved if not numerics.is_chaotic(want, noise)] or moved
            if moved[at] not in telling:
                continue
            noise = [max(distances) for distances in zip(*telling, strict=True)]
            mismatch = numerics.compare(names, want, got, noise=noise)
        if mismatch is not None:
            folder = _dump(snapshot.to_bytes(), arrays, dict(zip(names, want, strict=True)), got)
            raise InternalError(
                "EC140",
                "the captured graph computes something else than the network",
                where=f"output {mismatch.output}, seed {seed}",
                why=f"{mismatch.reason}, allowed {mismatch.allowed:.3g}",
                fix=f"Please report this with the folder {folder}.",
            )
        for a, b in zip(want, got, strict=True):
            if a.size and np.issubdtype(a.dtype, np.floating):
                worst = max(worst, float(np.abs(a - b).max()))
    return worst


def _rounding_noise(
    network: nn.Module, example: tuple[torch.Tensor, ...], seed: int
) -> list[float]:
    """How far rounding moves each output on the input of `seed`.

    Seen in two ways: computing in double precision (unless the network cannot), and moving each
    input by its last bit.
    """

    def run(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(flatten_outputs(module(*inputs)))

    feeds = _random_like(example, seed)
    outputs = run(network, feeds)
    arrays = {str(i): feed.numpy() for i, feed in enumerate(feeds)}
    nudged = [torch.from_numpy(array) for array in numerics.nudged(arrays, seed).values()]
    others = [run(network, nudged)]
    wide = [feed.double() if feed.is_floating_point() else feed for feed in feeds]
    with contextlib.suppress(RuntimeError, TypeError):  # no double kernel, constants in float
        others.append(run(copy.deepcopy(network).double(), wide))
    return [
        max(_distance(a, b) for b in versions)
        for a, *versions in zip(outputs, *others, strict=True)
    ]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference; 0 for integers, which rounding does not move."""
    if not a.is_floating_point() or a.numel() == 0:
        return 0.0
    return float((a.double() - b.double()).abs().max())


def _random_like(example: tuple[torch.Tensor, ...], seed: int) -> tuple[torch.Tensor, ...]:
    """N(0, 1) for floating inputs; integer examples are permuted, so that they stay in range."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for tensor in example:
        if tensor.is_floating_point():
            tensors.append(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
        else:
            order = torch.randperm(tensor.numel(), generator=generator)
            tensors.append(tensor.flatten()[order].reshape(tensor.shape))
    return tuple(tensors)


def _dump(
    data: bytes,
    feeds: Mapping[str, NDArray[Any]],
    want: Mapping[str, NDArray[Any]],
    got: Sequence[NDArray[Any]],
) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgec-capture-"))
    (folder / "model.onnx").write_bytes(data)
    for name, array in feeds.items():
        np.save(folder / f"input_{name}.npy", array)
    for name, a, b in zip(want, want.values(), got, strict=True):
        np.save(folder / f"torch_{name}.npy", a)
        np.save(folder / f"onnxruntime_{name}.npy", b)
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log lines and prints of the exporter; errors still raise."""
    loggers = [
        logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """The most specific message in the chain of causes, one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _failing_module(network: nn.Module, error: BaseException) -> str:
    """Module whose ``forward`` raised: the innermost frame with a submodule as ``self``."""
    names = {id(module): name for name, module in network.named_modules()}
    found = type(network).__name__
    chain: BaseException | None = error
    while chain is not None:
        for frame, line in _frames(chain):
            owner = frame.f_locals.get("self")
            if frame.f_code.co_name == "forward" and id(owner) in names:
                path = names[id(owner)] or type(network).__name__
                found = f"{path} ({type(owner).__name__}.forward, line {line})"
        chain = chain.__cause__ or chain.__context__
    return found


def _frames(error: BaseException) -> Iterator[tuple[Any, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _failing_operator(error: BaseException) -> tuple[str, str | None]:
    """Operator and module path of the fx node that the exporter was at when it stopped."""
    found: torch.fx.Node | None = None
    chain: BaseException | None = error
    while chain is not None:
        for frame, _ in _frames(chain):
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                found = node
        chain = chain.__cause__ or chain.__context__
    if found is None:
        return "(unknown)", None
    stack = found.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(found.target), (paths[-1] if paths else "") or None
