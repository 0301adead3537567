"""Programs executed in their arenas: equal to numpy, and broken plans are found out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgec.export.errors import InputError, InternalError
from edgec.profiles.memory import interpret
from edgec.profiles.memory.interpret import Call
from edgec.profiles.memory.overlap import Window, window
from edgec.profiles.memory.plan import Placed, Plan, plan
from edgec.profiles.memory.program import Affine, Buffer, Loop, Overlap, Program, Step
from edgec.profiles.memory.regions import Region

Bytes = NDArray[np.uint8]


def _geometry(call: Call) -> tuple[int, ...]:
    value = call.parameters["geometry"]
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def conv(call: Call) -> None:
    """Convolution modulo 256, channels last, each output written as soon as it is computed."""
    h, w, ho, wo, ci, co, kernel, stride, pad, depthwise = _geometry(call)
    (source, weights), (out,) = call.inputs, call.outputs
    per = max(co // ci, 1)
    for y in range(*(call.rows or (0, ho))):
        for x in range(wo):
            for c in range(co):
                total = 0
                for i in range(kernel):
                    for j in range(kernel):
                        row, column = y * stride - pad + i, x * stride - pad + j
                        if 0 <= row < h and 0 <= column < w:
                            for k in [c // per] if depthwise else range(ci):
                                tap = (((c * kernel) + i) * kernel + j) * ci + k
                                pixel = (row * w + column) * ci + k
                                total += int(source[pixel]) * int(weights[tap % weights.size])
                out[(y * wo + x) * co + c] = total % 256


def add(call: Call) -> None:
    """Sum modulo 256, element by element."""
    for n in range(call.outputs[0].size):
        call.outputs[0][n] = sum(int(source[n]) for source in call.inputs) % 256


def reverse_rows(call: Call) -> None:
    """Each row reversed by way of scratch."""
    width = call.scratch[0].size
    for begin in range(0, call.outputs[0].size, width):
        call.scratch[0][:] = call.inputs[0][begin : begin + width][::-1]
        call.outputs[0][begin : begin + width] = call.scratch[0]


def pool_rows(call: Call) -> None:
    """Sums of three rows of a ring, for the rows of this call; rows outside count as zero."""
    height, width, ring = _geometry(call)
    assert call.rows is not None
    for y in range(*call.rows):
        total = np.zeros(width, np.int64)
        for row in (y - 1, y, y + 1):
            if 0 <= row < height:
                total += call.inputs[0].reshape(ring, width)[row % ring]
        call.outputs[0].reshape(height, width)[y] = total % 256


def double_rows(call: Call) -> None:
    """Twice the input, into a ring of rows."""
    height, width, ring = _geometry(call)
    assert call.rows is not None
    for y in range(*call.rows):
        if y < height:
            row = call.inputs[0].reshape(height, width)[y]
            call.outputs[0].reshape(ring, width)[y % ring] = row * np.uint8(2)


KERNELS = {
    "conv": conv,
    "add": add,
    "reverse": reverse_rows,
    "pool": pool_rows,
    "double": double_rows,
}


def run_apart(program: Program, inputs: Mapping[str, Bytes]) -> dict[str, Bytes]:
    """Every whole buffer in memory of its own: no plan can do harm."""
    memory = {b.id: np.zeros(b.size, np.uint8) for b in program.buffers if b.parent is None} | {
        k: v.copy() for k, v in inputs.items()
    }
    roots, starts = program.roots(), program.starts()
    sizes = {b.id: b.size for b in program.buffers}

    def view(id: str) -> Bytes:
        return memory[roots[id]][starts[id] : starts[id] + sizes[id]]

    for step, counter in program.calls():
        KERNELS[step.kernel](
            Call(
                tuple(view(i) for i in step.inputs),
                tuple(view(i) for i in step.outputs),
                tuple(view(i) for i in step.scratch),
                step.parameters,
                None if step.rows is None else (step.rows[0].at(counter), step.rows[1].at(counter)),
            )
        )
    return {b.id: view(b.id) for b in program.buffers if b.kind == "output"}


def random_network(seed: int) -> tuple[Program, dict[str, Bytes], dict[str, Bytes]]:
    """Convolutions, residual sums and row-wise steps, with all overlaps that the kernels allow."""
    draw = random.Random(seed)
    h, w, c = draw.randrange(3, 7), draw.randrange(3, 7), draw.randrange(1, 5)
    buffers = [Buffer("x", h * w * c, kind="input")]
    constants: dict[str, Bytes] = {}
    steps: list[Step] = []
    shapes = {"x": (h, w, c)}
    at = "x"
    for n in range(draw.randrange(3, 8)):
        h, w, c = shapes[at]
        kind = draw.choice(["conv", "conv", "depthwise", "add", "reverse"])
        out, overlaps = f"t{n}", []
        if kind in ("conv", "depthwise"):
            kernel = draw.choice([1, 3])
            stride = draw.choice([1, 2]) if kernel == 3 else 1
            pad = kernel // 2
            ho, wo = (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1
            deep = kind == "depthwise"
            co = c * draw.randrange(1, 3) if deep else draw.randrange(1, 7)
            shape = Window(
                (h, w), (ho, wo), c, co, (kernel,) * 2, (stride,) * 2, (pad,) * 2, depthwise=deep
            )
            shapes[out] = (ho, wo, co)
            weights = f"w{n}"
            constants[weights] = np.array(
                [draw.randrange(256) for _ in range(co * kernel * kernel * c)], np.uint8
            )
            buffers.append(Buffer(weights, constants[weights].size, kind="constant"))
            geometry = (h, w, ho, wo, c, co, kernel, stride, pad, int(deep))
            distance = window(shape)
            if distance < ho * wo * co:
                overlaps.append(Overlap(out, at, distance))
            steps.append(
                Step(
                    "conv",
                    (at, weights),
                    (out,),
                    parameters={"geometry": geometry},
                    overlaps=tuple(overlaps),
                )
            )
        else:
            shapes[out] = shapes[at]
            others = [t for t, s in shapes.items() if s == shapes[at] and t != out]
            sources = (at, draw.choice(others)) if kind == "add" else (at,)
            scratch = ()
            if kind == "reverse":
                scratch = (f"s{n}",)
                buffers.append(Buffer(scratch[0], w * c, kind="scratch"))
            overlaps = [Overlap(out, s, 0) for s in dict.fromkeys(sources)]
            steps.append(Step(kind, sources, (out,), scratch, overlaps=tuple(overlaps)))
        buffers.append(Buffer(out, int(np.prod(shapes[out])), alignment=draw.choice([1, 1, 4])))
        at = out
    buffers[-1] = replace(buffers[-1], kind="output")
    data = {"x": np.array([draw.randrange(256) for _ in range(buffers[0].size)], np.uint8)}
    return Program(f"random {seed}", tuple(buffers), tuple(steps)), data, constants


@pytest.mark.parametrize("seed", range(25))
def test_random_networks_in_their_arenas(seed: int) -> None:
    program, inputs, constants = random_network(seed)
    expected = run_apart(program, {**inputs, **constants})
    made = plan(program, time_limit=5)
    assert made.proved
    interpret.check(made, KERNELS, inputs, constants, expected)
    without = plan(program, overlaps=False, time_limit=5)
    interpret.check(without, KERNELS, inputs, constants, expected)
    assert made.peak <= without.peak


def test_overlaps_make_arenas_smaller() -> None:
    peaks = []
    for seed in range(25):
        program, _, _ = random_network(seed)
        peaks.append((plan(program).peak, plan(program, overlaps=False).peak))
    assert sum(a < b for a, b in peaks) > 10


def _overlapping() -> tuple[Plan, dict[str, Bytes], dict[str, Bytes]]:
    shape = Window((5, 5), (5, 5), 3, 4, (3, 3), (1, 1), (1, 1))
    weights = np.arange(4 * 27, dtype=np.uint8)
    program = Program(
        "one convolution",
        (
            Buffer("x", 75, kind="input"),
            Buffer("w", weights.size, kind="constant"),
            Buffer("y", 100, kind="output"),
        ),
        (
            Step(
                "conv",
                ("x", "w"),
                ("y",),
                parameters={"geometry": (5, 5, 5, 5, 3, 4, 3, 1, 1, 0)},
                overlaps=(Overlap("y", "x", window(shape)),),
            ),
        ),
    )
    return plan(program), {"x": np.arange(75, dtype=np.uint8)}, {"w": weights}


def test_one_byte_closer_gives_wrong_numbers() -> None:
    made, inputs, constants = _overlapping()
    expected = run_apart(made.program, {**inputs, **constants})
    interpret.check(made, KERNELS, inputs, constants, expected)
    moved = {b.id: b for b in made.buffers}
    assert moved["x"].offset > 0
    moved["x"] = replace(moved["x"], offset=moved["x"].offset - 1)
    closer = replace(made, buffers=tuple(moved.values()))
    with pytest.raises(InternalError, match="EC151"):
        interpret.check(closer, KERNELS, inputs, constants, expected)


def _chain(kernel: str = "add") -> Program:
    buffers = tuple(Buffer(i, 8) for i in "abc")
    return Program(
        "chain",
        (Buffer("x", 8, kind="input"), *buffers, Buffer("y", 8, kind="output")),
        (
            Step("add", ("x", "x"), ("a",)),
            Step(kernel, ("a",), ("b",)),
            Step("add", ("a", "b"), ("c",)),
            Step("add", ("c", "x"), ("y",)),
        ),
    )


def test_a_buffer_that_was_overwritten_is_named() -> None:
    made = plan(_chain())
    places = {b.id: b.offset for b in made.buffers}
    bad = tuple(replace(b, offset=places["a"]) if b.id == "b" else b for b in made.buffers)
    with pytest.raises(InternalError, match="byte 0 of 'a' belongs to 'b' by now"):
        interpret.run(replace(made, buffers=bad), KERNELS, {"x": np.arange(8, dtype=np.uint8)})


def test_bytes_that_nothing_wrote_are_found() -> None:
    def lazy(call: Call) -> None:
        call.outputs[0][:4] = call.inputs[0][:4]

    with pytest.raises(InternalError, match="nothing wrote"):
        interpret.check(
            plan(_chain("lazy")), {**KERNELS, "lazy": lazy}, {"x": np.arange(8, dtype=np.uint8)}
        )


def test_a_kernel_that_writes_elsewhere_is_found() -> None:
    def stray(call: Call) -> None:
        call.outputs[0][:] = call.inputs[0]
        base: Any = call.outputs[0]
        while base.base is not None:
            base = base.base
        base[0] ^= 1

    with pytest.raises(InternalError, match="not its output"):
        interpret.run(
            plan(_chain("stray")), {**KERNELS, "stray": stray}, {"x": np.arange(8, dtype=np.uint8)}
        )


def streamed(height: int, width: int) -> Program:
    """Twice the input row by row through a ring of three rows, and sums of three rows of that."""
    geometry = (height, width, 3)
    body = (
        Step(
            "double",
            ("x",),
            ("line",),
            parameters={"geometry": geometry},
            # one row ahead of the output; the first round also makes row 0
            rows=(Affine(1, 1, high=height), Affine(2, 1, high=height)),
        ),
        Step(
            "pool",
            ("line",),
            ("y",),
            parameters={"geometry": geometry},
            rows=(Affine(0, 1), Affine(1, 1)),
        ),
    )
    return Program(
        "streamed",
        (
            Buffer("x", height * width, kind="input"),
            Buffer("line", 3 * width, ring=3),
            Buffer("y", height * width, kind="output"),
        ),
        (
            Step(
                "double",
                ("x",),
                ("line",),
                parameters={"geometry": geometry},
                rows=(Affine(0), Affine(1)),
            ),
            Loop(height, body),
        ),
    )


def test_rows_streamed_through_a_line_buffer() -> None:
    program = streamed(9, 5)
    x = np.arange(45, dtype=np.uint8)
    double = (x * 2).reshape(9, 5).astype(np.int64)
    padded = np.pad(double, ((1, 1), (0, 0)))
    expected = ((padded[:-2] + padded[1:-1] + padded[2:]) % 256).astype(np.uint8).reshape(-1)
    made = plan(program)
    assert made.peak == 45 + 15 + 45
    interpret.check(made, KERNELS, {"x": x}, expected={"y": expected})


def test_parts_lie_inside_their_parent() -> None:
    program = Program(
        "concatenation in place",
        (
            Buffer("x", 6, kind="input"),
            Buffer("both", 12, kind="output"),
            Buffer("left", 6, parent="both"),
            Buffer("right", 6, parent="both", start=6),
        ),
        (Step("add", ("x",), ("left",)), Step("add", ("x", "x"), ("right",))),
    )
    x = np.arange(6, dtype=np.uint8)
    made = plan(program)
    assert made.offset("right") == ("ram", made.offset("both")[1] + 6)
    interpret.check(made, KERNELS, {"x": x}, expected={"both": np.concatenate([x, 2 * x])})


def test_several_memories_and_io_outside() -> None:
    program, inputs, constants = random_network(3)
    expected = run_apart(program, {**inputs, **constants})
    whole = plan(program)
    small = (
        Region("fast", "ram", whole.peak * 2 // 3),
        Region("slow", "ram", None),
        Region("flash", "flash", None),
    )
    made = plan(program, small)
    assert made.fits
    assert {b.region for b in made.buffers} == {"fast", "slow"}
    interpret.check(made, KERNELS, inputs, constants, expected)
    outside = plan(program, io_outside=True)
    assert not {b.kind for b in outside.buffers} & {"input", "output"}
    interpret.check(outside, KERNELS, inputs, constants, expected)


def test_large_buffers_stay_where_there_is_room_for_them() -> None:
    """b has least traffic for its size, but only a fits the second memory."""
    buffers = tuple(
        Buffer(id, size, kind=kind)  # type: ignore[arg-type]
        for id, size, kind in (("x", 8, "input"), ("a", 8, "activation"), ("b", 40, "activation"))
    )
    steps = (
        Step("add", ("x",), ("a",)),
        Step("add", ("a", "x"), ("b",)),
        Step("add", ("b", "a"), ("y",)),
    )
    program = Program("two", (*buffers, Buffer("y", 8, kind="output")), steps)
    made = plan(program, [Region("fast", "ram", 48), Region("slow", "ram", 16)], overlaps=False)
    assert made.fits
    assert made.offset("b")[0] == "fast"
    assert "slow" in {b.region for b in made.buffers}


def test_what_fits_nowhere_is_planned_as_one_arena() -> None:
    program, _, _ = random_network(3)
    whole = plan(program)
    tiny = [Region("a", "ram", whole.peak // 8), Region("b", "ram", whole.peak // 8)]
    made = plan(program, tiny)
    assert not made.fits
    assert made.peak == whole.peak
    assert {b.region for b in made.buffers} == {"a"}


def test_buffers_may_ask_for_a_memory() -> None:
    program = _chain()
    pinned = replace(
        program,
        buffers=tuple(replace(b, region="slow") if b.id in "ab" else b for b in program.buffers),
    )
    for size in (4, 1000):
        made = plan(pinned, [Region("fast", "ram", 1000), Region("slow", "ram", size)])
        assert {b.id for b in made.buffers if b.region == "slow"} == {"a", "b"}
        assert made.fits == (size == 1000)
    with pytest.raises(InputError, match="EC751"):
        plan(pinned)


def test_the_interpreter_needs_all_data() -> None:
    with pytest.raises(KeyError):
        interpret.run(plan(_chain()), KERNELS, {})
    with pytest.raises(ValueError, match="8 bytes"):
        interpret.run(plan(_chain()), KERNELS, {"x": np.zeros(7, np.uint8)})


def test_placed_buffers_are_json_ready() -> None:
    row = Placed("a", 0, 4, 0, 1, "ram")
    assert row.to_json()["region"] == "ram"
