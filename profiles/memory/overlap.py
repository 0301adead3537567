"""How far input and output of a kernel may overlap: the diagonal distance.

A kernel walks over its output in order of address. When it has written output byte w, it will only
read input bytes from some byte r on; all input under r may be overwritten. So the output may begin
`distance` bytes under the input, where `distance` is the largest w - r over the walk (Blacker,
Bridges & Hadfield 2020, "diagonal memory optimisation"; vMCU, MLSys 2024, does the same with
segments). Zero means that the output may begin where the input does.

Tensors are channels-last. `Access` says when a kernel writes: each element at once ("element"), or
only when all of a pixel or row is computed ("pixel", "row"), which needs scratch for it but lets
the output come closer. The C kernels and the interpreter have to keep to what is assumed here;
tests compare every formula with a simulation of the accesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Access = Literal["element", "pixel", "row"]


@dataclass(frozen=True)
class Window:
    """A sliding window over rows and columns, channels last.

    Attributes:
        in_size, out_size: height and width.
        kernel, stride, pad, dilation: along height and width; `pad` is before the first element.
        in_channels, out_channels: channels of a pixel.
        depthwise: output channel c reads only input channel ``c * in_channels // out_channels``.
    """

    in_size: tuple[int, int]
    out_size: tuple[int, int]
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    depthwise: bool = False


def rows(in_row: int, out_row: int, count: int, access: Access = "element") -> int:
    """Row n of the output depends on all of row n of the input: a linear layer on tokens.

    Args:
        in_row, out_row: bytes of a row.
        count: rows.
        access: ``"element"`` when a row is written while its input is still read.
    """
    # a whole row has been written; what is left begins with the next one
    distance = max((count - 1) * (out_row - in_row), 0)
    if access == "element" and out_row > 1:
        # all but the last byte of a row are written while its input is still needed
        distance = max(distance, (count - 1) * max(out_row - in_row, 0) + out_row - 1)
    return distance


_FAR = 1 << 40


def streamed(
    in_row: int, out_row: int, rows: int, out_rows: int, window: int, stride: int, pad: int
) -> int:
    """Row n of the output is written when the rows of its window have been read, each once.

    Args:
        in_row, out_row: bytes of a row.
        rows, out_rows: how many there are.
        window, stride, pad: of the output's rows over the input's; `pad` is above the first one.
    """
    firsts = []  # of the rows that each window does not share with those before it
    done = 0
    for y in range(out_rows):
        top = y * stride - pad
        first, end = max(top, done), min(top + window, rows)
        firsts.append(first if first < end else _FAR)
        done = max(done, end)
    needed = _from_on(firsts)
    ahead = ((y + 1) * out_row - needed[y + 1] * in_row for y in range(out_rows - 1))
    return max([0, *ahead])


def elementwise() -> int:
    """Element n is read before element n is written: activations, sums, and the last pass of a
    softmax or normalisation over rows."""
    return 0


def window(w: Window, width: int = 1, access: Access = "element") -> int:
    """Convolution and pooling.

    Args:
        w: the window.
        width: bytes of an element, the same in input and output.
        access: when the outputs of a pixel or row are written.
    """
    return _Walk(w).distance(access) * width


class _Walk:
    """The walk of a window kernel, in elements."""

    def __init__(self, w: Window) -> None:
        self.w = w
        # lowest row that output rows from y on read, and lowest column from x on
        self.row = _from_on([_first(w, 0, y) for y in range(w.out_size[0])])
        self.column = _from_on([_first(w, 1, x) for x in range(w.out_size[1])])

    def distance(self, access: Access) -> int:
        w = self.w
        columns = range(w.out_size[1]) if access == "row" else self._turning_points()
        worst = 0
        for y in range(w.out_size[0]):
            for x in columns:
                start = (y * w.out_size[1] + x) * w.out_channels
                if access != "row" or x == w.out_size[1] - 1:
                    worst = max(worst, start + w.out_channels - self._needed(y, x + 1))
                if access == "element" and w.out_channels > 1:
                    worst = max(worst, self._inside(y, x, start))
        return worst

    def _needed(self, y: int, x: int) -> int:
        """Lowest element that the outputs from (y, x) on read; a far one when there are none."""
        w = self.w
        found = []
        if x < w.out_size[1]:
            found.append(_first(w, 0, y) * w.in_size[1] + self.column[x])
        if y + 1 < w.out_size[0]:
            found.append(self.row[y + 1] * w.in_size[1] + self.column[0])
        return min(found, default=_FAR) * w.in_channels

    def _inside(self, y: int, x: int, start: int) -> int:
        """Distance while the channels of one pixel are written."""
        w = self.w
        if not w.depthwise:
            return start + w.out_channels - 1 - self._needed(y, x)
        first = (_first(w, 0, y) * w.in_size[1] + _first(w, 1, x)) * w.in_channels
        others = self._needed(y, x + 1)
        per = max(w.out_channels // w.in_channels, 1)
        # once channel c is written, later channels of the window and later pixels are needed
        last = w.out_channels - 2
        return max(
            start + c + 1 - min(first + (c + 1) // per, others)
            for c in {0, min(per - 1, last), max(last - per, 0), last}
        )

    def _turning_points(self) -> list[int]:
        """Columns at which the distance can be largest: it is linear in between."""
        w = self.w
        last = w.out_size[1] - 1
        if w.dilation[1] > 1 and w.pad[1]:
            return list(range(last + 1))
        clip = -(-w.pad[1] // w.stride[1])
        # windows may lie in the padding altogether, on either side
        enter = -(-(w.pad[1] - w.kernel[1] + 1) // w.stride[1])
        end = (w.in_size[1] - 1 + w.pad[1]) // w.stride[1]
        near = (clip - 2, clip - 1, clip, enter - 2, enter - 1, enter, end - 1, end, last - 1)
        return sorted({0, last} | {min(max(x, 0), last) for x in near})


def _first(w: Window, axis: int, at: int) -> int:
    """First row or column that an output row or column reads; a far one when all is padding."""
    begin = at * w.stride[axis] - w.pad[axis]
    # the first tap inside the input
    tap = max(-(begin // w.dilation[axis]), 0)
    begin += tap * w.dilation[axis]
    return begin if begin < w.in_size[axis] and tap < w.kernel[axis] else _FAR


def _from_on(values: list[int]) -> list[int]:
    """Suffix minima."""
    found = list(values)
    for n in range(len(found) - 2, -1, -1):
        found[n] = min(found[n], found[n + 1])
    return found
