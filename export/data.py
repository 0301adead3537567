"""Data for an export: images or tensors as samples, split into a part to fit and one to judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.bundle import TensorInfo
from edgec.export.datasets.arrays import load_arrays
from edgec.export.datasets.images import ImageSet, open_images
from edgec.export.datasets.tensors import (
    DISTILLED,
    NO_DATA,
    RANDOM,
    TensorSet,
    open_tensors,
    random_tensors,
)
from edgec.export.errors import InputError
from edgec.export.options import ExportOptions
from edgec.export.quantize.graph import TensorSpec
from edgec.models.preprocess import Preprocess

Feeds = dict[str, NDArray[Any]]

MIN_TO_SPLIT = 16
"""With fewer items all of them calibrate; judging on the same ones is then said so."""
HOLDOUT_SHARE = 4
"""Every fourth item is held out and never seen by calibration."""
DISTILLED_SAMPLES = 32
"""As many as data-free papers use; each costs a training of its own."""
RANDOM_SAMPLES = 32
"""Samples of noise; more of it tells nothing more."""


@dataclass(frozen=True)
class Samples:
    """A data set as inputs of a network.

    Attributes:
        items: the data set.
        preprocess: for images; None for tensors, which are fed as they are.
        input_name: the input that images go to.
    """

    items: ImageSet | TensorSet
    preprocess: Preprocess | None
    input_name: str

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[Feeds, int | None]]:
        """Inputs by name and label (None where there is none)."""
        labels = self.items.labels
        if isinstance(self.items, TensorSet):
            for position, feeds in enumerate(self.items):
                yield dict(feeds), None if labels is None else labels[position]
            return
        assert self.preprocess is not None
        for position, tensor in self.items.samples(self.preprocess):
            yield {self.input_name: tensor[None]}, None if labels is None else labels[position]

    @property
    def noun(self) -> str:
        """What the items are called in messages."""
        if not isinstance(self.items, TensorSet):
            return "images"
        return "samples" if self.items.kind == "tensors" else f"{self.items.kind} inputs"


@dataclass(frozen=True)
class CalibrationData:
    """Items of ``--calib``, split.

    Attributes:
        samples: all of them.
        warnings: what the user should know about the data.
    """

    samples: Samples
    warnings: tuple[str, ...]

    @property
    def holdout_count(self) -> int:
        """Number of items kept from calibration."""
        count = len(self.samples)
        return len(range(HOLDOUT_SHARE - 1, count, HOLDOUT_SHARE)) if count >= MIN_TO_SPLIT else 0

    @property
    def fit_count(self) -> int:
        """Number of items that calibration sees."""
        return len(self.samples) - self.holdout_count

    @property
    def judged_on(self) -> str:
        """What `holdout_feeds` are, in words."""
        if self.is_synthetic:
            return self.samples.noun
        return f"{'held-out' if self.holdout_count else 'calibration'} {self.samples.noun}"

    @property
    def is_synthetic(self) -> bool:
        """Whether the items are noise or distilled, on which no accuracy can be judged."""
        return isinstance(self.samples.items, TensorSet) and self.samples.items.kind != "tensors"

    def fit_feeds(self) -> Iterator[Feeds]:
        """Inputs for calibration."""
        return (feed for feed, _ in self._split(holdout=False))

    def fit_samples(self) -> Iterator[tuple[Feeds, int | None]]:
        """Inputs for calibration with their labels, for searches that look at the task."""
        return self._split(holdout=False)

    def holdout_feeds(self) -> Iterator[tuple[Feeds, int | None]]:
        """Inputs and labels to judge on; the calibration items where nothing was held out."""
        return self._split(holdout=self.holdout_count > 0)

    def check_feeds(self, count: int) -> Iterator[tuple[Feeds, int | None]]:
        """The first `count` items, for golden data; one item is repeated if it is the only one."""
        found = list(islice(self.samples, count))
        return iter(found + found[:1] * (count - len(found)))

    def to_json(self, method: str) -> dict[str, Any]:
        """Provenance for the manifest."""
        preprocess = self.samples.preprocess
        return {
            **self.samples.items.to_json(),
            "source": Path(self.samples.items.source).name,
            "used": self.fit_count,
            "held_out": self.holdout_count,
            "method": method,
            "preprocess": None if preprocess is None else preprocess.to_json(),
        }

    def _split(self, *, holdout: bool) -> Iterator[tuple[Feeds, int | None]]:
        split = self.holdout_count > 0
        for index, item in enumerate(self.samples):
            if (split and index % HOLDOUT_SHARE == HOLDOUT_SHARE - 1) == holdout:
                yield item


def load_calibration(
    options: ExportOptions, inputs: tuple[TensorInfo, ...], preprocess: Preprocess | None
) -> CalibrationData:
    """Open ``--calib``.

    Raises:
        InputError: unusable data, or images for a network whose preprocessing is not known.
    """
    assert options.calib is not None
    samples = open_samples(
        options.calib, inputs, preprocess, limit=options.calib_limit, seed=options.seed
    )
    data = CalibrationData(samples, _few(len(samples)))
    if not data.is_synthetic:
        return data
    return CalibrationData(
        samples,
        (
            "int8 is calibrated on RANDOM inputs: ranges and agreement say nothing about real "
            "data; use --calib with typical images or an .npz before you ship it",
        ),
    )


def distilled_calibration(
    options: ExportOptions,
    captured: ir.Model,
    preprocess: Preprocess | None,
    on_progress: Callable[[int, int], None],
) -> CalibrationData:
    """``--calib none``: inputs made from what the network's BatchNorm layers remember.

    Args:
        options: `calib_limit` and `seed`.
        captured: graph whose BatchNormalization is not folded yet.
        preprocess: tells the limits of the input, where it is known.
        on_progress: called with samples done and their number.

    Raises:
        UnsupportedError: EC366, EC367, the network does not say enough.
    """
    from edgec.export.quantize.data_free import distil

    count = min(options.calib_limit, DISTILLED_SAMPLES)
    bounds = None
    if preprocess is not None:
        pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
        bounds = min(-m / s for m, s in pairs), max((1 - m) / s for m, s in pairs)
    found = distil(
        captured,
        count,
        bounds=bounds,
        seed=options.seed,
        on_progress=lambda done: on_progress(done, count),
    )
    arrays = {name: np.stack([feeds[name] for feeds in found]) for name in found[0]}
    items = TensorSet(NO_DATA, arrays, count, kind=DISTILLED)
    return CalibrationData(
        Samples(items, None, next(iter(arrays))),
        (
            "int8 is calibrated without data, on inputs distilled from BatchNorm statistics: its "
            "accuracy was not judged; measure it with `edgec eval` before you ship it",
        ),
    )


def open_samples(
    source: str,
    inputs: tuple[TensorInfo, ...],
    preprocess: Preprocess | None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Samples:
    """Open images or tensors for a network.

    Args:
        source: folder, zip or npz of images; .npz of arrays named like the inputs, or .npy for one
            input; or ``"random"`` for seeded noise.
        inputs: of the network.
        preprocess: how images become its input, where that is known.
        limit: use at most this many items: of images a sample drawn with `seed`, of tensors the
            first ones.
        seed: of draws.

    Raises:
        InputError: unusable data, or images for a network that they cannot be fed to (EC796).
    """
    specs = {t.name: TensorSpec(t.name, t.shape, np.dtype(t.dtype)) for t in inputs}
    first = inputs[0].name if inputs else ""
    if source == RANDOM:
        count = RANDOM_SAMPLES if limit is None else min(limit, RANDOM_SAMPLES)
        return Samples(random_tensors(specs, count, seed), None, first)
    images = preprocess is not None and len(inputs) == 1
    if _holds_tensors(Path(source), list(specs), images=images):
        return Samples(open_tensors(source, specs, limit=limit), None, first)
    if not images:
        several = len(inputs) != 1
        raise InputError(
            "EC796",
            "images need a network with one input and a known preprocessing",
            where=source,
            why=f"this network has {len(inputs)} inputs"
            if several
            else "wrong mean or scale would give wrong results silently",
            fix=("" if several else "describe it with --preprocess FILE.json, or ")
            + f"give an .npz file with arrays named like the inputs: {', '.join(specs)}",
        )
    return Samples(open_images(source, limit=limit, seed=seed), preprocess, first)


def _holds_tensors(path: Path, inputs: list[str], *, images: bool) -> bool:
    """Whether a file holds arrays for the network's inputs rather than images.

    Args:
        path: the file; other things than .npy and .npz hold images.
        inputs: their names.
        images: whether the network could be fed with images. If not, a file of arrays can only be
            meant as its inputs, whatever their names.
    """
    if path.suffix.lower() == ".npy":
        return True
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    arrays = load_arrays(path)
    # the keys of image sets; `inputs` is their name for preprocessed images
    named = any(name in arrays for name in inputs)
    return named or not (images or {"images", "jpeg", "inputs"} & set(arrays))


def load_preprocess(path: str | None, inputs: tuple[TensorInfo, ...]) -> Preprocess | None:
    """Read ``--preprocess``; ``size`` defaults to the network's input.

    Raises:
        InputError: not readable, or not a valid description.
    """
    if path is None:
        return None
    if len(inputs) != 1:
        raise InputError(
            "EC797",
            f"the network has {len(inputs)} inputs, and --preprocess describes one image",
            where=path,
            fix="leave it out, and give data as .npz files with arrays named like the inputs",
        )
    shape = inputs[0].shape
    try:
        data = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("the file must hold one object")
        found = Preprocess.from_json({"size": shape[-2:], **data})
        # a trial run finds wrong lengths and words before any data is read
        channels = found(_grey(found)).shape[0]
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise InputError(
            "EC797",
            "cannot use the preprocessing file",
            where=path,
            why=f"{type(error).__name__}: {error}",
            fix='for example {"resize": "shorter", "crop": 0.875, "interpolation": "bicubic", '
            '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB"}',
        ) from error
    if (1, channels, *found.size) != shape:
        raise InputError(
            "EC797",
            f"the preprocessing gives {[1, channels, *found.size]}",
            where=path,
            why=f"input {inputs[0].name!r} takes {list(shape)}",
            fix="correct size or channels",
        )
    return found


def stored_preprocess(entry: Any, shapes: list[tuple[int, ...]]) -> Preprocess | None:
    """Preprocessing that a file says it takes, if that fits the file's one input.

    Args:
        entry: what `Preprocess.to_json` gave, or anything.
        shapes: of the network's inputs, NCHW.
    """
    try:
        found = Preprocess.from_json(entry)
        if len(shapes) == 1 and shapes[0][2:] == tuple(found.size):
            return found if shapes[0][:2] == (1, found(_grey(found)).shape[0]) else None
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
        pass  # the file may say anything
    return None


def _grey(preprocess: Preprocess) -> Any:
    from PIL import Image

    height, width = preprocess.size
    return Image.fromarray(np.full((height, width, 3), 128, np.uint8))


def _few(count: int) -> tuple[str, ...]:
    if count >= MIN_TO_SPLIT:
        return ()
    return (
        f"only {count} calibration items: ranges are uncertain, and int8 is judged on the same "
        f"items; give at least {MIN_TO_SPLIT}",
    )
