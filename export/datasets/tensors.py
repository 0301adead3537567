"""Raw network inputs from npz and npy files, for networks of any inputs and rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgec.export.datasets.arrays import label_array, load_arrays
from edgec.export.errors import InputError

LABELS = "labels"
RANDOM = "random"
"""What ``--calib`` calls the data set of `random_tensors`."""
NO_DATA = "none"
"""What ``--calib`` says for inputs distilled from the network itself."""
DISTILLED = "distilled"


class InputSpec(Protocol):
    """What a network input must look like (`edgec.export.quantize.graph.TensorSpec` does)."""

    @property
    def shape(self) -> tuple[int | None, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


@dataclass(frozen=True)
class TensorSet:
    """Feeds for a network: sample i is one mapping input name → array.

    Attributes:
        source: path, ``"random"`` or ``"none"``.
        arrays: (samples, *input shape) by input name.
        count: number of samples.
        labels: true class of each sample, where the file holds them.
        kind: ``"tensors"``, ``"random"`` or ``"distilled"``.
    """

    source: str
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    count: int
    labels: tuple[int, ...] | None = None
    kind: str = "tensors"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        for i in range(self.count):
            # asarray: an element of a stack of scalars would be no array
            yield {name: np.asarray(array[i]) for name, array in self.arrays.items()}

    @cached_property
    def sha256(self) -> str:
        """Hash over names, dtypes, shapes and contents."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}\0{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Source, kind, count, hash: what a manifest keeps."""
        return {
            "source": self.source,
            "kind": self.kind,
            "count": self.count,
            "sha256": self.sha256,
        }


def open_tensors(
    path: str | Path, inputs: Mapping[str, InputSpec], *, limit: int | None = None
) -> TensorSet:
    """Open an .npz whose arrays are named like the inputs, or an .npy for one input.

    An array ``labels`` (one integer per sample) may lie beside them.

    Each array holds samples along its first axis: either (n·b, …) for an input (b, …) of fixed
    batch b, or (n, b, …) with an axis of its own. All inputs must have the same n.

    Args:
        path: the file.
        inputs: name → shape (None is a free dimension) and dtype.
        limit: use at most this many samples, the first ones.

    Raises:
        InputError: EC771 no such file, EC773 no samples, EC774 not numpy arrays, EC775 unusable
            labels, EC778 arrays do not fit the inputs, or there are too few or too many.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("EC771", "the tensor file does not exist", where=str(path))
    arrays = load_arrays(path)
    if "" in arrays:
        if len(inputs) != 1:
            raise InputError(
                "EC778",
                f"one array cannot feed {len(inputs)} inputs",
                where=str(path),
                fix=f"use an .npz with the arrays {', '.join(inputs)}",
            )
        arrays = {next(iter(inputs)): arrays[""]}
    missing = [name for name in inputs if name not in arrays]
    if missing:
        raise InputError(
            "EC778",
            f"there is no array {missing[0]!r}",
            where=str(path),
            why=f"the file holds {', '.join(sorted(arrays)) or 'nothing'}",
            fix=f"name the arrays {', '.join(inputs)}",
        )
    unknown = sorted(set(arrays) - set(inputs) - {LABELS})
    if unknown:
        raise InputError(
            "EC778",
            f"no input takes the array {unknown[0]!r}",
            where=str(path),
            why=f"the inputs are {', '.join(inputs)}",
            fix="leave the array out, or name it like the input that it is for",
        )
    samples = {name: _split(arrays[name], spec, name, path) for name, spec in inputs.items()}
    counts = {name: len(array) for name, array in samples.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise InputError(
            "EC778", "the inputs have different numbers of samples", where=str(path), why=listed
        )
    count = next(iter(counts.values()))
    if limit is not None:
        count = min(count, limit)
    if count < 1:
        raise InputError("EC773", "the file holds no samples", where=str(path))
    labels = (
        None if LABELS in inputs else label_array(arrays, len(next(iter(samples.values()))), path)
    )
    return TensorSet(
        str(path),
        {n: a[:count] for n, a in samples.items()},
        count,
        None if labels is None else tuple(labels[:count]),
    )


def random_tensors(inputs: Mapping[str, InputSpec], count: int, seed: int) -> TensorSet:
    """Seeded noise (see `noise`) for every input, for structural tests and nothing else."""
    samples = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        samples.append({name: noise(rng, _static(s.shape), s.dtype) for name, s in inputs.items()})
    arrays = {name: np.stack([sample[name] for sample in samples]) for name in inputs}
    return TensorSet(RANDOM, arrays, count, kind=RANDOM)


def noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """N(0, 1) floats, fair booleans, and integers 0 and 1, which are valid indices and counts."""
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.integers(0, 2, shape)).astype(dtype)


def split_samples(array: NDArray[Any], shape: tuple[int | None, ...]) -> NDArray[Any] | None:
    """View of `array` as (samples, *shape), see `open_tensors`; None if it does not fit."""

    def fits(dims: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
        return len(dims) == len(wanted) and all(
            w is None or d == w for d, w in zip(dims, wanted, strict=True)
        )

    if array.ndim and fits(array.shape[1:], shape):
        return array
    if not shape:
        return array[None] if array.ndim == 0 else None  # one scalar is one sample
    if array.ndim == len(shape) and fits(array.shape[1:], shape[1:]):
        batch = 1 if shape[0] is None else shape[0]
        if len(array) % batch == 0:
            return array.reshape(len(array) // batch, batch, *array.shape[1:])
    return None


def _static(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if d is None else d for d in shape)


def _split(array: NDArray[Any], spec: InputSpec, name: str, path: Path) -> NDArray[Any]:
    """View of `array` as (samples, *input shape)."""

    def wrong(why: str, fix: str | None = None) -> InputError:
        return InputError(
            "EC778", f"array {name!r} does not fit", where=str(path), why=why, fix=fix
        )

    if array.dtype != spec.dtype:
        raise wrong(
            f"its dtype is {array.dtype}, the network takes {spec.dtype}",
            f"store it with .astype({str(spec.dtype)!r})",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise wrong("it holds NaN or infinity")
    found = split_samples(array, spec.shape)
    if found is not None:
        return found
    dims = "×".join(str(d) for d in array.shape) or "()"
    wanted = ", ".join("?" if d is None else str(d) for d in spec.shape)
    batched = f" (or rows that are a multiple of the batch {spec.shape[0]})" if spec.shape else ""
    raise wrong(f"its shape is {dims}; (samples, {wanted}) is needed{batched}")
