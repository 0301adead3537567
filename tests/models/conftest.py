"""Golden outputs of the published networks, and the weights and inputs they belong to.

Weights are not stored: every tensor is drawn from a generator seeded with its own key, so any
implementation with the same keys can be filled alike. The scales keep logits of order one and
make them depend on the image (a plain initialisation leaves most blocks without influence).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
LARGE = 20_000_000  # parameters; such networks differ from their smaller kin in numbers only
CASES: dict[str, dict[str, Any]] = {}
KEYS: dict[str, dict[str, list[int]]] = {}
for file in sorted(GOLDEN.glob("*.json")):
    CASES.update(json.loads(file.read_text())["models"])
    with gzip.open(file.with_name(f"{file.stem}_keys.json.gz")) as stream:
        KEYS.update(json.load(stream))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_name" in metafunc.fixturenames:
        metafunc.parametrize(
            "golden_name",
            [
                pytest.param(name, marks=[pytest.mark.slow] if case["params"] > LARGE else [])
                for name, case in sorted(CASES.items())
            ],
        )


@pytest.fixture(scope="session")
def golden_names() -> frozenset[str]:
    return frozenset(CASES)


@pytest.fixture
def golden(golden_name: str) -> dict[str, Any]:
    return CASES[golden_name]


@pytest.fixture
def golden_shapes(golden_name: str) -> dict[str, tuple[int, ...]]:
    """State-dict key to shape, as published."""
    return {key: tuple(shape) for key, shape in KEYS[golden_name].items()}


@pytest.fixture(scope="session")
def fill() -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Function from a state dict (and a case) to one of the same keys with the golden weights."""

    def fill(
        state: Mapping[str, Tensor], case: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        gain = (case or {}).get("gain", 1.4)
        return {key: _tensor(key, value, gain) for key, value in state.items()}

    return fill


@pytest.fixture(scope="session")
def image() -> Callable[..., Tensor]:
    """Function from a size and a seed to a golden input."""

    def image(size: int, seed: int = 123) -> Tensor:
        generator = np.random.Generator(np.random.PCG64(seed))
        return torch.from_numpy(generator.standard_normal((1, 3, size, size)).astype(np.float32))

    return image


def _tensor(key: str, like: Tensor, gain: float) -> Tensor:
    if not like.is_floating_point():  # num_batches_tracked, and index tables, which stay
        return like if like.ndim else torch.zeros_like(like, device="cpu")
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    n = generator.standard_normal(like.shape or (1,)).reshape(like.shape)
    last = key.rsplit(".", 1)[-1]
    if last == "running_mean":
        value = 0.02 * n
    elif last == "running_var":
        value = 1 + 0.1 * np.abs(n)
    elif last.startswith("gamma"):
        value = 0.1 * (1 + 0.1 * n)
    elif last == "temperature" or (last == "weight" and n.ndim == 1):
        value = 1 + 0.1 * n
    elif last == "weight":
        value = gain * n / np.sqrt(n.size / n.shape[0])
    else:
        value = 0.02 * n
    return torch.from_numpy(value.astype(np.float32))
