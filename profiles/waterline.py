"""The waterline view: where the time of a network must go, and how efficient each layer could be.

After Lavin, "On the Efficiency of Convolutional Neural Networks" (2024, arXiv:2404.03617): a
sequence of kernels takes at least Σ max(compute, memory) when each kernel is bound by the slower
of the two. Layers are drawn by operational intensity; the waterline is the machine's balance, MACs
per byte. Below it a layer is bound by memory, however good its kernel: the gap to the line is
efficiency that only fusion or other shapes can win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

from edgec.profiles.layers import Layer, StaticProfile

WIDTH, HEIGHT = 1000, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 46
COLOURS = {
    "3x3": "#4c78a8",
    "1x1": "#f58518",
    "conv": "#72b7b2",
    "depthwise": "#e45756",
    "grouped": "#b279a2",
    "linear": "#9d755d",
    "matmul": "#54a24b",
}
OTHER = "#999999"


@dataclass(frozen=True)
class Waterline:
    """The bound of a network on a machine.

    Attributes:
        balance: MACs that the machine computes while it moves one byte.
        balance_basis: where that number is from.
        compute: part of the bound that compute-bound layers take, between 0 and 1.
        efficiency: MACs of the network over what the machine could do in the bound's time.
    """

    balance: float
    balance_basis: str
    compute: float
    efficiency: float

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {
            "balance_macs_per_byte": round(self.balance, 3),
            "balance_basis": self.balance_basis,
            "compute_share": round(self.compute, 4),
            "efficiency": round(self.efficiency, 4),
        }


def waterline(profile: StaticProfile, balance: float, basis: str) -> Waterline:
    """The bound of a profile; time is counted in MACs at full rate.

    Args:
        profile: of the network.
        balance: MACs per byte, > 0.
        basis: where `balance` is from.
    """
    bound = [_time(layer, balance) for layer in profile.layers]
    total = sum(bound)
    compute = sum(
        time for time, layer in zip(bound, profile.layers, strict=True) if time <= layer.macs
    )
    return Waterline(
        balance,
        basis,
        compute / total if total else 0.0,
        profile.macs / total if total else 0.0,
    )


def own_balance(profile: StaticProfile) -> float:
    """The balance at which half of the network's MACs are in layers of higher intensity."""
    layers = sorted((x for x in profile.layers if x.macs), key=lambda x: x.intensity)
    passed = 0
    for layer in layers:
        passed += layer.macs
        if 2 * passed >= profile.macs:
            return max(layer.intensity, 1e-6)
    return 1.0


def waterline_svg(profile: StaticProfile, line: Waterline) -> str:
    """The picture as one SVG document without scripts, fonts or style sheets of its own.

    Columns are layers in their order, as wide as their time in the bound and as high as their
    intensity (logarithmic).
    """
    layers = [layer for layer in profile.layers if _time(layer, line.balance) > 0]
    top = max([line.balance, *(layer.intensity for layer in layers)], default=1.0) * 1.5
    low = min([line.balance, *(x.intensity for x in layers if x.intensity > 0)], default=0.1) / 2
    height = HEIGHT - TOP - BOTTOM

    def y(intensity: float) -> float:
        value = max(intensity, low)
        return TOP + height * (1 - log10(value / low) / max(log10(top / low), 1e-9))

    total = sum(_time(layer, line.balance) for layer in layers) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / total
    title = f"{profile.name}: {100 * line.efficiency:.0f} % efficient at most"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(_clean(title))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(_clean(title))}; '
        f"{100 * (1 - line.compute):.0f} % of the time below the waterline</text>",
        *_legend(layers),
    ]
    x = float(LEFT)
    base = HEIGHT - BOTTOM
    for layer in layers:
        width = _time(layer, line.balance) * scale
        high = y(layer.intensity)
        tip = (
            f"{layer.module or layer.name}: {layer.operator}, {layer.macs:,} MACs, "
            f"{layer.bytes:,} bytes, {layer.intensity:.2f} MACs per byte"
        )
        lines.append(
            f'<rect x="{x:.2f}" y="{high:.2f}" width="{width:.2f}" height="{base - high:.2f}" '
            f'fill="{COLOURS.get(layer.kind, OTHER)}" stroke="#fff" stroke-width="0.3">'
            f"<title>{escape(_clean(tip))}</title></rect>"
        )
        x += width
    level = y(line.balance)
    lines += [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.2f}" y2="{level:.2f}" '
        'stroke="#06c" stroke-width="1.5"/>',
        f'<text x="{WIDTH - RIGHT}" y="{level - 5:.2f}" text-anchor="end" fill="#06c">'
        f"waterline {line.balance:.3g} MACs per byte ({escape(_clean(line.balance_basis))})</text>",
        f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="#000"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "layers in order, as wide as their time at least</text>",
        *_ticks(low, top, y),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _time(layer: Layer, balance: float) -> float:
    return max(float(layer.macs), layer.bytes * balance)


def _legend(layers: Sequence[Layer]) -> list[str]:
    kinds = dict.fromkeys(x.kind if x.kind in COLOURS else "other" for x in layers)
    lines = []
    for index, kind in enumerate(kinds):
        x = LEFT + 110 * index
        lines.append(
            f'<rect x="{x}" y="30" width="10" height="10" fill="{COLOURS.get(kind, OTHER)}"/>'
            f'<text x="{x + 15}" y="39">{kind}</text>'
        )
    return lines


def _ticks(low: float, top: float, y: Any) -> list[str]:
    lines = []
    for power in range(-4, 7):
        value = 10.0**power
        if low <= value <= top:
            lines.append(
                f'<text x="{LEFT - 6}" y="{y(value) + 4:.2f}" text-anchor="end">{value:g}</text>'
            )
    lines.append(
        f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})">MACs per byte</text>'
    )
    return lines


def _clean(text: str) -> str:
    """Characters that XML 1.0 does not know are replaced; names come from model files."""
    return "".join(c if c.isprintable() else "�" for c in text)[:300]
