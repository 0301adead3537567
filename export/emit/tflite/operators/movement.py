"""Operators that move data: views, concatenation, slices, padding, resizing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node
from edgec.export.emit.tflite.layouts import stored_axis
from edgec.export.emit.tflite.perms import stored_moves, stored_shape
from edgec.export.emit.tflite.stored import AS_STORED, moves_nothing, stored_perm

_HUGE = 1 << 31


def emit_view(emitter: Emitter, node: Node) -> None:
    """A view between the chosen orders: nothing, a RESHAPE, or a TRANSPOSE with RESHAPEs."""
    config = emitter.layout[node]
    source, value = emitter.input(0), node.outputs[0]
    change = node.attrs["view"]
    if change is None:
        emitter.reshape(source, value.shape, emitter.output())
        return
    if config.form == AS_STORED:
        _as_stored(emitter, node, source)
        return
    limit = emitter.flavour.max_rank
    moves = stored_moves(change, config.inputs[0], config.outputs[0], limit)
    if any(move.steps for move in moves):
        emitter.move(source, moves, emitter.output())
    else:
        emitter.place(value, config.outputs[0], source)


def _as_stored(emitter: Emitter, node: Node, source: int) -> None:
    """The TRANSPOSE or RESHAPE that a file has, or nothing for what reading it put in."""
    config, value = emitter.layout[node], node.outputs[0]
    perm = stored_perm(node, config)
    if perm is None:
        emitter.reshape(source, stored_shape(value.shape, config.outputs[0]), emitter.output())
    elif moves_nothing(perm):
        emitter.place(value, config.outputs[0], source)
    else:
        emitter.transpose(source, perm, emitter.output())


def emit_concat(emitter: Emitter, node: Node) -> None:
    """Concat; of more operands than the runtime takes in groups of neighbours."""
    axis = stored_axis(emitter.layout[node].outputs[0], int(node.attrs["axis"]))
    inputs = [emitter.input(i) for i in range(len(node.inputs))]
    result, most = emitter.output(), emitter.flavour.most_joined or len(inputs)
    while len(inputs) > most:
        groups = [inputs[i : i + most] for i in range(0, len(inputs), most)]
        inputs = [g[0] if len(g) == 1 else _joined(emitter, g, result, axis) for g in groups]
    emitter.op("CONCATENATION", inputs, result, axis=axis)


def _joined(emitter: Emitter, inputs: list[int], result: int, axis: int) -> int:
    """A part of what is joined to `result`, on its grid."""
    shape = list(emitter.shape(result))
    shape[axis] = sum(emitter.shape(i)[axis] for i in inputs)
    return emitter.op("CONCATENATION", inputs, emitter.like(result, "joined", shape), axis=axis)


def emit_split(emitter: Emitter, node: Node) -> None:
    """Split: SPLIT into two to four equal parts, which delegates know, else one SLICE per part."""
    sizes = node.attrs["split"]
    perm = emitter.layout[node].inputs[0]
    axis = stored_axis(perm, int(node.attrs.get("axis", 0)))
    source = emitter.input(0)
    outputs = [emitter.output(i) for i in range(len(sizes))]
    if len(set(sizes)) == 1 and len(sizes) <= 4:
        where = emitter.constant(np.array(axis, np.int32), f"axis/{axis}")
        emitter.multi("SPLIT", [where, source], outputs, num_splits=len(sizes))
        return
    at = 0
    for size, output in zip(sizes, outputs, strict=True):
        begin = [at if i == axis else 0 for i in range(len(perm))]
        _slice(emitter, source, begin, output)
        at += size


def _slice(emitter: Emitter, source: int, begin: list[int], output: int) -> None:
    size = emitter.shape(output)
    emitter.op(
        "SLICE", [source, emitter.integers(begin, "begin"), emitter.integers(size, "size")], output
    )


def emit_slice(emitter: Emitter, node: Node) -> None:
    """Slice: SLICE for steps of one, else STRIDED_SLICE."""
    shape = node.operands[0].shape
    perm = emitter.layout[node].inputs[0]
    begin, end, step = [0] * len(shape), list(shape), [1] * len(shape)
    starts, ends = np.ravel(node.attrs["starts"]), np.ravel(node.attrs["ends"])
    axes = np.ravel(node.attrs.get("axes", np.arange(len(starts))))
    steps = np.ravel(node.attrs.get("steps", np.ones(len(starts), np.int64)))
    for start, stop, axis, stride in zip(starts, ends, axes, steps, strict=True):
        at = int(axis) % len(shape)
        # slice.indices clamps as ONNX does; an end before the first element stays open
        begin[at], end[at], step[at] = slice(
            int(max(-_HUGE, start)), int(np.clip(stop, -_HUGE, _HUGE)), int(stride)
        ).indices(shape[at])
    source, output = emitter.input(0), emitter.output()
    if set(step) == {1}:
        _slice(emitter, source, [begin[p] for p in perm], output)
        return
    # an end of -1 would mean the last element; the mask leaves it open
    mask = sum(1 << i for i, p in enumerate(perm) if end[p] < 0)
    emitter.op(
        "STRIDED_SLICE",
        [
            source,
            emitter.integers([begin[p] for p in perm], "begin"),
            emitter.integers([end[p] for p in perm], "end"),
            emitter.integers([step[p] for p in perm], "strides"),
        ],
        output,
        end_mask=mask,
    )


def pad_obstacle(node: Node) -> str:
    """Why a Pad cannot be written."""
    mode = str(node.attrs.get("mode", "constant"))
    if mode not in ("constant", "reflect"):
        return f"its mode is {mode}"
    if (np.asarray(node.attrs["pads"]) < 0).any():
        return "it cuts (negative pads)"
    return ""


def emit_pad(emitter: Emitter, node: Node) -> None:
    """Pad with zero, a number, or mirrored."""
    rank = len(node.outputs[0].shape)
    perm = emitter.layout[node].inputs[0]
    pads = np.zeros((rank, 2), np.int32)
    given = np.ravel(node.attrs["pads"])
    axes = [int(a) % rank for a in np.ravel(node.attrs.get("axes", np.arange(rank)))]
    for position, axis in enumerate(axes):
        pads[axis] = given[position], given[len(axes) + position]
    pads = pads[list(perm)]
    source = emitter.input(0)
    inputs = [source, emitter.pads(pads)]
    if str(node.attrs.get("mode", "constant")) == "reflect":
        emitter.op("MIRROR_PAD", inputs, emitter.output(), mode="REFLECT")
        return
    value = node.attrs.get("value")
    number = 0.0 if value is None or np.size(value) == 0 else float(np.ravel(value)[0])
    if number == 0.0:
        emitter.op("PAD", inputs, emitter.output())
        return
    tensor = emitter.subgraph.tensors[source]
    filler = np.array(number, np.float32)
    grid = tensor.quantization
    if grid is not None:
        info = np.iinfo(tensor.numpy_dtype)
        level = np.rint(number / grid.scale[0]) + grid.zero_point[0]
        filler = np.array(np.clip(level, info.min, info.max), tensor.numpy_dtype)
    inputs.append(emitter.filler(filler, source))
    emitter.op("PADV2", inputs, emitter.output())


def emit_expand(emitter: Emitter, node: Node) -> None:
    """Expand."""
    source, output = emitter.input(0), emitter.output()
    shape = emitter.integers(emitter.shape(output), "shape")
    emitter.op("BROADCAST_TO", [source, shape], output)


def expand_obstacle(node: Node) -> str:
    """The input has to have the output's rank by now."""
    if len(node.operands[0].shape) != len(node.outputs[0].shape):
        return "it adds dimensions"
    return ""


def emit_tile(emitter: Emitter, node: Node) -> None:
    """Tile."""
    perm = emitter.layout[node].inputs[0]
    repeats = np.ravel(node.attrs["repeats"])
    emitter.op(
        "TILE",
        [emitter.input(0), emitter.integers([int(repeats[p]) for p in perm], "repeats")],
        emitter.output(),
    )


def gather_obstacle(node: Node) -> str:
    """Indices have to be a constant vector, so that the rank stays."""
    indices = node.inputs[1]
    if indices is None or indices.const is None or len(indices.shape) != 1:
        return "its indices are no constant vector"
    return ""


def emit_gather(emitter: Emitter, node: Node) -> None:
    """Gather with constant indices."""
    indices = node.inputs[1]
    assert indices is not None
    assert indices.const is not None
    axis = int(node.attrs.get("axis", 0))
    size = node.operands[0].shape[axis]
    array = np.where(indices.const < 0, indices.const + size, indices.const).astype(np.int32)
    stored = stored_axis(emitter.layout[node].inputs[0], axis)
    emitter.op(
        "GATHER",
        [emitter.input(0), emitter.constant(array, indices.name)],
        emitter.output(),
        axis=stored,
    )


def resize_obstacle(node: Node) -> str:
    """Why a Resize cannot be written."""
    x, y = node.operands[0].shape, node.outputs[0].shape
    if len(x) != 4 or x[:2] != y[:2]:
        return "it resizes something else than the height and width of images"
    if int(node.attrs.get("antialias", 0)):
        return "it filters (antialias)"
    mode = str(node.attrs.get("mode", "nearest"))
    if mode == "nearest":
        return "" if _nearest_flags(node) is not None else "it picks other pixels than TFLite"
    if mode != "linear":
        return f"its mode is {mode}"
    if _linear_flags(node) is None:
        return f"its coordinates are {node.attrs.get('coordinate_transformation_mode')}"
    if not _ratio_is_exact(node):
        return "its scales are not the ratio of the sizes"
    return ""


def emit_resize(emitter: Emitter, node: Node) -> None:
    """Resize of height and width."""
    nearest = str(node.attrs.get("mode", "nearest")) == "nearest"
    flags = _nearest_flags(node) if nearest else _linear_flags(node)
    assert flags is not None
    source, output = emitter.input(0), emitter.output()
    emitter.op(
        "RESIZE_NEAREST_NEIGHBOR" if nearest else "RESIZE_BILINEAR",
        [source, emitter.integers(emitter.shape(output)[1:3], "size")],
        output,
        align_corners=flags[0],
        half_pixel_centers=flags[1],
    )


def _mode(node: Node) -> str:
    return str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))


def _linear_flags(node: Node) -> tuple[bool, bool] | None:
    """(align_corners, half_pixel_centers)."""
    mode = _mode(node)
    if mode == "pytorch_half_pixel" and 1 not in node.outputs[0].shape[2:]:
        mode = "half_pixel"
    return {
        "half_pixel": (False, True),
        "align_corners": (True, False),
        "asymmetric": (False, False),
    }.get(mode)


def _ratio_is_exact(node: Node) -> bool:
    scales = node.attrs.get("scales")
    if scales is None or np.size(scales) != 4 or _mode(node) == "align_corners":
        return True
    x, y = node.operands[0].shape, node.outputs[0].shape
    return all(abs(float(scales[i]) - y[i] / x[i]) < 1e-6 for i in (2, 3))


def _nearest_flags(node: Node) -> tuple[bool, bool] | None:
    """Flags under which TFLite picks the pixels that ONNX picks, found by comparing all of them."""
    x, y = node.operands[0].shape, node.outputs[0].shape
    wanted = [_onnx_pixels(node, x[i], y[i], i) for i in (2, 3)]
    for flags in ((False, False), (False, True), (True, False)):
        found = [_tflite_pixels(x[i], y[i], *flags) for i in (2, 3)]
        if all(w is not None and np.array_equal(w, f) for w, f in zip(wanted, found, strict=True)):
            return flags
    return None


def _onnx_pixels(node: Node, size: int, out: int, axis: int) -> NDArray[np.int64] | None:
    scales = node.attrs.get("scales")
    scale = out / size
    if scales is not None and np.size(scales) == 4:
        scale = float(scales[axis])
    at = np.arange(out, dtype=np.float64)
    places = {
        "half_pixel": (at + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (at + 0.5) / scale - 0.5 if out > 1 else np.zeros(1),
        "asymmetric": at / scale,
        "align_corners": at * (size - 1) / (out - 1) if out > 1 else np.zeros(1),
    }
    place = places.get(_mode(node))
    if place is None:
        return None
    rounded = {
        "round_prefer_floor": np.ceil(place - 0.5),
        "round_prefer_ceil": np.floor(place + 0.5),
        "floor": np.floor(place),
        "ceil": np.ceil(place),
    }[str(node.attrs.get("nearest_mode", "round_prefer_floor"))]
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def _tflite_pixels(size: int, out: int, align: bool, half: bool) -> NDArray[np.int64]:
    """tensorflow/lite/kernels/internal/reference/resize_nearest_neighbor.h, in float32."""
    scale = np.float32((size - 1) / (out - 1) if align and out > 1 else size / out)
    place = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    found = np.floor(place + np.float32(0.5)) if align else np.floor(place)
    pixels: NDArray[np.int64] = np.clip(found, 0, size - 1).astype(np.int64)
    return pixels
