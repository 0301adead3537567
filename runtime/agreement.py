"""How far two versions of a network differ on the same data.

Every artifact is compared with the float master by these numbers; which one is the headline
depends on the network: agreement of the best class for classifiers, signal-to-noise otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Agreement:
    """Comparison of outputs over `samples` inputs.

    Attributes:
        samples: number of inputs compared.
        top1: share of inputs, in percent, where both name the same best class; None unless there
            is one output of shape (1, classes).
        max_abs: largest absolute difference of any output element.
        cosine: smallest cosine similarity of any output tensor.
        sqnr_db: signal to quantization noise ratio over all outputs, 10 log10(Σr² / Σ(r-x)²);
            None when both are equal.
        correct, correct_reference: top-1 in percent on labelled data.
        not_finite: number of inputs for which only the other version gave NaN or infinity; the
            numbers above leave these out.
    """

    samples: int
    top1: float | None
    max_abs: float
    cosine: float
    sqnr_db: float | None
    correct: float | None = None
    correct_reference: float | None = None
    not_finite: int = 0

    @property
    def drop(self) -> float | None:
        """Points lost: top-1 on labelled data, else agreement; None for other networks."""
        if self.correct is not None and self.correct_reference is not None:
            return self.correct_reference - self.correct
        return None if self.top1 is None else 100.0 - self.top1

    def to_json(self) -> dict[str, Any]:
        """All numbers, rounded to what their accuracy carries."""
        return {
            "samples": self.samples,
            "top1_agreement": _round(self.top1, 3),
            "max_abs": float(f"{self.max_abs:.3g}"),
            "cosine": _round(self.cosine, 6),
            "sqnr_db": _round(self.sqnr_db, 2),
            "top1": _round(self.correct, 3),
            "top1_reference": _round(self.correct_reference, 3),
            "not_finite": self.not_finite,
        }


def compare(
    reference: Run, other: Run, feeds: Iterable[tuple[Mapping[str, NDArray[Any]], int | None]]
) -> Agreement:
    """Run both on every input and compare.

    Args:
        reference: the float network.
        other: the version to judge; same input and output names.
        feeds: pairs of (inputs by name, label or None).
    """
    samples = same = right = right_reference = labelled = not_finite = 0
    max_abs = signal = noise = 0.0
    cosine = 1.0
    classifier = True
    for feed, label in feeds:
        a, b = reference(feed), other(feed)
        samples += 1
        if _finite(a) and not _finite(b):
            not_finite += 1
            continue
        for name, value in a.items():
            x = np.asarray(value, dtype=np.float64).ravel()
            y = np.asarray(b[name], dtype=np.float64).ravel()
            difference = x - y
            max_abs = max(max_abs, float(np.abs(difference).max(initial=0.0)))
            signal += float(x @ x)
            noise += float(difference @ difference)
            norm = float(np.linalg.norm(x) * np.linalg.norm(y))
            if norm > 0:
                cosine = min(cosine, float(x @ y) / norm)
        first = next(iter(a.values()))
        if len(a) != 1 or first.ndim != 2 or first.shape[0] != 1 or first.shape[1] < 2:
            classifier = False
            continue
        best = int(np.argmax(next(iter(b.values()))))
        best_reference = int(np.argmax(first))
        same += best == best_reference
        if label is not None:
            labelled += 1
            right += best == label
            right_reference += best_reference == label
    share = 100.0 / samples if samples else 0.0
    full = classifier and samples > 0
    return Agreement(
        samples=samples,
        top1=same * share if full else None,
        max_abs=max_abs,
        cosine=cosine,
        sqnr_db=10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None,
        correct=100.0 * right / labelled if labelled else None,
        correct_reference=100.0 * right_reference / labelled if labelled else None,
        not_finite=not_finite,
    )


def _finite(outputs: Mapping[str, NDArray[Any]]) -> bool:
    return all(bool(np.isfinite(np.asarray(value)).all()) for value in outputs.values())


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
