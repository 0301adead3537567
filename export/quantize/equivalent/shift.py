"""Shift: one-sided activations moved to the middle of a symmetric grid.

A symmetric grid spends half of its integers on values that ReLU, GELU or HardSwish never write. As
in Outlier Suppression+ (Wei et al., EMNLP 2023, arXiv 2304.09145, section 4.1), a constant c is
subtracted in front of the quantizer, and the layers that read x − c give W·c back in their biases.
What that costs depends on who writes the tensor:

- the bias of a linear operator or of a norm takes c for nothing, and then each channel has its own;
- behind anything else an addition of one constant appears, which a compiler that fuses element-wise
  operators makes part of the kernel of the activation.

A reader that pads with zeros would pad with −c instead, and is refused; so is a tensor that a
quantized addition reads, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.entries import Quantizer
from edgec.export.quantize.equivalent.equalize import change
from edgec.export.quantize.equivalent.links import (
    Link,
    Refused,
    find_links,
    give_back,
    offset_obstacle,
    rescale,
)
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.equivalent.transformed import Change, Transformed
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.ranges import Method
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.rewrite.graph import MODULE_KEY, add_initializer, module_of
from edgec.export.rewrite.linear import Linear, match_linear

Feeds = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]


def shift(
    model: ir.Model,
    feeds: Feeds,
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    gain: float = 1.25,
    method: Method = "mse",
) -> Transformed:
    """Centre what symmetric grids would represent badly.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, anew at each call; called twice.
        scheme: where its quantizers stand. Grids with zero points need no shift: nothing is done.
        exclude: node names, operator types or module paths that stay float, and need no shift.
        gain: how many times smaller the range must become.
        method: rule for the ranges that c is the middle of, behind activations.

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    copy = prepared_copy(model)
    if not scheme.symmetric:
        return Transformed(copy, (), ())
    nodes = {str(node.name): node for node in copy.graph}
    readers: dict[str, list[Linear]] = {}
    refused = []
    for quantizer in plan_quantization(copy, scheme, exclude).quantizers:
        reason = _obstacle(quantizer, nodes)
        if reason:
            refused.append(Refused(quantizer.tensor, reason))
        else:
            found = [match_linear(nodes[name]) for name, _ in quantizer.readers]
            readers[quantizer.tensor] = [linear for linear in found if linear is not None]
    changes = _through_biases(copy, feeds, readers, gain)
    changes += _by_additions(copy, feeds, readers, gain, scheme, method)
    return Transformed(copy, tuple(changes), tuple(refused))


def _obstacle(quantizer: Quantizer, nodes: Mapping[str, ir.Node]) -> str:
    if quantizer.output or quantizer.fixed is not None or quantizer.range_of != quantizer.tensor:
        return "its grid is that of another tensor, or given"
    for name, index in quantizer.readers:
        linear = match_linear(nodes[name])
        if linear is None or index != 0 or linear.node.op_type == "ConvTranspose":
            return f"{nodes[name].op_type} {name} cannot give a constant back"
        reason = offset_obstacle(linear)
        if reason:
            return reason
    return ""


def _through_biases(
    model: ir.Model, feeds: Feeds, readers: dict[str, list[Linear]], gain: float
) -> list[Change]:
    """Channels centred by the bias of their producer; takes what it handled out of `readers`."""
    links = [
        link
        for link in find_links(model)[0]
        if not link.shift_obstacle() and all(name in readers for name in link.inputs)
    ]
    found = channel_statistics(model, feeds(), {str(k.tensor.name): k.axis for k in links})
    changes = []
    for link in links:
        seen = found[str(link.tensor.name)]
        centre = 0.5 * (seen.low + seen.high)
        if gain * 0.5 * (seen.high - seen.low).max() > seen.peak.max():
            continue
        rescale(link, np.ones(link.channels), centre)
        for name in link.inputs:
            del readers[name]
        changes.append(_change(link, seen.peak.max(), 0.5 * (seen.high - seen.low).max()))
    return changes


def _by_additions(
    model: ir.Model,
    feeds: Feeds,
    readers: Mapping[str, list[Linear]],
    gain: float,
    scheme: QuantScheme,
    method: Method,
) -> list[Change]:
    """Tensors lowered by one number, in an addition of its own."""
    if not readers:
        return []
    ranges = calibrate(model, feeds(), method=method, tensors=list(readers))
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    changes = []
    for name, linears in readers.items():
        value = values.get(name)
        if value is None:  # an input of the graph
            continue
        found = ranges.range(name, levels=scheme.levels + 1, symmetric=False)
        half, bound = 0.5 * (found.high - found.low), max(found.high, -found.low)
        if gain * half > bound:
            continue
        centre = np.float32(0.5 * (found.high + found.low))
        lowered = _subtract(model, value, centre)
        for linear in linears:
            give_back(linear, np.full(_inputs(linear), float(centre)))
            linear.node.replace_input_with(0, lowered)
        producer = value.producer()
        assert producer is not None
        path = module_of(producer) or str(producer.name)
        consumers = dict.fromkeys(module_of(k.node) or str(k.node.name) for k in linears)
        note = f"lowered by {centre:.4g}, range ±{bound:.4g} → ±{half:.4g}"
        changes.append(Change(path, tuple(consumers), (1.0, 1.0), note))
    return changes


def _subtract(model: ir.Model, value: ir.Value, centre: np.float32) -> ir.Value:
    producer = value.producer()
    assert producer is not None
    constant = add_initializer(model.graph, np.array(-centre), f"{value.name}_minus_centre")
    lowered = ir.Value(name=f"{value.name}_centred", type=value.type, shape=value.shape)
    path = producer.metadata_props.get(MODULE_KEY)
    addition = ir.node(
        "Add",
        [value, constant],
        outputs=[lowered],
        name=f"{value.name}_Centre",
        metadata_props={} if path is None else {MODULE_KEY: path},
    )
    model.graph.insert_after(producer, [addition])
    return lowered


def _inputs(linear: Linear) -> int:
    """Input channels."""
    shape = linear.weight.shape
    if linear.node.op_type == "Conv":
        return int(shape[1]) * linear.groups
    return int(shape[1 - linear.weight_axis])


def _change(link: Link, before: float, after: float) -> Change:
    note = f"channels centred, range ±{before:.4g} → ±{after:.4g}"
    return change(link, np.ones(link.channels), note)
