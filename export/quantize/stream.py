"""Run a network over samples and hand out its inner activations, one sample at a time.

The network runs in ONNX Runtime with the tensors of interest exposed as outputs. This is what every
statistic of a network is collected from; what is kept of the values is up to the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from edgec.export.errors import InputError, UsageError
from edgec.export.quantize.graph import TensorSpec, elements, input_specs, prepared_copy

# Bytes of activations fetched per run; a larger set is fetched in several runs per sample.
FETCH_BYTES = 1 << 30


def run_activations(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    tensors: Collection[str] | None = None,
    *,
    fetch_bytes: int = FETCH_BYTES,
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Yield (sample index, name → float32 values) over all samples.

    Args:
        model: float32 graph; it is not modified.
        feeds: one mapping input name → array per sample (batch), consumed once.
        tensors: names to hand out; None means every float32 activation of the main graph.
        fetch_bytes: activations held at once. A sample whose tensors need more is run several
            times, and yielded in as many parts.

    Raises:
        UsageError: EC263 unknown tensor names.
        InputError: EC760 no feeds, EC761 a feed does not fit the inputs, EC763 the graph does not
            run.
    """
    model = prepared_copy(model)  # with every value's type
    available = activation_names(model)
    wanted = available if tensors is None else _select(available, tensors)
    session = _session(model, wanted)
    inputs = input_specs(model)
    groups = _fetch_groups(model, [t for t in wanted if t not in inputs], fetch_bytes)
    sample = -1
    for sample, feed in enumerate(feeds):
        checked = check_feed(feed, inputs, sample)
        part = {name: checked[name] for name in wanted if name in checked}
        for group in groups:
            try:
                values = session.run(group, checked)
            except Exception as error:  # ORT raises its own unrelated classes
                raise InputError(
                    "EC763",
                    "the network failed to run on a calibration sample",
                    where=f"calibration sample {sample}",
                    why=str(error),
                ) from error
            yield sample, part | dict(zip(group, values, strict=True))
            part = {}
        if part:
            yield sample, part
    if sample < 0:
        raise no_samples()


def no_samples(found: int = 0) -> InputError:
    """The error of a data source that yields nothing, or one sample where learning needs two."""
    if found:
        return InputError(
            "EC760",
            f"calibration got {found} sample, and learning needs two",
            why="one is held back, to judge what was learned",
            fix="give more images, or a recipe that learns nothing (--recipe default)",
        )
    return InputError(
        "EC760",
        "calibration got no samples",
        why="the data source yielded nothing",
        fix="give a folder, zip or npz that holds at least one image",
    )


def activation_names(model: ir.Model) -> list[str]:
    """Float32 tensors of the main graph that depend on an input, in graph order."""
    names = [
        v.name
        for v in model.graph.inputs
        if v.name and v.dtype == ir.DataType.FLOAT and v.name not in model.graph.initializers
    ]
    varying = {v for v in model.graph.inputs if v.name not in model.graph.initializers}
    for node in model.graph:
        if not any(v in varying for v in node.inputs if v is not None):
            continue
        for value in node.outputs:
            varying.add(value)
            if value.name and value.dtype == ir.DataType.FLOAT:
                names.append(value.name)
    return names


def _select(available: Sequence[str], tensors: Collection[str]) -> list[str]:
    unknown = sorted(set(tensors) - set(available))
    if unknown:
        raise UsageError(
            "EC263",
            f"no float32 activation is called {unknown[0]!r}",
            why=f"{len(unknown)} of {len(tensors)} names are not in the graph",
        )
    return [name for name in available if name in tensors]


def _session(model: ir.Model, outputs: Sequence[str]) -> ort.InferenceSession:
    proto = ir.to_proto(model)
    present = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name not in present
    )
    options = ort.SessionOptions()
    # One thread: the order of float additions, and with it every scale, must not depend on
    # the machine's core count.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise InputError(
            "EC763",
            "ONNX Runtime cannot load the network for calibration",
            why=str(error),
            fix="check the model with `edgec check`",
        ) from error


def _fetch_groups(model: ir.Model, names: Sequence[str], limit: int) -> list[list[str]]:
    size = {v.name: 4 * elements(v) for node in model.graph for v in node.outputs}
    groups: list[list[str]] = []
    held = 0
    for name in names:
        if not groups or held + size[name] > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size[name]
    return groups


def check_feed(
    feed: Mapping[str, NDArray[Any]], inputs: Mapping[str, TensorSpec], index: int
) -> dict[str, NDArray[Any]]:
    """The arrays of one sample, in the order of the inputs.

    Raises:
        InputError: EC761, an input is missing or unknown, or has another shape or type.
    """
    where = f"calibration sample {index}"
    missing = sorted(set(inputs) - set(feed))
    if missing:
        raise InputError(
            "EC761",
            f"no value for input {missing[0]!r}",
            where=where,
            why=f"the sample has {', '.join(sorted(feed)) or 'nothing'}",
            fix=f"give an array for each of: {', '.join(inputs)}",
        )
    unknown = sorted(set(feed) - set(inputs))
    if unknown:
        raise InputError(
            "EC761",
            f"the network has no input {unknown[0]!r}",
            where=where,
            fix=f"its inputs are {', '.join(inputs)}",
        )
    checked = {}
    for name, spec in inputs.items():
        array = np.asarray(feed[name])
        problem = spec.mismatch(array)
        if problem:
            raise InputError(
                "EC761",
                f"input {name!r}: {problem}",
                where=where,
                fix="feed it with the shape and dtype that the network declares",
            )
        checked[name] = array
    return checked
