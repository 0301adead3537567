"""Benchmarks say what data they miss, and keep the files of their modes apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(root: Path) -> Iterator[Callable[[str], ModuleType]]:
    """A script of benchmarks/ as a module; what it imported from there is forgotten afterwards."""
    folder = root / "benchmarks"
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield __import__
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def test_accuracy_of_c_without_images(script, monkeypatch, capsys) -> None:
    monkeypatch.delenv("EDGEC_BENCH_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["mcu_accuracy.py"])
    assert script("mcu_accuracy").main() == 0
    assert "skipped: EDGEC_BENCH_DATA with cifar10_dev.npz" in capsys.readouterr().err


def test_placements_without_images(script, tmp_path: Path, monkeypatch, capsys) -> None:
    module = script("trt_proxy")
    monkeypatch.delenv("EDGEC_BENCH_DATA", raising=False)
    monkeypatch.setattr(module, "proxy_python", lambda: "python")
    monkeypatch.chdir(tmp_path)
    assert module.main(["--placements"]) == 0
    assert "skipped: EDGEC_BENCH_DATA with cifar10_dev.npz" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_placements_leave_the_table_of_the_proxy(script, tmp_path: Path, monkeypatch) -> None:
    module = script("trt_proxy")
    (tmp_path / "cifar10_dev.npz").touch()
    monkeypatch.setenv("EDGEC_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(module, "proxy_python", lambda: "python")
    monkeypatch.setattr(module, "measure_placements", lambda model, archive: [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trt_proxy.json").write_text("the table", "utf-8")
    assert module.main(["--placements", "--models", "a"]) == 0
    assert (tmp_path / "trt_proxy.json").read_text("utf-8") == "the table"
    assert (tmp_path / "trt_placements.json").is_file()
