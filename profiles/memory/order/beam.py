"""Order search that keeps the most promising sets only, where the exact one is too large."""

from __future__ import annotations

import time

from edgec.profiles.memory.order.exact import Segment
from edgec.profiles.memory.order.graph import OrderGraph, bits


def search(
    graph: OrderGraph, segment: Segment, incumbent: int, *, width: int, deadline: float
) -> list[int] | None:
    """An order with a peak under `incumbent`, or None when none was found.

    Of the sets of equal size the `width` with the lowest peak so far, then with the fewest live
    bytes, go on.
    """
    layer: dict[int, tuple[int, int, int, list[int]]] = {
        0: (0, graph.bytes_of(segment.live), segment.live, [])
    }
    for _ in range(segment.todo.bit_count()):
        following: dict[int, tuple[int, int, int, list[int]]] = {}
        for ran, (peak, bytes_, live, order) in layer.items():
            done = segment.done | ran
            for n in bits(segment.todo & ~ran):
                if graph.operations[n].needs & ~done:
                    continue
                need, then, left = graph.run(done, live, bytes_, n)
                worst = max(peak, need)
                key = ran | 1 << n
                if worst < incumbent and (key not in following or worst < following[key][0]):
                    following[key] = (worst, left, then, [*order, n])
        if time.monotonic() > deadline or not following:
            return None
        best = sorted(following.items(), key=lambda e: (e[1][0], e[1][1], e[0]))[:width]
        layer = dict(best)
    return min(layer.values(), key=lambda e: (e[0], e[1]))[3]
