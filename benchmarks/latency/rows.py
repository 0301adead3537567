"""Published measurements as boards x networks, with the layers of each network.

Reads ``published_latencies.csv`` and ``ncnn_layers.json`` of the folder that ``EDGEC_BENCH_DATA``
names; rows of your own go into a CSV with the same columns.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hub
import networks
import numpy as np
import st_zoo
from numpy.typing import NDArray

from edgec.profiles.layers import EXPONENTIAL, Kind, Layer

KINDS: dict[str, Kind] = {
    "pw": "1x1",
    "dw": "depthwise",
    "gconv": "grouped",
    "bmm": "matmul",
    "attention": "matmul",
    "Softmax": "softmax",
    "LRN": "norm",
    "_softmax": "softmax",
    "elementwise": "elementwise",
    "pool": "pool",
}
REFERENCE_MHZ = 1000.0
"""Clock that constants are for where the table tells one, and that stands for an unknown one."""
WITHOUT_TIME = frozenset(
    "Flatten Reshape PriorBox DetectionOutput Yolov3DetectionOutput YoloDetectionOutput Crop "
    "clone _to_copy empty arange".split()
)
"""Operators that are taken to need no time: views, fills, and the boxes behind a detector."""


@dataclass(frozen=True)
class Board:
    """One configuration that ran a list of networks.

    Attributes:
        device: name in the table.
        chip: what boards with the same processor share; folds keep these together.
        core, clock_mhz, threads: what executed.
    """

    device: str
    chip: str
    core: str | None
    clock_mhz: float | None
    threads: int
    mode: str = ""


@dataclass
class Table:
    """Milliseconds by board and network, NaN where nothing was published.

    Networks of one `family` have an architecture in common; those that are `alike` differ in input
    or classifier only. Networks that a mapping does not name are on their own.
    """

    boards: list[Board]
    networks: list[str]
    layers: dict[str, list[Layer]]
    ms: NDArray[np.float64]
    family: dict[str, str] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)


def data_folder() -> Path:
    """The folder of measurements.

    Raises:
        SystemExit: it is not named or not there.
    """
    folder = Path(os.environ.get("EDGEC_BENCH_DATA", ""))
    if not os.environ.get("EDGEC_BENCH_DATA") or not folder.is_dir():
        sys.exit("EDGEC_BENCH_DATA does not name a folder with published_latencies.csv")
    return folder


def tables() -> list[Path]:
    """``published_latencies.csv``, and a table of one's own that ``EDGEC_LATENCY_ROWS`` names."""
    own = os.environ.get("EDGEC_LATENCY_ROWS")
    return [data_folder() / "published_latencies.csv", *([Path(own)] if own else [])]


def read_rows() -> list[dict[str, str]]:
    """All rows of the tables."""
    rows = []
    for path in tables():
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    return rows


def data_hash() -> str:
    """sha256 over the tables that fits read."""
    digest = hashlib.sha256()
    for path in (*tables(), data_folder() / "ncnn_layers.json"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def to_layers(facts: Iterable[Mapping[str, Any]]) -> list[Layer]:
    """Layers of recorded facts; operators that take no time are left out."""
    found = []
    for index, row in enumerate(facts):
        if row["layer"] in WITHOUT_TIME:
            continue
        kind: Kind = KINDS.get(row["kind"], "move")
        alone = row["layer"].lower() in EXPONENTIAL
        groups = 1
        if row["kind"] == "conv":
            kind = "3x3" if row["kernel"] == 3 else "conv"
        elif row["kind"] == "fc":
            kind = "linear" if row["out_hw"] <= 1 or not row["in_ch"] else "1x1"
        elif row["kind"] == "gconv":
            taps = row["kernel"] ** 2
            per_group = row["macs"] / max(row["out_elems"] * taps, 1)
            groups = max(1, round(row["in_ch"] / per_group)) if per_group else 1
        found.append(
            Layer(
                name=f"{index}",
                operator=row["layer"],
                kind=kind,
                macs=row["macs"],
                weights=row["weights"],
                parameters=row["weights"],
                in_elems=row["in_elems"],
                out_elems=row["out_elems"],
                kernel=row["kernel"] or int(kind == "1x1"),
                stride=row["stride"],
                in_ch=row["in_ch"],
                out_ch=row["out_ch"],
                out_hw=row["out_hw"],
                groups=groups,
                functions=row.get("functions", row["out_elems"] if alone else 0),
                joined=row.get("joined", 0),
            )
        )
    return found


CORE = re.compile(
    r"(?:(?:Cortex[- ‑]?|Core )(A\d+(?:AE)?|X\d)\b"
    r"|(Apple A\d+|Kyro\d*|Carmel|Denver2|Zen\d?|Oryon|GS464\w|LA\d64|FTC\d+))"
    r"(?:\s*\(ARM\w+(?:-A)?\))?[^+;)]*?([\d.]+)\s*(GHz|Ghz|MHz)"
)
CHIP = re.compile(
    r"RK3\d{3}|BCM\d+|Snapdragon \w+ ?\w*|Kirin \d+|Kun[Pp]eng 920|Loongson \w+|FT-2000\S*|"
    r"Jetson \w+ ?\w*|Xeon Phi|D64\w+ v\d|Ryzen \w+ ?\w*|H616|T527|A311D",
    re.IGNORECASE,
)


def cores_of(text: str) -> list[tuple[str, float]]:
    """Cores and their MHz in a description, the big ones first as published."""
    found = []
    for arm, other, clock, unit in CORE.findall(text):
        name = f"Cortex-{arm}" if arm else other
        found.append((name, float(clock) * (1.0 if unit == "MHz" else 1000.0)))
    return found


def chip_of(text: str) -> str:
    """What identifies the processor; the whole text where nothing is recognised."""
    match = CHIP.search(text)
    return (match[0] if match else text.split("(")[0]).upper().replace(" ", "").rstrip("S")


def ncnn_table(precision: str) -> Table:
    """CPU rows of ncnn's own benchmark, fastest of the loops."""
    facts = json.loads((data_folder() / "ncnn_layers.json").read_text("utf-8"))
    seen: dict[Board, dict[str, float]] = {}
    for row in read_rows():
        if row["runtime"] != "ncnn-cpu" or not row["precision"].startswith(precision):
            continue
        model = row["model"].removesuffix("-int8")
        model = model if model in facts else model.replace("-", "_")
        if model not in facts:
            continue
        notes = dict(part.split("=", 1) for part in row["notes"].split(";") if "=" in part)
        cores = cores_of(row["soc_core"])
        little = notes.get("powersave") == "1"
        core, clock = (cores[-1] if little else cores[0]) if cores else (None, None)
        board = Board(
            row["device"],
            chip_of(row["soc_core"] or row["device"]),
            core,
            clock,
            int(row["threads"]),
            f"{notes.get('run')}/{notes.get('powersave')}/{notes.get('sub')}",
        )
        latency = float(row["latency_min_ms"] or row["latency_ms"])
        times = seen.setdefault(board, {})
        times[model] = min(latency, times.get(model, math.inf))
    return _table(seen, {name: to_layers(rows) for name, rows in facts.items()})


STM32_ZOO_MHZ = {"STM32H747I-DISCO": 400.0, "STM32F769I-DISCO": 216.0}
"""Clocks of the STM32 model zoo's tables, MHz."""


def cortex_m_table() -> Table:
    """Int8 rows of X-CUBE-AI on Cortex-M7, from the STM32 model zoo.

    ST's four rows of MLPerf Tiny on a Cortex-M4 are too few and too different to be tested.
    """
    seen: dict[Board, dict[str, float]] = {}
    layers: dict[str, list[Layer]] = {}
    family = {}
    for row in read_rows():
        if row["device"] not in STM32_ZOO_MHZ or not row["latency_ms"]:
            continue
        name, count = st_zoo.key_of(row, 5)
        facts = networks.named(row["model"], row["input"], count)
        if facts is None:
            continue
        layers[name] = to_layers(facts)
        family[name] = re.sub(r"(_fft|_tfs|_[\d.]+)+$", "", row["model"])
        device = row["device"]
        board = Board(device, device, "Cortex-M7", STM32_ZOO_MHZ[device], 1, row["runtime"])
        seen.setdefault(board, {})[name] = float(row["latency_ms"])
    table = _table(seen, layers)
    table.family = family
    return table


def x86_table() -> Table:
    """Rows of timm under torch.compile on x86, with layers that ``torch_layers.py`` counted.

    Empty where ``timm_layers.json`` is not in the data folder or where ``EDGEC_TIMM_LAYERS`` says.
    """
    facts = timm_layers()
    seen: dict[Board, dict[str, float]] = {}
    for row in read_rows():
        key = f"{row['model']}@{row['input']}"
        if "pytorch-image-models" in row["source"] and key in facts:
            board = Board(row["device"], row["device"], "x86-64", None, 0, row["runtime"])
            seen.setdefault(board, {})[key] = float(row["latency_ms"])
    layers = {name: torch_to_layers(rows) for name, rows in facts.items()}
    table = _table(seen, layers)
    table.family = {
        name: re.split(r"[_\d@]", name.removeprefix("tf_"))[0] for name in table.networks
    }
    return table


HUB_RUNTIME = "TFLite (QNN delegate)"


def hub_table(precision: str) -> Table:
    """Rows of Qualcomm AI Hub: its TensorFlow Lite files on the NPU of phones and boards.

    Only runs that were on the NPU from the first to the last layer. Layers are those of timm's
    definitions; empty where ``timm_layers.json`` is not there.
    """
    facts = timm_layers()
    rows = {"fp32": "float", "int8": "w8a8"}
    seen: dict[Board, dict[str, float]] = {}
    for row in read_rows():
        if (row["runtime"], row["precision"]) != (HUB_RUNTIME, rows[precision]):
            continue
        if hub.key_of(row["model"]) not in facts or row["gpu_layers"] + row["cpu_layers"] != "00":
            continue
        chip = row["soc_core"] or row["device"]
        core = hub.CHIPS.get(row["device"])
        board = Board(row["device"], chip, core, None if core is None else REFERENCE_MHZ, 1)
        seen.setdefault(board, {})[row["model"]] = float(row["latency_ms"])
    layers = {
        n: torch_to_layers(facts[key]) for n in hub.NETWORKS if (key := hub.key_of(n)) in facts
    }
    table = _table(seen, layers)
    table.family = {name: hub.FAMILIES.get(name, name) for name in table.networks}
    return table


NEURAL_ART_RUNTIME = "ST Edge AI Core"
NEURAL_ART_BOARD = "STM32N6570-DK"


def neural_art_table() -> Table:
    """Int8 rows of the STM32 model zoo on the NPU of an STM32N6.

    Layers are those of `networks` or of ``st_layers.py``; empty where there are no rows.
    """
    facts = _counted("EDGEC_ST_LAYERS", "st_layers.json")
    seen: dict[Board, dict[str, float]] = {}
    layers: dict[str, list[Layer]] = {}
    family, alike = {}, {}
    board = Board(NEURAL_ART_BOARD, "STM32N6", "Neural-ART", REFERENCE_MHZ, 1)
    for row in read_rows():
        model = row["model"]
        if "N6570" not in row["device"] or not row["latency_ms"]:
            continue
        name, count = st_zoo.key_of(row, 1000)
        rows = networks.named(model, row["input"], count)
        if rows is None and name not in facts:
            continue
        layers[name] = to_layers(rows) if rows else torch_to_layers(facts[name], apart=True)
        alike[name] = st_zoo.alike(model)
        family[name] = alike[name].split()[0]
        times = seen.setdefault(board, {})
        times[name] = min(float(row["latency_ms"]), times.get(name, math.inf))
    table = _table(seen, layers)
    table.family, table.alike = family, alike
    return table


def timm_layers() -> dict[str, Any]:
    """Layer facts that ``torch_layers.py`` counted, empty where there are none."""
    return _counted("EDGEC_TIMM_LAYERS", "timm_layers.json")


def _counted(variable: str, name: str) -> dict[str, Any]:
    path = Path(os.environ.get(variable, data_folder() / name))
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


JOINED = frozenset(
    "add add_ mul mul_ sub div relu relu_ hardtanh hardtanh_ silu silu_ gelu sigmoid hardswish "
    "hardswish_ hardsigmoid batch_norm _native_batch_norm_legit_no_training native_batch_norm "
    "leaky_relu leaky_relu_ tanh pow rsqrt exp clamp clamp_min neg copy_ native_dropout".split()
)
"""Functions of single elements, which torch.compile computes where their input is made."""
NORMS = frozenset("native_layer_norm native_group_norm var_mean linalg_vector_norm".split())


def torch_to_layers(facts: Iterable[Mapping[str, Any]], *, apart: bool = False) -> list[Layer]:
    """Layers as a compiler fuses them: functions of single elements join what is before them.

    Args:
        facts: rows of ``torch_layers.py``.
        apart: functions of two tensors do not join, and copies that transpose count.
    """
    kept: list[dict[str, Any]] = []
    last = 0  # elements that the latest joined function writes
    for row in facts:
        name = row["layer"]
        functions = row["out_elems"] if name.rstrip("_") in EXPONENTIAL else 0
        two = name in ("add", "add_", "mul") and row["in_elems"] > row["out_elems"]
        if name not in JOINED or (apart and two):
            turned = apart and name == "clone"
            name = "transpose" if turned else name
            kept.append({**row, "layer": name, "functions": functions, "joined": 0})
        elif kept:
            before = kept[-1]
            before["functions"] += functions
            # one pass over all that joined: what enters it, and the last result
            more = row["in_elems"] - row["out_elems"]
            entering = max(more, 0) - last if before["joined"] else row["in_elems"]
            last = row["out_elems"]
            before["joined"] += entering + last
    return [
        replace(layer, kind="norm") if layer.operator in NORMS else layer
        for layer in to_layers(kept)
    ]


def _table(seen: Mapping[Board, Mapping[str, float]], layers: Mapping[str, list[Layer]]) -> Table:
    names = sorted({name for times in seen.values() for name in times})
    rows = [[times.get(name, np.nan) for name in names] for times in seen.values()]
    ms = np.array(rows).reshape(len(seen), len(names))
    return Table(list(seen), names, {name: layers[name] for name in names}, ms)
