"""The waterline view: bound and efficiency by hand, and a picture that XML readers take."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from edgec.profiles.layers import Layer, StaticProfile
from edgec.profiles.waterline import own_balance, waterline, waterline_svg

LAYERS = (
    Layer("dense", "Conv", "3x3", "a.<b>", macs=1000, in_bytes=50, out_bytes=50),
    Layer("thin", "Conv", "depthwise", "c", macs=100, in_bytes=50, out_bytes=50),
    Layer("copy", "Concat", "move", "d", in_bytes=50, out_bytes=50),
)
PROFILE = StaticProfile("net & co", LAYERS, 100, "by hand", "fp32")


def test_time_is_that_of_the_slower_resource() -> None:
    line = waterline(PROFILE, 5.0, "by hand")
    # 1000 MACs against 100 bytes of 5 MACs each; 500 and 500 for the other two
    assert line.efficiency == pytest.approx(1100 / 2000)
    assert line.compute == pytest.approx(0.5)


def test_a_machine_without_bandwidth_limit_is_fully_efficient() -> None:
    assert waterline(PROFILE, 1e-9, "by hand").efficiency == pytest.approx(1.0)


def test_the_own_balance_splits_the_macs() -> None:
    assert own_balance(PROFILE) == LAYERS[0].intensity
    assert own_balance(StaticProfile("empty", (), 0, "by hand", "fp32")) == 1.0


def test_the_picture_is_self_contained_xml() -> None:
    svg = waterline_svg(PROFILE, waterline(PROFILE, 5.0, "by hand"))
    root = ET.fromstring(svg)
    texts = " ".join(element.text or "" for element in root.iter())
    assert "a.<b>: Conv, 1,000 MACs, 100 bytes" in texts
    assert "waterline 5 MACs per byte" in texts
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if len(e)]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)


def test_an_empty_network_has_a_picture() -> None:
    empty = StaticProfile("empty", (), 0, "by hand", "fp32")
    ET.fromstring(waterline_svg(empty, waterline(empty, 1.0, "by hand")))
