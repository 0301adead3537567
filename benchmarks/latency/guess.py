"""Predicted latencies beside the measured ones, and their scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hierarchy import Array
from rows import Table

INTERVAL = 0.8
"""Share of the errors that an interval is to hold."""
FEWEST_COMMON = 8
"""Networks that two runs have in common, for their distance to tell of noise."""


@dataclass
class Guess:
    """Predicted log latencies with standard deviations; NaN where nothing was predicted."""

    truth: Array
    mean: Array
    deviation: Array
    fold: Array = field(init=False)

    def __post_init__(self) -> None:
        self.fold = np.zeros(self.truth.shape, int)

    @classmethod
    def empty(cls, truth: Array) -> Guess:
        """Nothing predicted yet."""
        return cls(truth, np.full(truth.shape, np.nan), np.full(truth.shape, np.nan))

    def put(self, index: Any, mean: Array, deviation: Array, fold: int) -> None:
        """Predictions for some cells."""
        self.mean[index], self.deviation[index], self.fold[index] = mean, deviation, fold

    def scale(self, fold: int | None = None) -> float:
        """Standard deviations that hold 80 % of the errors, without those of one fold."""
        valid = self._valid() & (
            np.ones(self.truth.shape, bool) if fold is None else self.fold != fold
        )
        z = np.abs(self.truth[valid] - self.mean[valid]) / self.deviation[valid]
        return float(np.quantile(z, INTERVAL))

    def score(self) -> dict[str, Any]:
        """What the tables show."""
        valid = self._valid()
        error = np.abs(np.exp(self.mean[valid] - self.truth[valid]) - 1)
        taus = [
            kendall(self.truth[b][valid[b]], self.mean[b][valid[b]])
            for b in range(len(self.truth))
            if valid[b].sum() > 2
        ]
        scores = {
            "n": int(valid.sum()),
            "within_10": _percent((error <= 0.1).mean()),
            "within_20": _percent((error <= 0.2).mean()),
            "median_error": _percent(np.median(error)),
            "mape": _percent(error.mean()),
            "kendall_tau": round(float(np.mean(taus)), 3) if taus else None,
        }
        if np.isfinite(self.deviation[valid]).all():
            scores["coverage_80"] = _percent(self.coverage())
        return scores

    def coverage(self) -> float:
        """Share inside the interval, its width taken from the other folds."""
        inside = []
        for fold in np.unique(self.fold[self._valid()]):
            cells = self._valid() & (self.fold == fold)
            try:
                scale = self.scale(int(fold))
            except IndexError:
                continue
            z = np.abs(self.truth[cells] - self.mean[cells]) / self.deviation[cells]
            inside += list(z <= scale)
        return float(np.mean(inside))

    def of_boards(self, boards: Sequence[int]) -> Guess:
        """The same for some boards."""
        found = Guess(self.truth[boards], self.mean[boards], self.deviation[boards])
        found.fold = self.fold[boards]
        return found

    def without_bias(self, groups: Sequence[Sequence[int]]) -> Guess:
        """The same, were the median error of each group of networks known: what remains is how
        boards differ in it, and noise."""
        found = Guess(self.truth, self.mean.copy(), np.full(self.truth.shape, np.nan))
        for group in groups:
            error = (self.mean - self.truth)[:, group]
            if np.isfinite(error).any():
                found.mean[:, group] -= np.nanmedian(error)
        return found

    def _valid(self) -> Array:
        return np.isfinite(self.truth) & np.isfinite(self.mean)


def kendall(a: Array, b: Array) -> float:
    """Kendall's τ-a: concordant minus discordant pairs over all."""
    i, j = np.triu_indices(len(a), 1)
    return float((np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])).mean())


def noise_floor(table: Table) -> dict[str, Any] | None:
    """What a perfect predictor would score: how far two runs on one chip with as many threads are
    apart once one factor between them is taken away, over √2 for the noise of a single run.

    None where no chip was measured twice. The factor is the median over the networks of both.
    """
    logs = np.log(table.ms)
    apart = []
    for i, j in itertools.combinations(range(len(logs)), 2):
        one, other = table.boards[i], table.boards[j]
        if (one.chip, one.core, one.threads) != (other.chip, other.core, other.threads):
            continue
        difference = (logs[i] - logs[j])[np.isfinite(logs[i] - logs[j])]
        if len(difference) >= FEWEST_COMMON:
            apart.append(difference - np.median(difference))
    if not apart:
        return None
    error = np.abs(np.expm1(np.concatenate(apart) / np.sqrt(2)))
    return {
        "n": len(error),
        "within_10": _percent((error <= 0.1).mean()),
        "within_20": _percent((error <= 0.2).mean()),
        "median_error": _percent(np.median(error)),
        "mape": _percent(error.mean()),
        "kendall_tau": None,
    }


def _percent(value: Any) -> float:
    return round(100 * float(value), 1)
