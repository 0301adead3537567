"""npz and npy containers: decoded images, JPEG bytes, network inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError

# Arrays are loaded whole; more than this is refused before a byte is inflated.
MAX_ARRAY_BYTES = 8 << 30


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, or the one of an .npy file under the name "".

    Pickled objects are refused: they would run code.

    Raises:
        InputError: EC774.
    """
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                total = sum(info.file_size for info in archive.infolist())
            if total > MAX_ARRAY_BYTES:
                raise InputError(
                    "EC774",
                    f"the arrays need {total / 2**30:.1f} GiB",
                    where=str(path),
                    why=f"the limit is {MAX_ARRAY_BYTES >> 30} GiB",
                    fix="give fewer samples",
                )
            with np.load(path, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        return {"": np.load(path, allow_pickle=False)}
    except InputError:
        raise
    except Exception as error:  # numpy and zlib raise many unrelated classes on damaged files
        raise InputError(
            "EC774",
            "the file does not hold numpy arrays",
            where=str(path),
            why=str(error),
            fix="write it with numpy.savez or numpy.save, without object arrays",
        ) from error


def label_array(arrays: Mapping[str, NDArray[Any]], count: int, path: Path) -> list[int] | None:
    """The `labels` array as a list, if there is one.

    Raises:
        InputError: EC775, not one integer per sample.
    """
    labels = arrays.get("labels")
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            "EC775",
            f"labels has shape {labels.shape} and dtype {labels.dtype}",
            where=str(path),
            why=f"{count} integers are needed, one per sample",
        )
    return [int(label) for label in labels]


def jpeg_entries(arrays: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.int64]:
    """The checked offsets of a container of concatenated image files.

    Keys: ``jpeg`` uint8 (all files one after the other), ``offsets`` integer (n + 1), and
    optionally ``labels`` (n) and ``is_train`` bool (n).

    Raises:
        InputError: EC775, offsets that do not cut `jpeg` into pieces.
    """
    jpeg, offsets = arrays["jpeg"], arrays.get("offsets")
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not offsets.size:
        raise InputError("EC775", "offsets is missing or not an integer vector", where=str(path))
    cuts = offsets.astype(np.int64)
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise InputError("EC775", "jpeg is not a vector of bytes", where=str(path))
    if cuts[0] < 0 or cuts[-1] > jpeg.size or bool((np.diff(cuts) <= 0).any()):
        raise InputError(
            "EC775",
            "offsets do not cut jpeg into pieces",
            where=str(path),
            why=f"they must grow from 0 to {jpeg.size}",
        )
    return cuts
