"""Whether XNNPACK takes an operator, by the table of what it was seen to take."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.delegates.call import Call
from edgec.export.emit.tflite.grids import same_grid
from edgec.export.tflite.model import Tensor
from edgec.targets.operators.delegates import DelegateTable, Form

_NAMES = {"FLOAT32": "float", "FLOAT16": "float16"}


def obstacle(call: Call, table: DelegateTable) -> str:
    """Why the delegate leaves the operator to LiteRT; empty if it takes it."""
    forms = table.forms.get(call.code)
    if forms is None:
        return f"{table.title} has no {call.code}"
    types = form_of(call)
    form = forms.get(types)
    if form is None:
        return f"{table.title} has no {call.code} on {types}"
    return _call_obstacle(call, form) or _grid_obstacle(call, form)


def form_of(call: Call) -> str:
    """Name of the types in the table."""
    dtype = call.data.dtype
    name = _NAMES.get(dtype, dtype.lower())
    weighted = len(call.inputs) > 1 and call.inputs[1].quantization is not None
    return "int8 weights" if name == "float" and weighted else name


def _call_obstacle(call: Call, form: Form) -> str:
    rank = max(len(t.shape) for t in (call.data, *call.outputs))
    if form.ranks and rank not in form.ranks:
        return f"{rank} dimensions"
    if form.operand and len(call.inputs) > 1:
        state = "constant" if call.constant[1] else "computed"
        if state not in form.operand:
            return f"a {state} second operand"
    if form.activations and call.activation not in form.activations:
        return f"fused {call.activation}"
    if form.axes and str(list(call.axes or ())) not in form.axes:
        return f"a reduction over axes {list(call.axes or ())}"
    if form.unit_strides and (call.inputs[3].data is None or (call.inputs[3].data != 1).any()):
        return "strides other than 1"
    if form.most_inputs is not None and len(call.inputs) > form.most_inputs:
        return f"{len(call.inputs)} operands"
    if form.covered and _gapped(call):
        return "SAME padding of a kernel smaller than the stride"
    keep = bool(call.operator.options.get("keep_dims"))
    if form.keep_dims and keep not in form.keep_dims:
        return f"keep_dims = {str(keep).lower()}"
    beta = call.operator.options.get("beta", 1.0)
    if form.beta and beta not in form.beta:
        return f"beta = {beta}"
    return ""


def _gapped(call: Call) -> bool:
    options = call.operator.options
    steps = (options["stride_h"], options["stride_w"])
    kernel = call.inputs[1].shape[1:3]
    return options["padding"] == "SAME" and any(k < s for k, s in zip(kernel, steps, strict=True))


def _grid_obstacle(call: Call, form: Form) -> str:
    if form.same_grid:
        here = [t for t in call.inputs if _gridded(t)]
        there = call.outputs[0].quantization
        if there is None or any(
            t.quantization is None or not same_grid(t.quantization, there) for t in here
        ):
            return "an output on another grid than its input"
    if form.symmetric is not None:
        grid = call.inputs[form.symmetric].quantization
        if grid is not None and grid.zero_point.any():
            return f"zero point {int(grid.zero_point[0])} of operand {form.symmetric + 1}"
    output = _scale(call.outputs[0])
    scales = [_scale(t) for t in call.inputs if _gridded(t)]
    if form.ratio is not None and output:
        for scale in scales:
            if not _between(float(np.float32(scale) / np.float32(output)), form.ratio):
                return f"scales {scale:.3g} and {output:.3g}, whose ratio it does not compute"
    if form.product is not None and output and len(scales) > 1:
        product = np.float32(scales[0]) * np.float32(scales[1])
        if not _between(float(product / np.float32(output)), form.product):
            return f"scales {scales[0]:.3g} · {scales[1]:.3g} over {output:.3g}"
    return ""


def _gridded(tensor: Tensor) -> bool:
    return tensor.quantization is not None and tensor.dtype in ("INT8", "UINT8")


def _scale(tensor: Tensor) -> float:
    """The largest scale; 0 where there is none."""
    grid = tensor.quantization
    return float(grid.scale.max()) if grid is not None and _gridded(tensor) else 0.0


def _between(value: float, bounds: tuple[int, int]) -> bool:
    return 2.0 ** bounds[0] <= value < 2.0 ** bounds[1]
