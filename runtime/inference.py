"""`edgec run`: data in, classes or raw tensors out."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.bundle import Bundle, Manifest
from edgec.export.datasets.tensors import LABELS, split_samples
from edgec.export.errors import InputError
from edgec.runtime.runners import open_runner

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Class:
    """One classification result: class index, name (if known) and softmax probability."""

    index: int
    name: str | None
    probability: float


@dataclass(frozen=True)
class Result:
    """What one input item gave.

    Attributes:
        item: file name, or position in the array.
        outputs: raw output tensors by name.
        classes: the best classes, for networks with one output of shape (1, classes).
    """

    item: str
    outputs: dict[str, NDArray[Any]]
    classes: tuple[Class, ...] | None


def run_bundle(bundle: Bundle, data: Any, *, artifact: str | None, top: int) -> list[Result]:
    """Run `data` through an artifact of `bundle`; see `edgec.export.bundle.Bundle.run`."""
    chosen = bundle.artifact(artifact)
    runner = open_runner(bundle, chosen)
    results = []
    for item, feeds in _feeds(bundle.manifest, data):
        outputs = runner.run(feeds)
        results.append(Result(item, outputs, classify(outputs, bundle.manifest.labels, top)))
    return results


def classify(
    outputs: dict[str, NDArray[Any]], labels: tuple[str, ...] | None, top: int
) -> tuple[Class, ...] | None:
    """The `top` classes of a single (1, classes) output, or None for other networks.

    Outputs that already are probabilities (in [0, 1], summing to one) are taken as they are.
    """
    if len(outputs) != 1:
        return None
    logits = next(iter(outputs.values()))
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        return None
    scores = logits[0].astype(np.float64)
    if scores.min() < 0 or scores.max() > 1 or abs(scores.sum() - 1) > 1e-3:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    order = np.argsort(-scores, kind="stable")[:top]
    named = labels is not None and len(labels) == len(scores)
    return tuple(
        Class(int(i), labels[i] if named and labels else None, float(scores[i])) for i in order
    )


def _feeds(manifest: Manifest, data: Any) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    if isinstance(data, dict):
        yield "0", {name: np.asarray(array) for name, array in data.items()}
        return
    if isinstance(data, np.ndarray):
        yield from _arrays(manifest, data, "")
        return
    path = Path(data)
    if path.suffix in (".npy", ".npz"):
        try:
            with path.open("rb") as stream:
                loaded = np.load(stream, allow_pickle=False)
                if not isinstance(loaded, np.ndarray):
                    loaded = dict(loaded)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                "EC790",
                "cannot read the array file",
                where=str(path),
                why=str(error),
                fix="write it with numpy.save / numpy.savez, without pickled objects",
            ) from error
        if isinstance(loaded, np.ndarray):
            yield from _arrays(manifest, loaded, f"{path.name} ")
        else:
            yield from _named_arrays(manifest, loaded, path.name)
        return
    if manifest.preprocess is None or len(manifest.inputs) != 1:
        raise InputError(
            "EC791",
            "this network cannot be fed with images",
            why="its preprocessing is not known"
            if len(manifest.inputs) == 1
            else f"it has {len(manifest.inputs)} inputs",
            fix="give --input FILE.npz with arrays named like the inputs: "
            + ", ".join(tensor.name for tensor in manifest.inputs)
            + (", or export with --preprocess FILE.json" if len(manifest.inputs) == 1 else ""),
        )
    for file in _image_files(path):
        yield file.name, {manifest.inputs[0].name: load_image(file, manifest)[None]}


def load_image(file: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Decode and preprocess one image file to shape (C, H, W).

    Raises:
        InputError: missing, not an image, or damaged.
    """
    from PIL import Image

    assert manifest.preprocess is not None
    try:
        with Image.open(file) as image:
            return manifest.preprocess(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            "EC792",
            "cannot read the image",
            where=str(file),
            why=str(error),
            fix="check that the file exists and is a whole JPEG, PNG, BMP or WebP image",
        ) from error


def _image_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(
            "EC793",
            "the folder holds no images",
            where=str(path),
            fix=f"image files end in {' '.join(IMAGE_SUFFIXES)}",
        )
    return files


def _named_arrays(
    manifest: Manifest, arrays: dict[str, NDArray[Any]], name: str
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Arrays by input: one sample of exactly the inputs' shapes, or a stack of samples for each.

    What fits neither is handed on as it is, for the runner to tell what is wrong.
    """
    shapes = {tensor.name: tensor.shape for tensor in manifest.inputs}
    whole = {key: arrays[key] for key in shapes if key in arrays}
    stacks = {key: split_samples(array, shapes[key]) for key, array in whole.items()}
    lengths = {None if stack is None else len(stack) for stack in stacks.values()}
    if set(arrays) - {LABELS} != set(shapes) or None in lengths or len(lengths) != 1:
        yield name, arrays
        return
    (count,) = lengths
    for index in range(count or 0):
        sample = {key: np.asarray(s[index]) for key, s in stacks.items() if s is not None}
        yield name if count == 1 else f"{name} {index}", sample


def _arrays(
    manifest: Manifest, array: NDArray[Any], prefix: str
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """One array for the one input: its exact shape, without the batch axis, or a stack."""
    if len(manifest.inputs) != 1:
        raise InputError(
            "EC788",
            f"one array cannot feed {len(manifest.inputs)} inputs",
            why=f"the model takes {', '.join(repr(t.name) for t in manifest.inputs) or 'none'}",
            fix="give a dict, or an .npz file with arrays named like the inputs",
        )
    first = manifest.inputs[0]
    if array.shape == first.shape:
        stack = array[None]
    elif array.shape == first.shape[1:]:
        stack = array[None, None]
    elif array.shape[1:] == first.shape[1:]:
        stack = array[:, None]
    else:
        raise InputError(
            "EC789",
            f"the array has shape {list(array.shape)}",
            why=f"input {first.name!r} takes {list(first.shape)}",
            fix="bring the array to that shape (several samples may be stacked on the first axis)",
        )
    for index, sample in enumerate(stack):
        yield f"{prefix}{index}".strip(), {first.name: sample}
