"""``edgec plan`` from the command line."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from edgec.profiles.memory.minimalloc_csv import read_csv
from edgec.targets import get_target

TABLE = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"

SMALL = """title = "a small board"
kind = "mcu"
formats = ["tflite"]
precisions = ["int8"]
default_precision = "int8"
int8_scheme = "ort-arm"
[runtime]
name = "tflm"
version = "2026.8"
opset = 20
source = "made up for this test"
[[memory]]
name = "sram"
kind = "ram"
bytes = 700
base = 0x20000000
source = "made up for this test"
[[memory]]
name = "flash"
kind = "flash"
bytes = 100000
source = "made up for this test"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_a_table_is_planned_and_written(main: Any, table: Path, tmp_path: Path) -> None:
    svg, csv = tmp_path / "a" / "map.svg", tmp_path / "plan.csv"
    code, out, _ = main("plan", "-m", str(table), "--svg", str(svg), "--csv", str(csv), "--json")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "edgec.plan/1"
    assert (document["peak"], document["lower_bound"], document["gap"]) == (12, 12, 0.0)
    assert document["proved"] is True
    assert {"solver", "seconds"} <= set(document)
    assert {"id", "offset", "size", "lower", "upper", "region"} <= set(document["buffers"][0])
    ET.parse(svg)
    problem, offsets = read_csv(csv)
    assert offsets == [b["offset"] for b in document["buffers"]]
    assert problem.peak(offsets) == 12


def test_a_network_is_planned_with_its_peak_step(main: Any, tiny_onnx: Path) -> None:
    peaks = []
    for extra in ((), ("--no-inplace",), ("--order", "best"), ("--no-io",)):
        code, out, _ = main("plan", "-m", str(tiny_onnx), "-t", "stm32f746", "--json", *extra)
        assert code == 0
        document = json.loads(out)
        assert document["proved"]
        assert all(r["fits"] for r in document["regions"])
        peaks.append(document["peak"])
    assert peaks[0] < peaks[1]
    assert peaks[2] <= peaks[0]
    assert peaks[3] <= peaks[0]
    assert not {b["kind"] for b in document["buffers"]} & {"input", "output"}
    code, out, _ = main("plan", "-m", str(tiny_onnx), "-t", "stm32f746", "--order", "best")
    assert code == 0
    assert "peak at step" in out
    assert "proved" in out
    assert "ram sram" in out
    assert "order:" in out


def test_wider_elements_need_more(main: Any, tiny_onnx: Path) -> None:
    def peak(precision: str) -> int:
        code, out, _ = main("plan", "-m", str(tiny_onnx), "--precision", precision, "--json",
                            "--no-inplace")  # fmt: skip
        assert code == 0
        found = json.loads(out)["peak"]
        assert isinstance(found, int)
        return found

    assert peak("fp32") == 2 * peak("fp16") == 4 * peak("int8")


def test_too_little_memory_is_a_bill_and_exit_5(main: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(SMALL)
    code, out, err = main("plan", "-m", str(tiny_onnx), "-t", str(board))
    assert code == 5
    assert "too much" in out
    assert "EC550" in err
    assert "ram sram" in err
    assert "peak at step" in err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("-m", "missing.csv"), 7, "EC750"),
        (("-m", "{table}", "--order", "worst"), 2, "EC206"),
        (("-m", "{table}", "--transposes", "maybe"), 2, "EC206"),
        (("-m", "{table}", "--precision", "int4"), 2, "EC206"),
        (("-m", "{table}", "--time-limit", "0"), 2, "EC250"),
        (("-m", "{table}", "--time-limit", "nan"), 2, "EC250"),
        (("-m", "{table}", "-t", "stm32f999"), 2, "EC201"),
        (("-m", "no_such_network"), 2, "EC220"),
    ],
)
def test_bad_arguments(
    main: Any, table: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    found, _, err = main("plan", *(a.format(table=table) for a in arguments))
    assert found == code
    assert word in err


def test_microcontrollers_have_memories_with_sources() -> None:
    for name, ram in (("stm32f746", 320 << 10), ("stm32h743", 512 << 10)):
        target = get_target(name)
        first = target.memory[0]
        assert (first.kind, first.bytes) == ("ram", ram)
        assert {m.kind for m in target.memory} == {"ram", "flash"}
        spans = sorted((m.base or 0, m.bytes) for m in target.memory)
        assert all(a + b <= c for (a, b), (c, _) in itertools.pairwise(spans))
        assert all("STMicroelectronics RM" in m.source for m in target.memory)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('kind = "ram"', 'kind = "rom"', "rom"),
        ("bytes = 700", "bytes = 0", "bytes = 0"),
        ("bytes = 700", 'bytes = "700"', "no whole number"),
        ("base = 0x20000000", "base = -1", "no whole number"),
        ("base = 0x20000000", "speed = 1", "speed"),
        ('name = "flash"', 'name = "sram"', "one name"),
        ('name = "flash"', 'name = " "', "without name"),
    ],
)
def test_broken_memories_are_refused(
    main: Any, table: Path, tmp_path: Path, old: str, new: str, word: str
) -> None:
    board = tmp_path / "board.toml"
    board.write_text(SMALL.replace(old, new))
    code, _, err = main("plan", "-m", str(table), "-t", str(board))
    assert code == 7
    assert "EC781" in err
    assert word in err
