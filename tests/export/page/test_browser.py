"""The page in a real browser: it draws, fetches nothing, reports no error, and fits a phone."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgec.export.page.blocks import bars
from edgec.export.page.describe import page
from edgec.export.page.render import render

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.needs_tool,
    pytest.mark.skipif(not BROWSER, reason="no Chromium (apt install chromium)"),
]
# what the page looks like from inside, once it has been laid out at a phone's width
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="found"></pre>
<iframe id="page" style="width:390px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
document.getElementById("page").addEventListener("load", event => {{
  const inner = event.target.contentDocument, root = inner.documentElement;
  const visible = e => e.getClientRects().length > 0;
  document.getElementById("found").textContent = JSON.stringify({{
    width: root.scrollWidth, room: root.clientWidth,
    headings: [...inner.querySelectorAll("h2")].filter(visible).map(e => e.textContent),
    drawn: [...inner.querySelectorAll("svg")].every(e => e.getBoundingClientRect().height > 20),
  }});
}});
</script>"""


@pytest.fixture
def shown(export_page: dict, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(export_page), "utf-8")
    return path


@pytest.fixture
def export_page() -> dict:
    """A page with every kind of block, long names among them."""
    long = "stages.0.blocks.0." * 12
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 480"><rect width="9" '
        'height="9"/></svg>'
    )
    record = {
        "schema": "edgec.report/1",
        "edgec_version": "1",
        "headline": f"{long} for a board",
        "model": {"name": long},
        "target": {"name": "board", "title": "A board", "notes": [long]},
        "inputs": [{"name": long, "dtype": "float32", "shape": [1, 3, 8, 8]}],
        "outputs": [],
        "weights": {"kind": "random"},
        "graph": {
            "macs": 1, "parameters": 1, "nodes": 1, "nodes_before": 2, "operators": {long: 1},
            "activation_peak_bytes": 1,
        },
        "artifacts": [
            {"path": long, "precision": "fp32", "scheme": None, "bytes": 5, "status": "built",
             "why": None, "checks": {}},
        ],
        "latency": {
            "value_ms": None,
            "basis": "not measured",
            "predicted": {
                "artifact": long,
                "line": long,
                "layers": [{"module": long, "name": "a", "kind": "conv", "ms": 1.5}],
            },
        },
        "calibration": None,
        "warnings": [long],
    }  # fmt: skip
    drawing = {"kind": "picture", "svg": svg, "caption": long}
    drawn = {"arena": drawing, "waterline": drawing, "sizes": bars("bytes", [(long, 7.0, long)])}
    return page([(record, f"edgec export --model {long}", drawn)])


def run(path: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            f"--user-data-dir={home}", "--virtual-time-budget=3000", *options, path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip


def test_it_fits_a_phone_and_shows_every_section(
    shown: Path, export_page: dict, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=html.escape(shown.read_text("utf-8"))), "utf-8")
    dom = run(probe, tmp_path / "home", "--dump-dom").stdout
    found = json.loads(html.unescape(dom.split('<pre id="found">')[1].split("</pre>")[0]))
    assert found["width"] <= found["room"] <= 390
    assert found["headings"] == [s["title"] for s in export_page["results"][0]["sections"]]
    assert found["drawn"]


def test_it_fetches_nothing_and_reports_no_error(shown: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    done = run(
        shown, tmp_path / "home", "--dump-dom", "--enable-logging=stderr", f"--log-net-log={log}"
    )
    assert "CONSOLE" not in done.stderr
    assert not requests(log)


def test_a_request_would_be_seen(shown: Path, tmp_path: Path) -> None:
    log, address = tmp_path / "net.json", "http://127.0.0.1:9/pixel.png"
    # without the page's policy, which would stop the request before it is made
    text = shown.read_text("utf-8").replace("Content-Security-Policy", "ignored")
    shown.write_text(text.replace("</body>", f'<img src="{address}" alt=""></body>'), "utf-8")
    run(shown, tmp_path / "home", "--dump-dom", f"--log-net-log={log}")
    assert requests(log) == {address}


def requests(log: Path) -> set[str]:
    """Addresses that a page, not the browser on its own account, asked for over the network."""
    started = [
        event["params"]
        for event in json.loads(log.read_text("utf-8"))["events"]
        if isinstance(event.get("params"), dict) and "initiator" in event["params"]
    ]
    return {
        params["url"]
        for params in started
        if params["initiator"] != "not an origin" and params["url"].startswith("http")
    }
