"""How far two versions of a network differ on the same data.

Every artifact is compared with the float master by these numbers; which one is the headline
depends on the network: agreement of the best class for classifiers, signal-to-noise otherwise, for
each output on its own where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class OutputAgreement:
    """Comparison of one output over all inputs.

    Attributes:
        max_abs: largest absolute difference of any element.
        cosine: smallest cosine similarity of any input's tensor; None for integers and booleans.
        sqnr_db: signal to quantization noise ratio, 10 log10(Σr² / Σ(r-x)²); None when both are
            equal, and for integers and booleans.
        equal: share of equal elements in percent, for integers and booleans; None for floats.
    """

    max_abs: float
    cosine: float | None
    sqnr_db: float | None
    equal: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All numbers, rounded to what their accuracy carries."""
        return {
            "max_abs": float(f"{self.max_abs:.3g}"),
            "cosine": _round(self.cosine, 6),
            "sqnr_db": _round(self.sqnr_db, 2),
            "equal": _round(self.equal, 3),
        }


@dataclass(frozen=True)
class Agreement:
    """Comparison of outputs over `samples` inputs.

    Attributes:
        samples: number of inputs compared.
        top1: share of inputs, in percent, where both name the same best class; None unless there
            is one output of shape (1, classes).
        max_abs: largest absolute difference of any output element.
        cosine: smallest cosine similarity of any float output tensor.
        sqnr_db: signal to quantization noise ratio over all float outputs, 10 log10(Σr² / Σ(r-x)²);
            None when both are equal.
        correct, correct_reference: top-1 in percent on labelled data.
        not_finite: number of inputs for which only the other version gave NaN or infinity; the
            numbers above leave these out.
        outputs: the same for each output by name.
        top5: share of labels in percent among the five best classes, on labelled data.
    """

    samples: int
    top1: float | None
    max_abs: float
    cosine: float
    sqnr_db: float | None
    correct: float | None = None
    correct_reference: float | None = None
    not_finite: int = 0
    outputs: Mapping[str, OutputAgreement] = field(default_factory=dict)
    top5: float | None = None

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
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
        }


class Comparison:
    """Collects an `Agreement` from pairs of outputs, one input at a time."""

    def __init__(self) -> None:
        self._samples = self._not_finite = 0
        self._same = self._right = self._right_reference = self._among_five = self._labelled = 0
        self._classifier = True
        self._outputs: dict[str, _Output] = {}

    def add(
        self,
        reference: Mapping[str, NDArray[Any]],
        other: Mapping[str, NDArray[Any]],
        label: int | None = None,
    ) -> None:
        """Count one input.

        Args:
            reference: outputs of the float network by name.
            other: outputs of the version to judge, by the same names.
            label: the true class, where it is known.
        """
        self._samples += 1
        if _finite(reference) and not _finite(other):
            self._not_finite += 1
            return
        for name, value in reference.items():
            self._outputs.setdefault(name, _Output()).add(np.asarray(value), other[name])
        first = next(iter(reference.values()), None)
        if len(reference) != 1 or first is None or not _is_scores(first):
            self._classifier = False
            return
        scores = np.asarray(next(iter(other.values()))).ravel()
        order = np.argsort(-scores.astype(np.float64), kind="stable")[:5]
        best_reference = int(np.argmax(first))
        self._same += int(order[0]) == best_reference
        if label is not None:
            self._labelled += 1
            self._right += int(order[0]) == label
            self._among_five += label in order
            self._right_reference += best_reference == label

    def result(self) -> Agreement:
        """What was counted so far."""
        labelled = self._labelled
        outputs = {name: output.result() for name, output in self._outputs.items()}
        floats = [output for output in self._outputs.values() if not output.discrete]
        full = self._classifier and self._samples > 0

        def share(hits: int) -> float | None:
            return 100.0 * hits / labelled if labelled else None

        return Agreement(
            samples=self._samples,
            top1=100.0 * self._same / self._samples if full else None,
            max_abs=max((output.max_abs for output in outputs.values()), default=0.0),
            cosine=min((output.cosine for output in floats), default=1.0),
            sqnr_db=_decibels(
                sum(output.signal for output in floats), sum(output.noise for output in floats)
            ),
            correct=share(self._right),
            correct_reference=share(self._right_reference),
            not_finite=self._not_finite,
            outputs=outputs,
            top5=share(self._among_five),
        )


class _Output:
    """Sums of one output."""

    def __init__(self) -> None:
        self.discrete = False
        self.max_abs = self.signal = self.noise = 0.0
        self.cosine = 1.0
        self.elements = self.equal = 0

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        self.discrete = reference.dtype.kind in "iub"
        x = reference.astype(np.float64).ravel()
        y = np.asarray(other, dtype=np.float64).ravel()
        difference = x - y
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))
        self.elements += x.size
        self.equal += int(np.count_nonzero(x == y))
        self.signal += float(x @ x)
        self.noise += float(difference @ difference)
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        if norm > 0:
            self.cosine = min(self.cosine, float(x @ y) / norm)

    def result(self) -> OutputAgreement:
        if self.discrete:
            share = 100.0 * self.equal / self.elements if self.elements else 100.0
            return OutputAgreement(self.max_abs, None, None, share)
        return OutputAgreement(self.max_abs, self.cosine, _decibels(self.signal, self.noise))


def compare(
    reference: Run, other: Run, feeds: Iterable[tuple[Mapping[str, NDArray[Any]], int | None]]
) -> Agreement:
    """Run both on every input and compare.

    Args:
        reference: the float network.
        other: the version to judge; same input and output names.
        feeds: pairs of (inputs by name, label or None).
    """
    comparison = Comparison()
    for feed, label in feeds:
        comparison.add(reference(feed), other(feed), label)
    return comparison.result()


def _is_scores(value: NDArray[Any]) -> bool:
    """Whether a tensor may hold one score per class of one image."""
    return (
        value.dtype.kind == "f" and value.ndim == 2 and value.shape[0] == 1 and value.shape[1] >= 2
    )


def _finite(outputs: Mapping[str, NDArray[Any]]) -> bool:
    return all(bool(np.isfinite(np.asarray(value)).all()) for value in outputs.values())


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
