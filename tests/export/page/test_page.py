"""Report pages: what is on them, and that nothing in a record can break out of its text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgec.export.errors import InputError
from edgec.export.page.assemble import gather
from edgec.export.page.blocks import bars, section
from edgec.export.page.describe import page
from edgec.export.page.render import render

HOSTILE = "</title><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


@pytest.fixture
def bundle(int8_bundle: Path) -> Path:
    """An int8 bundle."""
    return int8_bundle


def measurement(name: str = "net") -> dict[str, Any]:
    latency = {"min_ms": 1.0, "median_ms": 2.5, "p90_ms": 3.0, "runs": 50, "samples_ms": [2.5]}
    return {
        "schema": "edgec.bench/1",
        "device": "local",
        "runtime": "onnxruntime",
        "model": name,
        "threads": 2,
        "environment_before": {"cpu": name, "load_1min": 0.5},
        "environment_after": {"cpu": name, "load_1min": 1.5},
        "results": [
            {
                "artifact": name,
                "latency": latency,
                "output_check": {"max_abs": 0.0, "relative": None},
                "layers": [{"name": name, "module": None, "ms": 0.25}],
            }
        ],
    }


class _Tags(HTMLParser):
    """Start tags and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_bundle_tells_everything(bundle: Path) -> None:
    content = page(gather([str(bundle)], None))
    (result,) = content["results"]
    titles = [s["title"] for s in result["sections"]]
    assert titles == [
        "Summary", "Artifacts", "Accuracy", "Latency", "Memory", "Size by layer", "Waterline",
        "Network", "Quantization", "Warnings", "Notes on the target", "Reproduce",
    ]  # fmt: skip
    memory = next(s for s in result["sections"] if s["title"] == "Memory")
    assert memory["blocks"][1]["svg"].startswith("<svg")
    water = next(s for s in result["sections"] if s["title"] == "Waterline")
    assert water["blocks"][0]["svg"].startswith("<svg")
    sizes = next(s for s in result["sections"] if s["title"] == "Size by layer")["blocks"][0]
    values = [row["value"] for row in sizes["rows"]]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
    json.dumps(content)
    text = _Tags(render(content)).text
    report = json.loads((bundle / "report.json").read_text("utf-8"))
    for artifact in report["artifacts"]:
        assert artifact["path"] in text
        assert f"{artifact['bytes']:,}" in text


def test_a_measurement_shows_latency_layers_and_conditions() -> None:
    text = _Tags(render(page([(measurement(), None, {})]))).text
    for expected in ("2.5 ms median", "min 1, p90 3, 50 runs", "0.25 ms", "load 1min", "2 thread"):
        assert expected in text
    slowed = _Tags(render(page([(measurement() | {"throttled": True}, None, {})]))).text
    assert "slowed down meanwhile" in slowed
    assert "yes" in slowed.split("slowed down meanwhile")[1][:20]


def test_prediction_and_measurement_stand_beside_each_other(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text("utf-8"))
    layers = [
        {"module": "stage.a", "name": "1", "kind": "1x1", "ms": 1.0},
        {"module": "stage.b", "name": "2", "kind": "1x1", "ms": 2.0},
        {"module": "head", "name": "3", "kind": "linear", "ms": 0.5},
    ]
    report["latency"]["predicted"] = {"artifact": "net", "line": "3.5 ms", "layers": layers}
    record = measurement() | {"model": report["model"]["name"]}
    record["results"][0]["layers"] = [
        {"name": "x", "module": "stage", "ms": 4.0},
        {"name": "y", "module": "head", "ms": 0.25},
        {"name": "z", "module": None, "ms": 9.0},  # nothing is predicted for it
    ]
    content = page([(record, None, {}), (report, None, {})])
    measured, exported = content["results"]
    beside = next(s for s in measured["sections"] if s["title"].startswith("Predicted beside"))
    assert [(r["label"], r["value"], r["note"]) for r in beside["blocks"][1]["rows"]] == [
        ("stage", 4.0, "measured"),
        ("", 3.0, "predicted"),
        ("head", 0.25, "measured"),
        ("", 0.5, "predicted"),
    ]
    latency = next(s for s in exported["sections"] if s["title"] == "Latency")
    assert [row["value"] for row in latency["blocks"][1]["rows"]] == [2.0, 1.0, 0.5]
    other = page([(record | {"model": "another"}, None, {}), (report, None, {})])
    assert not [s for s in other["results"][0]["sections"] if s["title"].startswith("Predicted")]


def test_names_stay_text() -> None:
    html = render(page([(measurement(HOSTILE), None, {})]))
    parsed = _Tags(html)
    assert {tag for tag, _ in parsed.tags} <= {
        "html", "head", "meta", "title", "style", "body", "article", "h1", "h2", "p", "section",
        "div", "table", "tr", "th", "td", "dl", "dt", "dd", "span", "small",
    }  # fmt: skip
    assert not [a for _, attrs in parsed.tags for a in attrs if a.startswith("on")]
    assert HOSTILE in parsed.text


def test_nothing_is_fetched(bundle: Path) -> None:
    html = render(page(gather([str(bundle)], None)))
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|<script""", html)
    assert "default-src 'none'" in html


def test_other_files_make_no_report() -> None:
    with pytest.raises(InputError, match="EC710"):
        page([({"schema": "edgec.plan/1"}, None, {})])


def test_bars_share_one_scale_and_sum_the_rest() -> None:
    block = bars("ms", [(f"layer {n}", float(10 - n), "") for n in range(10)], most=3)
    assert [row["share"] for row in block["rows"]][:3] == [35.71, 32.14, 28.57]
    assert block["rows"][-1]["label"] == "7 more"
    assert block["rows"][-1]["value"] == sum(range(1, 8))
    assert bars("ms", [("nothing", 0.0, "")])["rows"][0]["share"] == 0.0
    assert section("empty", bars("ms", [])) is None
