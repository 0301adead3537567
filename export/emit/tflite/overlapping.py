"""Col2Im (torch.nn.Fold) as slices, zeros around them, sums and one view.

Overlapping blocks of pixels are added where they meet: outlook attention of VOLO (Yuan et al.,
2021) does that. Element (a, b) of every block lies at rows a·d, a·d + s, … of the padded image, so
that the taps of one remainder modulo the stride form an image of their own, in which a tap is
shifted by whole pixels. Those images are then interleaved. As many numbers are added as the
operator adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgec.export.emit.tflite.graph import Node, Shape, Value
from edgec.export.rewrite.layout import View


def add_blocks(node: Node) -> Iterator[Node]:
    """What stands for a Col2Im on floats.

    Raises:
        UnsupportedError: EC390, its blocks are not of two dimensions.
    """
    source, output = node.operands[0], node.outputs[0]
    image, block = (np.ravel(node.attrs[n]).tolist() for n in ("image_shape", "block_shape"))
    if len(image) != 2:
        raise node.refuse(f"its blocks have {len(image)} dimensions; two can be written")
    strides, dilations, pads = (
        list(node.attrs.get(name, default))
        for name, default in (("strides", (1, 1)), ("dilations", (1, 1)), ("pads", (0, 0, 0, 0)))
    )
    whole = [image[i] + pads[i] + pads[i + 2] for i in (0, 1)]
    counts = [(whole[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in (0, 1)]
    size = [-(-whole[i] // strides[i]) for i in (0, 1)]  # of each of the interleaved images
    batch, channels = output.shape[:2]
    taps = block[0] * block[1]

    def value(name: str, shape: Shape) -> Value:
        return Value(f"{output.name}/{name}", shape, output.dtype)

    def step(op: str, inputs: list[Value], made: Value, **attrs: object) -> Node:
        return replace(node, op=op, inputs=list(inputs), outputs=[made], attrs=dict(attrs))

    split = View.identity(source.shape).reshape((batch, channels, taps, *counts))
    assert split is not None
    apart = split.transpose((0, 2, 1, 3, 4)).reshape((batch, taps * channels, *counts))
    blocks = value("blocks", (batch, taps * channels, *counts))
    yield step("View", [source], blocks, view=apart)
    shape = (batch, channels, *size)
    images: dict[tuple[int, int], Value] = {}
    for tap in range(taps):
        at = [i * d for i, d in zip(divmod(tap, block[1]), dilations, strict=True)]
        place = (at[0] % strides[0], at[1] % strides[1])
        before = [a // s for a, s in zip(at, strides, strict=True)]
        after = [n - b - c for n, b, c in zip(size, before, counts, strict=True)]
        part = value(f"tap{tap}", (batch, channels, *counts))
        ends = {"starts": [tap * channels], "ends": [(tap + 1) * channels], "axes": [1]}
        yield step("Slice", [blocks], part, **ends)
        if any(before + after):
            wide = value(f"tap{tap}/padded", shape)
            yield step("Pad", [part], wide, pads=np.array([0, 0, *before, 0, 0, *after]))
            part = wide
        if place in images:
            total = value(f"sum{tap}", shape)
            yield step("Add", [images[place], part], total)
            part = total
        images[place] = part
    places = [(row, column) for row in range(strides[0]) for column in range(strides[1])]
    zero = replace(value("zero", shape), const=np.zeros(shape, np.float32))
    parts = [images.get(place, zero) for place in places]
    last = parts[0]
    if len(parts) > 1:
        last = value("parts", (batch, len(parts) * channels, *size))
        yield step("Concat", parts, last, axis=1)
        cut = View.identity(last.shape).reshape((batch, *strides, channels, *size))
        assert cut is not None
        full = (batch, channels, size[0] * strides[0], size[1] * strides[1])
        mixed, woven = cut.transpose((0, 3, 4, 1, 5, 2)).reshape(full), value("woven", full)
        yield step("View", [last], woven, view=mixed)
        last = woven
    ends = {"starts": pads[:2], "ends": [p + n for p, n in zip(pads, image, strict=False)]}
    yield step("Slice", [last], output, **ends, axes=[2, 3])
