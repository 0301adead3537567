"""Functions of floats: C and numpy agree to the last bit, and with real arithmetic."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.export.emit.c import float_math

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e-40, 1e30, -1e30, 88.72, 88.73, -87.0, np.inf]
SPECIAL += [-np.inf, np.nan, 0.25, -0.25, 0.75, 1.5, 3.4028235e38, 1.17549435e-38]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ctypes.CDLL:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    path = tmp_path_factory.mktemp("floats") / "kernels.so"
    sources = [str(p) for p in sorted((root / "runtime" / "kernels").glob("*_f32.c"))]
    argv = ["cc", "-std=c99", "-O2", "-shared", "-fPIC", *sources, "-lm", "-o", str(path)]
    subprocess.run(argv, check=True)
    return ctypes.CDLL(str(path))


def call(
    library: ctypes.CDLL, kernel: str, p: ctypes.Structure, x: np.ndarray, kind: type
) -> np.ndarray:
    found = np.empty(x.shape, kind)
    places = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, found)]
    library[kernel](ctypes.byref(p), *places)
    return found


class Unary(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("alpha", ctypes.c_float)]


class Convert(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("scale", ctypes.c_float), ("zero", ctypes.c_int32)]


def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=20000) * np.exp(rng.uniform(-8, 5, 20000))
    return np.concatenate([SPECIAL, wide, np.linspace(-95, 95, 40001)]).astype(np.float32)


@pytest.mark.parametrize("name", sorted(float_math.UNARY))
def test_c_and_numpy_give_the_same_bits(name: str, library: ctypes.CDLL) -> None:
    x = points()
    found = call(library, f"edgec_{name}_f32", Unary(len(x), 0.0), x, np.float32)
    with np.errstate(all="ignore"):
        wanted = np.asarray(float_math.UNARY[name](x), np.float32)
    nan = np.isnan(wanted)
    assert (nan == np.isnan(found)).all()
    different = (found.view(np.uint32) != wanted.view(np.uint32)) & ~nan
    assert not different.any(), x[different][:5]


@pytest.mark.parametrize(
    ("name", "of", "relative"),
    [
        ("exp", math.exp, True),
        ("log", math.log, True),
        ("tanh", math.tanh, False),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x)), False),
        ("erf", math.erf, False),
    ],
)
def test_functions_are_near_the_real_ones(
    name: str, of: Callable[[float], float], relative: bool
) -> None:
    x = np.linspace(1e-3 if name == "log" else -80, 80, 20011, dtype=np.float32)
    with np.errstate(all="ignore"):
        found = getattr(float_math, name)(x).astype(np.float64)
    wanted = np.array([of(float(v)) for v in x])
    size = np.maximum(np.abs(wanted), 1e-3 if name == "log" else 0) if relative else 1.0
    assert (np.abs(found - wanted) <= 2e-7 * size).all()


def test_conversions(library: ctypes.CDLL) -> None:
    x = points()
    halves = (np.arange(-300, 300) + np.float32(0.5)).astype(np.float32) * np.float32(0.25)
    x = np.concatenate([x, halves])
    parameters = Convert(len(x), 0.25, -7)
    integers = call(library, "edgec_quantize_f32", parameters, x, np.int8)
    with np.errstate(all="ignore"):
        assert (integers == float_math.quantized(x, 0.25, -7)).all()
    finite = np.abs(x) < 1e6
    away = np.trunc(x[finite] / 0.25 + np.copysign(0.5, x[finite])).astype(np.int64) - 7
    assert (integers[finite] == np.clip(away, -128, 127)).all()
    back = call(library, "edgec_dequantize_f32", parameters, integers, np.float32)
    assert (back == (integers.astype(np.float32) + 7) * 0.25).all()
    assert (back == float_math.dequantized(integers, 0.25, -7)).all()
