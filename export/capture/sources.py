"""Torch networks from files: .pt2 archives (nothing in them is executed) and Python factories."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from edgec.export.capture import CAPTURE_DIFFERENCE
from edgec.export.capture.torch_export import (
    Example,
    from_torch,
    name_io,
    quiet,
    to_onnx,
    verify_capture,
)
from edgec.export.errors import InputError, UsageError

_SAFE_TARGET = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.|_operator\.|math\.|torch\.sym_")
_SAFE_EXPRESSION = re.compile(r"-?\d+|[su]\d+")
# tensors as raw bytes or torch zip archives, JSON, and markers
_KNOWN_MEMBER = re.compile(
    r"archive_(format|version)|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/(weights|constants)/(weight|tensor)_\d+|data/(weights|constants)/[\w.]+_config\.json"
    r"|data/sample_inputs/model\.pt|extra/.*"
)


def from_exported_program(
    path: str | Path,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    verify: bool = True,
) -> ir.Model:
    """Capture a program saved with ``torch.export.save`` (static shapes).

    ``torch.export.load`` unpickles and resolves any torch function by name, so the archive is read
    first by `check_archive`, which lets only tensors, JSON and ATen operators through.

    Args:
        path: .pt2 file.
        input_names: as in `from_torch`.
        output_names: as in `from_torch`.
        verify: as in `from_torch`; runs the program itself.

    Raises:
        InputError: no .pt2 archive, damaged, or with content that could run code.
        UnsupportedError: as `from_torch`.
    """
    path = Path(path)
    check_archive(path)
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:
        raise _refused(path, "torch cannot read it", str(error)) from error
    args, kwargs = program.example_inputs or ((), {})
    if kwargs or not args or not all(isinstance(a, torch.Tensor) for a in args):
        raise _refused(path, "its example inputs are not a plain tuple of tensors")
    model = to_onnx(program)
    if input_names is None and len(model.graph.inputs) > 1:
        input_names = [v.name or "" for v in model.graph.inputs]
    name_io(model, input_names, output_names)
    if verify:
        difference = verify_capture(program.module(), model, tuple(args))
        model.metadata_props[CAPTURE_DIFFERENCE] = f"{difference:.2e}"
    return model


def check_archive(path: Path) -> None:
    """Refuse a .pt2 archive that holds more than tensors, JSON and ATen operators.

    Raises:
        InputError: names the member or the operator that is refused.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(
            "EC740",
            "the program cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            fix="Check the path and the permissions.",
        ) from error
    except zipfile.BadZipFile as error:
        raise _refused(path, "it is no zip archive, or it is truncated", str(error)) from error
    with archive:
        try:
            for name in archive.namelist():
                _check_member(archive, name, path)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise _refused(path, "a part of the archive is damaged", str(error)) from error
        if not any(name.endswith("/models/model.json") for name in archive.namelist()):
            raise _refused(path, "it holds no program; was it saved with torch.export.save?")


def _check_member(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    inner = name.partition("/")[2]
    if not _KNOWN_MEMBER.fullmatch(inner):
        raise _refused(path, f"it holds {name!r}, which could run code when loaded")
    if inner.endswith(".pt"):
        _check_pickle(archive.read(name), name, path)
    elif inner == "models/model.json":
        _check_program(json.loads(archive.read(name)), path)
    elif inner.endswith("_config.json"):
        for key, payload in json.loads(archive.read(name)).get("config", {}).items():
            if payload.get("use_pickle"):
                member = name.rsplit("/", 1)[0] + "/" + str(payload.get("path_name"))
                _check_pickle(archive.read(member), f"tensor {key!r}", path)


def _check_pickle(data: bytes, name: str, path: Path) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        raise _refused(path, f"{name} is a pickle of more than tensors", str(error)) from error


def _check_program(program: Any, path: Path) -> None:
    if not isinstance(program, dict) or program.get("guards_code"):
        raise _refused(path, "its shapes are dynamic (it carries guard code)")
    for mapping in _mappings(program):
        target = mapping.get("target")
        if isinstance(target, str) and "inputs" in mapping and not _SAFE_TARGET.match(target):
            raise _refused(path, f"it calls {target!r}, which is no ATen operator")
        expression = mapping.get("expr_str")
        if isinstance(expression, str) and not _SAFE_EXPRESSION.fullmatch(expression):
            raise _refused(path, f"it holds the size expression {expression[:60]!r}")


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _refused(path: Path, why: str, detail: str = "") -> InputError:
    line = detail.splitlines()[0][:200] if detail else ""
    return InputError(
        "EC748",
        "not a safe .pt2 file",
        where=str(path),
        why=f"{why}: {line}" if line else why,
        fix="Save it again with torch.export.save of the current torch, with static shapes.",
    )


def from_factory(
    spec: str,
    input_shape: Example | None,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    verify: bool = True,
) -> ir.Model:
    """Capture what a function in the user's Python file returns.

    This runs the file: give it only code you would run yourself.

    Args:
        spec: ``path/to/file.py:function``; the function takes no argument and returns the network.
        input_shape: as in `from_torch`; required, since a network does not know it.
        input_names: as in `from_torch`.
        output_names: as in `from_torch`.
        verify: as in `from_torch`.

    Raises:
        UsageError: misspelt `spec` or no input shape.
        InputError: the file cannot be imported, or the function fails or returns something else.
        UnsupportedError, InternalError: as `from_torch`.
    """
    if input_shape is None:
        raise UsageError(
            "EC243",
            "a network from a Python file needs its input shape",
            where=spec,
            fix="Add e.g. --input-size 224 or --shape input=1,3,224,224.",
        )
    return from_torch(
        load_factory(spec),
        input_shape,
        input_names=input_names,
        output_names=output_names,
        verify=verify,
    )


def load_factory(spec: str) -> nn.Module:
    """Import the file of ``file.py:function``, call the function, return its network."""
    file, separator, name = spec.rpartition(":")
    if not separator or not file.endswith(".py") or not name.isidentifier():
        raise UsageError(
            "EC243",
            "not a factory",
            where=spec,
            fix="Spell it path/to/file.py:function.",
        )
    path = Path(file)
    if not path.is_file():
        raise InputError(
            "EC740", "the Python file does not exist", where=file, fix="Check the path."
        )
    module_name = f"edgec_factory_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise _factory_failed(spec, "Python cannot import it")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses and pickling look modules up by name
    sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
    try:
        module_spec.loader.exec_module(module)
        factory = getattr(module, name, None)
        if not callable(factory):
            functions = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
            raise _factory_failed(spec, f"it has no function {name!r}, only {functions}")
        network = factory()
    except InputError:
        raise
    except Exception as error:
        raise _factory_failed(spec, f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(network, nn.Module):
        raise _factory_failed(spec, f"it returned {type(network).__name__}, no torch.nn.Module")
    return network


def _factory_failed(spec: str, why: str) -> InputError:
    return InputError(
        "EC749",
        "the factory failed",
        where=spec,
        why=why,
        fix="Run the file with python and repair it.",
    )
