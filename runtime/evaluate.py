"""`edgec eval`: accuracy and agreement of every artifact of a bundle on the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgec.export.bundle import Bundle
from edgec.export.data import open_samples
from edgec.runtime.agreement import Agreement, Comparison
from edgec.runtime.runners import open_runner, runnable_here


def evaluate_bundle(
    bundle: Bundle,
    data: str,
    *,
    limit: int | None,
    threads: int = 1,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run all artifacts over the data, in one pass.

    Args:
        bundle: any; images need one input and a known preprocessing.
        data: folder, zip or npz of images; .npz of arrays named like the inputs, or .npy for one
            input; or ``"random"``. Top-1 and top-5 need labels.
        limit: use at most this many images (a fixed, class-balanced sample) or samples (the first).

    Returns:
        A JSON-ready record; percentages; ``agreement`` is the share of inputs where an artifact
        names the same best class as the fp32 master, ``sqnr_db`` compares the raw float outputs,
        and ``outputs`` holds the comparison with the master for each output.

    Raises:
        InputError: unusable data, or images for a network that is not fed with images.
    """
    manifest = bundle.manifest
    samples = open_samples(data, manifest.inputs, manifest.preprocess, limit=limit)
    artifacts = runnable_here(bundle)
    runners = [open_runner(bundle, artifact, threads=threads) for artifact in artifacts]
    comparisons = [Comparison() for _ in artifacts]
    count = labelled = 0
    for feed, label in samples:
        results = [runner.run(feed) for runner in runners]
        for comparison, result in zip(comparisons, results, strict=True):
            comparison.add(results[0], result, label)
        count += 1
        labelled += label is not None
        tick(count, len(samples))
    found = [comparison.result() for comparison in comparisons]
    return {
        "source": samples.items.source,
        "sha256": samples.items.sha256,
        "noun": samples.noun,
        "count": count,
        "labelled": labelled == count and found[0].top1 is not None,
        "results": [
            {"artifact": artifact.path, "precision": artifact.precision, **_numbers(agreement)}
            for artifact, agreement in zip(artifacts, found, strict=True)
        ],
    }


def _numbers(agreement: Agreement) -> dict[str, Any]:
    found = agreement.to_json()
    return {
        "top1": found["top1"],
        "top5": None if agreement.top5 is None else round(agreement.top5, 3),
        "agreement": found["top1_agreement"],
        "sqnr_db": found["sqnr_db"],
        "not_finite": found["not_finite"],
        "outputs": found["outputs"],
    }
