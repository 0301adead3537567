"""Target files: every number has a source, and broken files are refused with a reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edgec.export.errors import InputError, UsageError
from edgec.targets import get_target, list_targets
from edgec.targets.registry import target_toml

SHIPPED = list_targets()
UNITS = ("_bytes", "_mhz", "_gb_s", "_sm", "_cores", "_bytes_per_core", "_tops")


def test_the_promised_targets_are_there() -> None:
    assert {
        "jetson-orin-nano-jp6.2",
        "jetson-nano-jp4.6",
        "raspberry-pi-5",
        "raspberry-pi-4",
        "generic-x86-64",
        "stm32l4r5",
        "stm32u575",
        "nrf52840",
        "rp2040",
        "rp2350",
        "esp32-s3",
        "cortex-m55",
    } <= set(SHIPPED)
    assert get_target("jetson").name == "jetson-orin-nano-jp6.2"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_fact_has_a_source_and_a_unit(name: str) -> None:
    target = get_target(name)
    assert len(target.runtime.source) > 10
    for key, fact in target.facts.items():
        assert len(fact.source) > 10, key
        if isinstance(fact.value, (int, float)) and not isinstance(fact.value, bool):
            assert key.endswith(UNITS)
            assert fact.value > 0
    assert target.fact("no such fact") is None


@pytest.mark.parametrize("name", SHIPPED)
def test_memories_do_not_overlap(name: str) -> None:
    placed = sorted((m.base, m.bytes) for m in get_target(name).memory if m.base is not None)
    for (first, size), (second, _) in itertools.pairwise(placed):
        assert first + size <= second


def test_aliases_are_unique() -> None:
    aliases = [a for name in SHIPPED for a in get_target(name).aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(SHIPPED)


def test_int8_has_a_scheme_exactly_where_it_is_executed() -> None:
    from edgec.export.quantize.scheme import get_scheme

    for name in SHIPPED:
        target = get_target(name)
        assert (target.int8_scheme is not None) == ("int8" in target.precisions)
        if target.int8_scheme:
            get_scheme(target.int8_scheme)


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(UsageError) as caught:
        get_target("jetsn")
    assert "jetson" in (caught.value.fix or "")


def test_a_shipped_file_works_as_a_template(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(target_toml("raspberry-pi-5"))
    mine = get_target(str(path))
    assert mine.name == "mine"
    assert mine.facts == get_target("raspberry-pi-5").facts


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('kind = "cpu"', 'kind = "toaster"', "toaster"),
        ('title = "Raspberry Pi 5"', "", "title"),
        ('title = "Raspberry Pi 5"', "title = 5", "title"),
        ('default_precision = "fp32"', 'default_precision = "fp16"', "fp16"),
        ('formats = ["onnx", "tflite"]', 'formats = ["exe"]', "exe"),
        ('int8_scheme = "ort-arm"', 'int8_scheme = "best"', "best"),
        ("[facts]", "[facts]\nx = 3", "'x'"),
        ("[facts]", '[facts]\nx = { value = 3, source = " " }', "no source"),
        ('kind = "cpu"', 'kind = "cpu"\ncolour = "red"', "colour"),
        ("opset = 20", "", "opset"),
        ("[runtime]", "[runtime", "cannot read"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    text = target_toml("raspberry-pi-5")
    assert old in text
    path = tmp_path / "broken.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        get_target(str(path))
    assert word in str(caught.value)
    assert "broken.toml" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the target file"):
        get_target(str(tmp_path / "none.toml"))
