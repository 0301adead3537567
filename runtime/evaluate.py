"""`edgec eval`: accuracy of every ONNX artifact of a bundle on the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.export.bundle import Bundle
from edgec.export.datasets.images import open_images
from edgec.export.errors import InputError
from edgec.runtime.onnx_runner import OnnxRunner, made_for_elsewhere


def evaluate_bundle(
    bundle: Bundle,
    data: str,
    *,
    limit: int | None,
    threads: int = 1,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run all artifacts over the images, one pass over the data.

    Args:
        bundle: its preprocessing must be known and its network have one input.
        data: folder, zip or npz; top-1 and top-5 need labels.
        limit: use at most this many images (a fixed, class-balanced sample).

    Returns:
        A JSON-ready record; percentages; ``agreement`` is the share of images where an artifact
        names the same best class as the fp32 master, ``sqnr_db`` compares the raw outputs.

    Raises:
        InputError: unusable data, or a network that is not fed with images.
    """
    manifest = bundle.manifest
    if manifest.preprocess is None or len(manifest.inputs) != 1:
        raise InputError(
            "EC791",
            "this network cannot be fed with images",
            why="its preprocessing is not known, or it has several inputs",
            fix="export with --preprocess FILE.json",
        )
    artifacts = [a for a in manifest.artifacts if a.format == "onnx" and a.status == "built"]
    runners = [
        OnnxRunner(bundle.file(a), threads=threads, emulate=made_for_elsewhere(a.scheme))
        for a in artifacts
    ]
    images = open_images(data, limit=limit)
    name = manifest.inputs[0].name
    classifier = len(manifest.outputs) == 1 and len(manifest.outputs[0].shape) == 2
    scores = [_Score() for _ in artifacts]
    count = 0
    for position, tensor in images.samples(manifest.preprocess):
        feed = {name: tensor[None]}
        label = None if images.labels is None else images.labels[position]
        results = [next(iter(runner.run(feed).values())) for runner in runners]
        for score, result in zip(scores, results, strict=True):
            score.add(result, results[0], label, classifier=classifier)
        count += 1
        tick(count, len(images))
    labelled = classifier and scores[0].labelled == count
    return {
        "source": images.source,
        "sha256": images.sha256,
        "count": count,
        "labelled": labelled,
        "results": [
            {
                "artifact": artifact.path,
                "precision": artifact.precision,
                **score.to_json(count, labelled=labelled, classifier=classifier),
            }
            for artifact, score in zip(artifacts, scores, strict=True)
        ],
    }


class _Score:
    def __init__(self) -> None:
        self.top1 = self.top5 = self.same = self.labelled = 0
        self.signal = self.noise = 0.0

    def add(self, result: Any, reference: Any, label: int | None, *, classifier: bool) -> None:
        a = np.asarray(reference, dtype=np.float64).ravel()
        b = np.asarray(result, dtype=np.float64).ravel()
        self.signal += float(a @ a)
        self.noise += float((a - b) @ (a - b))
        if not classifier:
            return
        order = np.argsort(-b, kind="stable")[:5]
        self.same += int(order[0]) == int(np.argmax(a))
        if label is not None:
            self.labelled += 1
            self.top1 += int(order[0]) == label
            self.top5 += label in order

    def to_json(self, count: int, *, labelled: bool, classifier: bool) -> dict[str, Any]:
        def share(hits: int) -> float:
            return round(100.0 * hits / count, 3)

        ratio = self.signal / self.noise if self.noise > 0 else 0.0
        return {
            "top1": share(self.top1) if labelled else None,
            "top5": share(self.top5) if labelled else None,
            "agreement": share(self.same) if classifier else None,
            "sqnr_db": round(10 * float(np.log10(ratio)), 2) if ratio > 0 else None,
        }
