"""The arena map: well-formed, deterministic, harmless."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from edgec.profiles.memory.plan import Placed
from edgec.profiles.memory.svg import arena_svg

BUFFERS = [
    Placed("a<script>alert(1)</script>", 0, 10, 0, 2, "ram"),
    Placed('b"&\x00\x1b', 10, 5, 1, 3, "ram", module="stem.0"),
]


def test_names_are_escaped_and_the_peak_is_marked() -> None:
    text = arena_svg("net <1>", BUFFERS, peak=15, peak_step=1, capacity=20, steps=["a", "conv <b>"])
    root = ET.fromstring(text)
    tags = {e.tag.rsplit("}")[-1] for e in root.iter()}
    assert "script" not in tags
    assert "peak 15 bytes, step 1" in text
    assert "peak in conv &lt;b&gt;" in text
    assert "capacity 20" in text
    titles = [e.text or "" for e in root.iter() if e.tag.endswith("title")]
    assert any("stem.0" in t for t in titles)


def test_equal_plans_give_equal_pictures() -> None:
    first = arena_svg("n", BUFFERS, peak=15, peak_step=1)
    assert first == arena_svg("n", list(reversed(BUFFERS)), peak=15, peak_step=1)
    assert "capacity" not in arena_svg("n", BUFFERS, peak=15, peak_step=1, capacity=1000)


def test_an_empty_arena_has_a_picture() -> None:
    ET.fromstring(arena_svg("nothing", [], peak=0, peak_step=0))
