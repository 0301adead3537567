"""Padding of windows: VALID, SAME where TensorFlow's rule gives the same, else an explicit PAD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node


@dataclass(frozen=True)
class Window:
    """A sliding window over height and width.

    Attributes:
        kernel, stride, dilation: (height, width).
        pads: (top, left, bottom, right).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]

    def scheme(self, size: Sequence[int]) -> str:
        """``VALID``, ``SAME`` or ``EXPLICIT`` on an input of `size` = (height, width)."""
        if not any(self.pads):
            return "VALID"
        for axis in (0, 1):
            before, after = self.pads[axis], self.pads[axis + 2]
            extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            out = -(-size[axis] // self.stride[axis])
            total = max((out - 1) * self.stride[axis] + extent - size[axis], 0)
            if (before, after) != (total // 2, total - total // 2):
                return "EXPLICIT"
        return "SAME"

    def grown(self, size: Sequence[int]) -> Window | None:
        """A window with rows and columns of zeros behind it whose padding is SAME, or None.

        With stride two TensorFlow pads an even size by one row less than symmetric padding does; a
        kernel one row larger makes up for it, and the windows start at the same places.
        """
        if self.dilation != (1, 1):
            return None
        extra = []
        for axis in (0, 1):
            before, stride = self.pads[axis], self.stride[axis]
            length = size[axis] + before + self.pads[axis + 2]
            out = (length - self.kernel[axis]) // stride + 1
            for more in range(stride + 1):
                total = max((out - 1) * stride + self.kernel[axis] + more - size[axis], 0)
                if out == -(-size[axis] // stride) and total // 2 == before:
                    extra.append((more, total - before))
                    break
            else:
                return None
        return Window(
            (self.kernel[0] + extra[0][0], self.kernel[1] + extra[1][0]),
            self.stride,
            self.dilation,
            (self.pads[0], self.pads[1], extra[0][1], extra[1][1]),
        )


def window_of(node: Node, kernel: Sequence[int]) -> Window:
    """The window of a convolution or pooling, `ceil_mode` and `auto_pad` resolved."""
    size = node.operands[0].shape[2:]
    stride = tuple(int(s) for s in node.attrs.get("strides", (1, 1)))
    dilation = tuple(int(d) for d in node.attrs.get("dilations", (1, 1)))
    pads = [int(p) for p in node.attrs.get("pads", (0, 0, 0, 0))]
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    out = node.outputs[0].shape[2:]
    for axis in (0, 1):
        extent = (kernel[axis] - 1) * dilation[axis] + 1
        total = max((out[axis] - 1) * stride[axis] + extent - size[axis], 0)
        if auto.startswith("SAME"):
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + 2] = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif total > pads[axis] + pads[axis + 2]:
            pads[axis + 2] = total - pads[axis]
    return Window(
        (int(kernel[0]), int(kernel[1])),
        (stride[0], stride[1]),
        (dilation[0], dilation[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )


def padded(
    emitter: Emitter, source: int, window: Window, *, lowest: bool = False
) -> tuple[int, str]:
    """The tensor to slide over and TFLite's padding word, with a PAD in front if it needs one.

    Args:
        source: NHWC tensor.
        lowest: pad with the lowest number (maximum) instead of zero.
    """
    shape = emitter.shape(source)
    scheme = window.scheme(shape[1:3])
    if scheme != "EXPLICIT":
        return source, scheme
    top, left, bottom, right = window.pads
    pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]])
    result = emitter.like(
        source, "padded", (shape[0], shape[1] + top + bottom, shape[2] + left + right, shape[3])
    )
    inputs = [source, emitter.pads(pads)]
    if not lowest:
        return emitter.op("PAD", inputs, result), "VALID"
    tensor = emitter.subgraph.tensors[source]
    dtype = tensor.numpy_dtype
    least = np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min
    inputs.append(emitter.filler(np.array(least, dtype), source))
    return emitter.op("PADV2", inputs, result), "VALID"
