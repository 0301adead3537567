"""Calibration data of an export: images or tensors, split into a part to fit and one to judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.bundle import TensorInfo
from edgec.export.datasets.arrays import load_arrays
from edgec.export.datasets.images import ImageSet, open_images
from edgec.export.datasets.tensors import TensorSet, open_tensors
from edgec.export.errors import InputError
from edgec.export.options import ExportOptions
from edgec.export.quantize.graph import TensorSpec
from edgec.models.preprocess import Preprocess

Feeds = dict[str, NDArray[Any]]

MIN_TO_SPLIT = 16
"""With fewer items all of them calibrate; judging on the same ones is then said so."""
HOLDOUT_SHARE = 4
"""Every fourth item is held out and never seen by calibration."""


@dataclass(frozen=True)
class CalibrationData:
    """Items of ``--calib`` after preprocessing.

    Attributes:
        items: the data set.
        preprocess: for images; None for tensors, which are fed as they are.
        input_name: the input that images go to.
        warnings: what the user should know about the data.
    """

    items: ImageSet | TensorSet
    preprocess: Preprocess | None
    input_name: str
    warnings: tuple[str, ...]

    @property
    def holdout_count(self) -> int:
        """Number of items kept from calibration."""
        count = len(self.items)
        return len(range(HOLDOUT_SHARE - 1, count, HOLDOUT_SHARE)) if count >= MIN_TO_SPLIT else 0

    @property
    def fit_count(self) -> int:
        """Number of items that calibration sees."""
        return len(self.items) - self.holdout_count

    def fit_feeds(self) -> Iterator[Feeds]:
        """Inputs for calibration."""
        return (feed for feed, _ in self._split(holdout=False))

    def holdout_feeds(self) -> Iterator[tuple[Feeds, int | None]]:
        """Inputs and labels to judge on; the calibration items where nothing was held out."""
        return self._split(holdout=self.holdout_count > 0)

    def check_feeds(self, count: int) -> Iterator[tuple[Feeds, int | None]]:
        """The first `count` items, for golden data; one item is repeated if it is the only one."""
        found = list(islice(self._all(), count))
        return iter(found + found[:1] * (count - len(found)))

    def to_json(self, method: str) -> dict[str, Any]:
        """Provenance for the manifest."""
        return {
            **self.items.to_json(),
            "source": Path(self.items.source).name,
            "used": self.fit_count,
            "held_out": self.holdout_count,
            "method": method,
            "preprocess": None if self.preprocess is None else self.preprocess.to_json(),
        }

    def _split(self, *, holdout: bool) -> Iterator[tuple[Feeds, int | None]]:
        split = self.holdout_count > 0
        for index, item in enumerate(self._all()):
            if (split and index % HOLDOUT_SHARE == HOLDOUT_SHARE - 1) == holdout:
                yield item

    def _all(self) -> Iterator[tuple[Feeds, int | None]]:
        if isinstance(self.items, TensorSet):
            for feeds in self.items:
                yield dict(feeds), None
            return
        assert self.preprocess is not None
        labels = self.items.labels
        for position, tensor in self.items.samples(self.preprocess):
            label = None if labels is None else labels[position]
            yield {self.input_name: tensor[None]}, label


def load_calibration(
    options: ExportOptions, inputs: tuple[TensorInfo, ...], preprocess: Preprocess | None
) -> CalibrationData:
    """Open ``--calib``.

    Raises:
        InputError: unusable data, or images for a network whose preprocessing is not known.
    """
    assert options.calib is not None
    specs = {t.name: TensorSpec(t.name, t.shape, np.dtype(t.dtype)) for t in inputs}
    if _holds_tensors(Path(options.calib), list(specs)):
        tensors = open_tensors(options.calib, specs, limit=options.calib_limit)
        return CalibrationData(tensors, None, inputs[0].name, _few(len(tensors)))
    if preprocess is None or len(inputs) != 1:
        raise InputError(
            "EC796",
            "calibration images need a known preprocessing and a network with one input",
            where=options.calib,
            why="wrong mean or scale would give wrong activation ranges silently",
            fix="describe it with --preprocess FILE.json, or give --calib FILE.npz with arrays "
            f"named like the inputs: {', '.join(specs)}",
        )
    images = open_images(options.calib, limit=options.calib_limit, seed=options.seed)
    return CalibrationData(images, preprocess, inputs[0].name, _few(len(images)))


def _holds_tensors(path: Path, inputs: list[str]) -> bool:
    """Whether the file holds arrays for the network's inputs rather than images."""
    if path.suffix.lower() == ".npy":
        return True
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    # the key `inputs` is the image set's own name for preprocessed images
    return inputs[0] in load_arrays(path)


def load_preprocess(path: str | None, inputs: tuple[TensorInfo, ...]) -> Preprocess | None:
    """Read ``--preprocess``; ``size`` defaults to the network's input.

    Raises:
        InputError: not readable, or not a valid description.
    """
    if path is None:
        return None
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
