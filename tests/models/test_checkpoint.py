"""Weight files of every kind, whole, wrapped, damaged and hostile."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from edgec.export.errors import InputError
from edgec.models.checkpoint import read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(tensors: dict[str, Tensor]) -> bool:
    return list(tensors) == list(STATE) and all(torch.equal(tensors[k], STATE[k]) for k in STATE)


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_state(path)
    assert caught.value.where == str(path)
    return caught.value


WRITERS: dict[str, Callable[[Path], object]] = {
    "net.pth": lambda path: torch.save(STATE, path),
    "legacy.pth": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "net.safetensors": lambda path: save_file(STATE, path),
    "net.npz": lambda path: np.savez(path, **{k: v.numpy() for k, v in STATE.items()}),
    "packed.npz": lambda path: np.savez_compressed(
        path, **{k: v.numpy() for k, v in STATE.items()}
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("misnamed", [False, True])
def test_formats_are_told_by_content(tmp_path: Path, name: str, misnamed: bool) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    if misnamed:
        path = path.rename(tmp_path / "weights.bin")
    tensors = read_state(path).tensors
    assert sorted(tensors) == sorted(STATE)
    assert all(torch.equal(tensors[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("key", ["net", "net_E", "model_ema", "model", "state_dict"])
def test_wrappers(tmp_path: Path, key: str) -> None:
    path = tmp_path / "ckpt.pth"
    torch.save({"epoch": 3, key: OrderedDict(STATE), "optimizer": {"lr": 0.1}}, path)
    state = read_state(path)
    assert same(state.tensors)
    assert repr(key) in state.notes[0]


def test_averaged_weights_are_preferred_unless_the_family_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    other = {key: value + 1 for key, value in STATE.items()}
    torch.save({"net": STATE, "net_E": other}, path)
    assert not same(read_state(path).tensors)
    state = read_state(path, ("net", "net_E"))
    assert same(state.tensors)
    assert state.notes == ("weights of the entry 'net'; the file also holds 'net_E'",)


def test_nested_wrapper_and_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    prefixed = {f"module._orig_mod.{key}": value for key, value in STATE.items()}
    torch.save({"model": {"state_dict": prefixed}}, path)
    state = read_state(path)
    assert same(state.tensors)
    assert state.notes[-2:] == ("prefix 'module.' removed", "prefix '_orig_mod.' removed")


def test_what_training_scripts_keep_beside_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    extras = {
        "args": argparse.Namespace(lr=1e-3, model="edgenext_small"),
        "best": np.float64(79.4),
        "epoch": np.int64(299),
    }
    torch.save({"model": STATE, **extras}, path)
    assert same(read_state(path).tensors)


def test_parameters_are_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({key: nn.Parameter(value) for key, value in STATE.items()}, path)
    tensors = read_state(path).tensors
    assert same(tensors)
    assert not any(value.requires_grad for value in tensors.values())


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 2", "protocol 4", "beside"])
def test_hostile_pickles_are_refused_by_name(tmp_path: Path, form: str) -> None:
    path, witness = tmp_path / "net.pth", tmp_path / "witness"
    hostile = Hostile(witness)
    if form.startswith("protocol"):
        path.write_bytes(pickle.dumps(hostile, int(form[-1])))
    elif form == "beside":  # next to good weights, where it might be overlooked
        torch.save({"state_dict": STATE, "extra": hostile}, path)
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "zip")
    error = refused(path)
    assert error.code == "EC722"
    assert f"{os.system.__module__}.system" in error.what
    assert not witness.exists()


def test_the_hostile_pickle_would_have_worked(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "witness"), tmp_path / "net.pth")
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert (tmp_path / "witness").exists()


def test_whole_modules_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    error = refused(tmp_path / "net.pth")
    assert error.code == "EC722"
    assert "torch.nn.modules.linear.Linear" in error.what
    assert "state_dict" in str(error.fix)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", a=np.array([{}], dtype=object))
    assert refused(tmp_path / "net.npz").code == "EC721"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refused(path).code == "EC721"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"just a text file", "neither"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\x80\x02garbage", "Unpickling"),
        (b"PK\x03\x04 not a zip", "archive"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    error = refused(path)
    assert error.code == "EC721"
    assert told in str(error)
    assert "weights_only" not in str(error)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "net.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert refused(path).code == "EC721"


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, {"model": {"lr": 0.1}}, 3, [STATE]])
def test_files_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    assert refused(tmp_path / "net.pth").code == "EC725"


def test_unreadable_paths(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.pth").code == "EC720"
    assert refused(tmp_path).code == "EC720"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_gives_an_input_error_or_tensors(
    tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(WRITERS)))
    path = tmp_path / name
    WRITERS[name](path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        state = read_state(path)
    except InputError:
        return
    assert all(isinstance(value, Tensor) for value in state.tensors.values())
