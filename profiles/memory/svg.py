"""The arena as a picture: time to the right, addresses upwards, one rectangle for each buffer.

Plain SVG without scripts, style sheets or fonts of its own; equal plans give equal files.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from html import escape

from edgec.profiles.memory.plan import Placed, Plan

WIDTH, HEIGHT = 1000, 480
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 46, 40
MOST = 4000
_HUES = 24


def plan_svg(plan: Plan) -> str:
    """The picture of a plan's fullest RAM region."""
    region = max((r for r in plan.regions if r.kind == "ram"), key=lambda r: r.peak)
    return arena_svg(
        f"{plan.program.name}: {region.name}",
        [b for b in plan.buffers if b.region == region.name],
        peak=region.peak,
        peak_step=plan.peak_step(),
        capacity=region.capacity,
        steps=[f"{s.kernel} {s.name} {s.module}".strip() for s, _ in plan.program.steps()],
    )


def arena_svg(
    title: str,
    buffers: Sequence[Placed],
    *,
    peak: int,
    peak_step: int,
    capacity: int | None = None,
    steps: Sequence[str] = (),
) -> str:
    """An SVG document of one region.

    Args:
        title: first line.
        buffers: of this region.
        peak: bytes of the arena.
        peak_step: step with most live bytes; marked.
        capacity: of the region; drawn as a line if the picture reaches it.
        steps: names of the steps, shown as tool tips of the time axis.
    """
    end = max((b.upper for b in buffers), default=1)
    top = max(peak, 1)
    if capacity is not None and capacity < 2 * top:
        top = max(top, capacity)
    sx = (WIDTH - LEFT - RIGHT) / end
    sy = (HEIGHT - TOP - BOTTOM) / top

    def x(time: float) -> float:
        return LEFT + time * sx

    def y(address: float) -> float:
        return HEIGHT - BOTTOM - address * sy

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(_clean(title))}</text>',
    ]
    width = f'width="{sx:.2f}" height="{HEIGHT - TOP - BOTTOM}"'
    lines.append(f'<rect x="{x(peak_step):.2f}" y="{TOP}" {width} fill="#fde2e2"/>')
    # with very many buffers the small ones are not visible anyway
    shown = sorted(buffers, key=lambda b: (-b.size * (b.upper - b.lower), b.id))[:MOST]
    for b in sorted(shown, key=lambda b: (b.lower, b.offset, b.id)):
        tip = f"{b.id}: {b.size:,} bytes at {b.offset:,}, steps {b.lower} to {b.upper - 1}"
        if b.module:
            tip += f", {b.module}"
        lines.append(
            f'<rect x="{x(b.lower):.2f}" y="{y(b.offset + b.size):.2f}" '
            f'width="{(b.upper - b.lower) * sx:.2f}" height="{b.size * sy:.2f}" '
            f'fill="{_colour(b.id)}" fill-opacity="0.8" stroke="#444" stroke-width="0.4">'
            f"<title>{escape(_clean(tip))}</title></rect>"
        )
    lines += _axes(end, top, x, y, steps, peak_step)
    lines.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(peak):.2f}" y2="{y(peak):.2f}" '
        'stroke="#b00" stroke-dasharray="6 3"/>'
    )
    lines.append(
        f'<text x="{WIDTH - RIGHT}" y="{y(peak) - 4:.2f}" text-anchor="end" fill="#b00">'
        f"peak {peak:,} bytes, step {peak_step}</text>"
    )
    if capacity is not None and capacity <= top:
        lines.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(capacity):.2f}" '
            f'y2="{y(capacity):.2f}" stroke="#06c"/>'
        )
        lines.append(
            f'<text x="{LEFT + 4}" y="{y(capacity) - 4:.2f}" fill="#06c">'
            f"capacity {capacity:,}</text>"
        )
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _axes(
    end: int, top: int, x: object, y: object, steps: Sequence[str], peak_step: int
) -> list[str]:
    assert callable(x)
    assert callable(y)
    base = HEIGHT - BOTTOM
    lines = [
        f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="#000"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>',
    ]
    for n in range(5):
        address = top * n // 4
        lines.append(
            f'<text x="{LEFT - 6}" y="{y(address) + 4:.2f}" text-anchor="end">{address:,}</text>'
        )
        time = (end - 1) * n // 4
        lines.append(
            f'<text x="{x(time + 0.5):.2f}" y="{base + 16}" text-anchor="middle">{time}</text>'
        )
    if peak_step < len(steps):
        name = escape(_clean(steps[peak_step]))
        lines.append(f'<text x="{LEFT}" y="36" fill="#b00">peak in {name}</text>')
    return lines


def _colour(id: str) -> str:
    hue = zlib.crc32(id.encode()) % _HUES * (360 // _HUES)
    return f"hsl({hue},55%,70%)"


def _clean(text: str) -> str:
    """Characters that XML 1.0 does not know are replaced; names come from model files."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)[:300]
