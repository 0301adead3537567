"""Networks from .pt2 archives and Python files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgec.export.capture import from_exported_program, from_factory
from edgec.export.errors import InputError, UsageError


@pytest.fixture
def archive(net: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 8, 8),)), path)
    return path


@pytest.fixture
def edited(archive: Path) -> Callable[..., Path]:
    """The archive with one member replaced or added."""

    def edit(member: str, change: Callable[[bytes], bytes]) -> Path:
        target = archive.with_name("edited.pt2")
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
            names = old.namelist()
            prefix = names[0].partition("/")[0]
            for name in names:
                data = old.read(name)
                new.writestr(name, change(data) if name.endswith(member) else data)
            if not any(name.endswith(member) for name in names):
                new.writestr(f"{prefix}/{member}", change(b""))
        return target

    return edit


def test_program_is_captured(archive: Path) -> None:
    model = from_exported_program(archive)
    assert [v.name for v in model.graph.inputs] == ["input"]
    assert [v.name for v in model.graph.outputs] == ["output"]


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def hostile_pickle(_: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save((Hostile(),), buffer)
    return buffer.getvalue()


def foreign_operator(data: bytes) -> bytes:
    program = json.loads(data)
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"
    return json.dumps(program).encode()


def expression(data: bytes) -> bytes:
    program = json.loads(data)
    program["graph_module"]["graph"]["nodes"][0]["x"] = {"expr_str": "__import__('os')"}
    return json.dumps(program).encode()


def guards(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "guards_code": ["os.mkdir('executed')"]}).encode()


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("sample_inputs/model.pt", hostile_pickle),
        ("models/model.json", foreign_operator),
        ("models/model.json", expression),
        ("models/model.json", guards),
        ("data/aotinductor/model/x.so", lambda _: b"\x7fELF"),
        ("data/constants/custom_obj_0", lambda _: b"pickle"),
    ],
    ids=["pickle", "operator", "expression", "guards", "library", "object"],
)
def test_archive_that_could_run_code_is_refused(
    edited: Callable[..., Path],
    member: str,
    change: Callable[[bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        from_exported_program(edited(member, change))
    assert caught.value.code == "EC748"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_broken_archive(archive: Path, content: bytes | None) -> None:
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(InputError) as caught:
        from_exported_program(archive)
    assert caught.value.code == "EC748"


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        from_exported_program(tmp_path / "nothing.pt2")
    assert caught.value.code == "EC740"


def test_factory(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("from torch import nn\nact = nn.SiLU\n")
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\nfrom layers import act\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), act())\n"
    )
    model = from_factory(f"{file}:make", (3, 4, 4))
    assert [n.op_type for n in model.graph] == ["Conv", "Sigmoid", "Mul"]


@pytest.mark.parametrize(
    ("source", "name", "code"),
    [
        ("def make(): return 3", "make", "EC749"),
        ("def make(): raise KeyError('weights')", "make", "EC749"),
        ("import nothing_of_that_name", "make", "EC749"),
        ("def make(:", "make", "EC749"),
        ("def build(): pass", "make", "EC749"),
    ],
    ids=["no module", "raises", "import", "syntax", "no function"],
)
def test_factory_that_fails(tmp_path: Path, source: str, name: str, code: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(source)
    with pytest.raises(InputError) as caught:
        from_factory(f"{file}:{name}", (3, 4, 4))
    assert caught.value.code == code


@pytest.mark.parametrize("spec", ["net.py", "net:make", "net.py:make it", ":make"])
def test_misspelt_factory(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_factory(spec, (3, 4, 4))
    assert caught.value.code == "EC243"


def test_factory_needs_a_shape_and_a_file() -> None:
    with pytest.raises(UsageError):
        from_factory("net.py:make", None)
    with pytest.raises(InputError) as caught:
        from_factory("no_such_file.py:make", (3, 4, 4))
    assert caught.value.code == "EC740"
