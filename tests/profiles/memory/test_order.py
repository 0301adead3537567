"""Orders: the exact search against all orders, and programs that are reordered."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from edgec.profiles.memory.liveness import lifetimes
from edgec.profiles.memory.order import beam, windows
from edgec.profiles.memory.order.best import best_order
from edgec.profiles.memory.order.exact import TooLarge, search, segments
from edgec.profiles.memory.order.graph import OrderGraph, bits, order_graph, reorder
from edgec.profiles.memory.program import Buffer, Overlap, Program, Step
from edgec.profiles.memory.validate import validate


def random_program(seed: int, count: int) -> Program:
    """A network of random steps, each with one output and one to three inputs."""
    draw = random.Random(seed)
    tensors = [Buffer("x", draw.randrange(1, 30), kind="input")]
    scratch = []
    steps = []
    for n in range(count):
        sources = draw.sample(tensors, min(len(tensors), draw.choice([1, 1, 2, 3])))
        out = Buffer(f"t{n}", draw.randrange(1, 30))
        used: tuple[str, ...] = ()
        if draw.random() < 0.2:
            scratch.append(Buffer(f"s{n}", draw.randrange(1, 9), kind="scratch"))
            used = (f"s{n}",)
        overlaps: tuple[Overlap, ...] = ()
        if draw.random() < 0.4:
            overlaps = (Overlap(out.id, sources[0].id, draw.randrange(out.size + 1)),)
        tensors.append(out)
        steps.append(Step("k", tuple(s.id for s in sources), (out.id,), used, overlaps=overlaps))
    return Program(f"random {seed}", (*tensors, *scratch), tuple(steps))


def all_orders(graph: OrderGraph, done: int = 0) -> Iterator[tuple[int, ...]]:
    """Every valid order."""
    ready = [
        n for n, op in enumerate(graph.operations) if not done >> n & 1 and not op.needs & ~done
    ]
    if not ready:
        yield ()
    for n in ready:
        for rest in all_orders(graph, done | 1 << n):
            yield (n, *rest)


def test_the_exact_search_finds_the_best_of_all_orders() -> None:
    better = 0
    for seed in range(80):
        program = random_program(seed, 7)
        validate(program)
        graph = order_graph(program)
        found = best_order(graph)
        optimum = min(graph.peak(order) for order in all_orders(graph))
        assert found.peak == graph.peak(found.order) == optimum, seed
        assert found.lower_bound <= found.peak <= found.given_peak
        assert sorted(found.order) == list(range(len(graph.operations)))
        better += found.peak < found.given_peak
    assert better > 10


def test_a_reordered_program_is_valid_and_has_the_peak_that_was_promised() -> None:
    for seed in range(30):
        program = random_program(seed, 9)
        graph = order_graph(program, overlaps=False)
        found = best_order(graph)
        other = reorder(program, found.order)
        validate(other)
        lives = lifetimes(other)
        sizes = {b.id: b.size for b in other.buffers}
        live = max(
            sum(sizes[i] for i, life in lives.items() if life.lower <= t < life.upper)
            for t in range(len(other.body))
        )
        # a result that nothing reads dies at once
        assert live == found.peak


def test_cuts_separate_what_runs_before_from_what_runs_after() -> None:
    program = Program(
        "two diamonds",
        (Buffer("x", 1, kind="input"), *(Buffer(i, 1) for i in "abcdefg")),
        (
            Step("k", ("x",), ("a",)),
            Step("k", ("x",), ("b",)),
            Step("k", ("a", "b"), ("c",)),
            Step("k", ("c",), ("d",)),
            Step("k", ("c",), ("e",)),
            Step("k", ("d", "e"), ("f",)),
        ),
    )
    graph = order_graph(program)
    assert [bits(s.todo) for s in segments(graph)] == [[0, 1, 2], [3, 4, 5]]


def test_a_budget_that_is_too_small_says_what_is_needed() -> None:
    program = random_program(4, 8)
    graph = order_graph(program)
    part = segments(graph)[-1]
    order, needed = search(graph, part, 0, most_sets=1000, deadline=time.monotonic() + 9)
    assert order is None
    assert needed > 0
    with pytest.raises(TooLarge):
        search(graph, part, 1 << 40, most_sets=0, deadline=0.0)


def test_the_beam_gives_valid_orders_or_none() -> None:
    found = 0
    for seed in range(40):
        graph = order_graph(random_program(seed, 10))
        for part in segments(graph):
            given = graph.peak(bits(part.todo), part.done, part.live)
            order = beam.search(graph, part, given, width=50, deadline=time.monotonic() + 9)
            if order is not None:
                assert graph.peak(order, part.done, part.live) < given
                found += 1
    assert found > 5


def cells(count: int, branches: int = 5) -> Program:
    """As NASNet: each cell reads the two before it, five sums of two chains of three steps."""
    tensors = [Buffer("c0", 40, kind="input"), Buffer("c1", 40, kind="input")]
    steps = []
    for cell in range(2, count + 2):
        sums = []
        for branch in range(branches):
            ends = []
            for side in range(2):
                last = f"c{cell - 1 - (branch + side) % 2}"
                for depth, size in enumerate((40, 8 + 2 * branch, 8)):
                    name = f"{cell}.{branch}.{side}.{depth}"
                    tensors.append(Buffer(name, size))
                    steps.append(Step("k", (last,), (name,)))
                    last = name
                ends.append(last)
            sums.append(f"{cell}.{branch}")
            tensors.append(Buffer(sums[-1], 8))
            steps.append(Step("k", tuple(ends), (sums[-1],)))
        tensors.append(Buffer(f"c{cell}", 40))
        steps.append(Step("k", tuple(sums), (f"c{cell}",)))
    return Program("cells", tuple(tensors), tuple(steps))


def breadth_first(program: Program) -> Program:
    """In the order of the distance from the inputs, which keeps everything at once."""
    depth: dict[str, int] = {}
    for step in program.body:
        assert isinstance(step, Step)
        depth[step.outputs[0]] = 1 + max(depth.get(i, 0) for i in step.inputs)
    steps = [s for s in program.body if isinstance(s, Step)]
    order = sorted(range(len(steps)), key=lambda n: (depth[steps[n].outputs[0]], n))
    return reorder(program, order)


def test_one_segment_of_hundreds_of_steps() -> None:
    graph = order_graph(breadth_first(cells(8)), overlaps=False)
    assert max(len(bits(s.todo)) for s in segments(graph)) > 250
    found = best_order(graph, time_limit=5)
    assert found.given_peak == 640
    assert found.lower_bound <= found.peak <= 160
    assert found.peak == graph.peak(found.order)


def test_windows_only_make_it_better() -> None:
    better = 0
    for seed in range(40):
        graph = order_graph(random_program(seed, 12))
        for part in segments(graph):
            order = bits(part.todo)
            given = graph.peak(order, part.done, part.live)
            found, peak = windows.improve(graph, part, order, 0, time.monotonic() + 9)
            assert sorted(found) == order
            assert graph.peak(found, part.done, part.live) == peak <= given
            late, same = windows.improve(graph, part, order, 0, 0.0)
            assert (late, same) == (order, given)
            better += peak < given
    assert better > 5


def test_without_time_the_given_order_stays() -> None:
    graph = order_graph(random_program(11, 10))
    found = best_order(graph, time_limit=0.0)
    assert found.peak <= found.given_peak


def test_orders_that_break_dependencies_are_refused() -> None:
    graph = order_graph(random_program(1, 4))
    order = list(range(4))
    last = max(n for n, op in enumerate(graph.operations) if op.needs)
    with pytest.raises(ValueError, match="too early"):
        graph.peak([last, *(n for n in order if n != last)])


def test_parts_of_one_buffer_may_be_written_in_any_order() -> None:
    program = Program(
        "concatenation",
        (
            Buffer("x", 4, kind="input"),
            Buffer("both", 8, kind="output"),
            Buffer("l", 4, parent="both"),
            Buffer("r", 4, parent="both", start=4),
            Buffer("y", 8, kind="output"),
        ),
        (
            Step("k", ("x",), ("l",)),
            Step("k", ("x",), ("r",)),
            Step("k", ("both",), ("y",)),
        ),
    )
    graph = order_graph(program)
    assert [op.needs for op in graph.operations] == [0, 0, 0b11]
