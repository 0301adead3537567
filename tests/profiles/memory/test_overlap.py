"""The diagonal distance: every formula against a simulation of the kernel's accesses."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgec.profiles.memory.overlap import Access, Window, elementwise, rows, streamed, window

Event = tuple[list[int], int]
"""Input elements read, and the output element written after that."""


def distance(events: list[Event]) -> int:
    """Largest distance of an element that was written over the lowest one that is still read."""
    worst = 0
    lowest = 1 << 50
    for reads, written in reversed(events):
        # what this event reads, it reads before it writes
        worst = max(worst, written + 1 - lowest)
        lowest = min([lowest, *reads])
    return worst


def window_events(w: Window, access: Access) -> Iterator[Event]:
    """Accesses of a kernel that walks over the output; writes may be held back."""
    held: list[int] = []
    for y in range(w.out_size[0]):
        for x in range(w.out_size[1]):
            for c in range(w.out_channels):
                reads = list(_taps(w, y, x, c))
                written = (y * w.out_size[1] + x) * w.out_channels + c
                last = c == w.out_channels - 1
                if access == "element":
                    yield reads, written
                    continue
                held.append(written)
                yield reads, -1
                if last and (access == "pixel" or x == w.out_size[1] - 1):
                    for element in held:
                        yield [], element
                    held = []


def _taps(w: Window, y: int, x: int, c: int) -> Iterator[int]:
    per = max(w.out_channels // w.in_channels, 1)
    channels = [c // per] if w.depthwise else range(w.in_channels)
    for i in range(w.kernel[0]):
        for j in range(w.kernel[1]):
            row = y * w.stride[0] - w.pad[0] + i * w.dilation[0]
            column = x * w.stride[1] - w.pad[1] + j * w.dilation[1]
            if 0 <= row < w.in_size[0] and 0 <= column < w.in_size[1]:
                for channel in channels:
                    yield (row * w.in_size[1] + column) * w.in_channels + channel


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    pad = (draw(st.integers(0, reach[0])), draw(st.integers(0, reach[1])))
    out_size = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    # an input that the windows cover, some padding behind and sometimes rows that nobody reads
    in_size = []
    for n, s, p, r in zip(out_size, stride, pad, reach, strict=True):
        behind = draw(st.integers(0, min(r, p)))
        in_size.append(max((n - 1) * s + r + 1 - p - behind + draw(st.integers(0, 1)), 1))
    depthwise = draw(st.booleans())
    in_channels = draw(st.integers(1, 4))
    out_channels = in_channels * draw(st.integers(1, 2)) if depthwise else draw(st.integers(1, 5))
    return Window(
        (in_size[0], in_size[1]),
        out_size,
        in_channels,
        out_channels,
        kernel,
        stride,
        pad,
        dilation,
        depthwise,
    )


@settings(max_examples=200, deadline=None)
@given(w=windows(), access=st.sampled_from(["element", "pixel", "row"]))
def test_windows(w: Window, access: Access) -> None:
    assert window(w, access=access) == distance(list(window_events(w, access)))


@settings(max_examples=150, deadline=None)
@given(
    into=st.integers(1, 6),
    onto=st.integers(1, 6),
    count=st.integers(1, 5),
    access=st.sampled_from(["element", "row"]),
)
def test_linear_layers_on_rows(into: int, onto: int, count: int, access: Access) -> None:
    events: list[Event] = []
    for n in range(count):
        reads = list(range(n * into, (n + 1) * into))
        if access == "row":
            events.append((reads, -1))
        events += [([] if access == "row" else reads, n * onto + k) for k in range(onto)]
    assert rows(into, onto, count, access) == distance(events)


@settings(max_examples=200, deadline=None)
@example(in_row=1, out_row=1, count=1, reach=1, stride=2, pad=3, after=0)
@given(
    in_row=st.integers(1, 6),
    out_row=st.integers(1, 9),
    count=st.integers(1, 9),
    reach=st.integers(1, 4),
    stride=st.integers(1, 4),
    pad=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_windows_of_rows_that_are_read_once(
    in_row: int, out_row: int, count: int, reach: int, stride: int, pad: int, after: int
) -> None:
    out_rows = (count + pad + after - reach) // stride + 1
    if out_rows < 1:
        return
    events: list[Event] = []
    read: set[int] = set()
    for y in range(out_rows):
        for row in range(y * stride - pad, y * stride - pad + reach):
            if 0 <= row < count and row not in read:
                read.add(row)
                events.append((list(range(row * in_row, (row + 1) * in_row)), -1))
        events += [([], y * out_row + n) for n in range(out_row)]
    found = streamed(in_row, out_row, count, out_rows, reach, stride, pad)
    assert found == distance(events)


def test_elementwise_and_row_wise_kernels_work_in_place() -> None:
    assert elementwise() == distance([([n], n) for n in range(9)])
    softmax: list[Event] = []
    for row in range(3):
        softmax += [([row * 4 + n], -1) for n in range(4)]  # maximum and sum
        softmax += [([row * 4 + n], row * 4 + n) for n in range(4)]
    assert elementwise() == distance(softmax)


def test_well_known_cases() -> None:
    # a pointwise convolution that expands 8 to 32 channels trails its input by the difference
    expand = Window((4, 4), (4, 4), 8, 32)
    assert window(expand, access="pixel") == 15 * 24
    assert window(expand, width=4, access="pixel") == 4 * 15 * 24
    # one that reduces is safe in place when it writes whole pixels
    assert window(Window((4, 4), (4, 4), 32, 8), access="pixel") == 0
    # a 3x3 depthwise kernel needs the row above and one pixel more
    same = Window((6, 5), (6, 5), 7, 7, (3, 3), (1, 1), (1, 1), depthwise=True)
    assert window(same, access="pixel") == (5 + 1) * 7
