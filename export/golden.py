"""Golden data of a bundle: inputs, and the outputs that every artifact is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.bundle import TensorInfo
from edgec.export.data import CalibrationData
from edgec.export.datasets.tensors import noise
from edgec.runtime.onnx_runner import OnnxRunner

Feeds = dict[str, NDArray[Any]]

SAMPLES = 2


def golden_feeds(
    inputs: tuple[TensorInfo, ...], data: CalibrationData | None, seed: int
) -> list[Feeds]:
    """Real calibration items where there are some, else seeded noise."""
    if data is not None:
        return [dict(feed) for feed, _ in data.check_feeds(SAMPLES)]
    feeds = []
    for index in range(SAMPLES):
        rng = np.random.default_rng([seed, index])
        feeds.append({t.name: noise(rng, t.shape, np.dtype(t.dtype)) for t in inputs})
    return feeds


def write_golden(
    folder: Path, golden: list[Feeds], master: bytes, *, quantized: bool = False
) -> None:
    """Write inputs and the master's outputs as ``inputs_N.npz`` and ``outputs_N.npz``.

    A `quantized` master is computed as written, not with this CPU's integer kernels.
    """
    folder.mkdir()
    runner = OnnxRunner(master, emulate=quantized)
    for index, feed in enumerate(golden):
        np.savez(folder / f"inputs_{index}.npz", allow_pickle=False, **feed)
        np.savez(folder / f"outputs_{index}.npz", allow_pickle=False, **runner.run(feed))
