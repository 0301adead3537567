"""Cross-validation of latency predictions, beside baselines.

    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/validate.py [results.json] [--only SET,SET]

Folds keep together what is related: networks of one name on every board, boards with one chip.
Scores are counted over single measurements: share within 10 % and 20 %, median error, Kendall's τ
by board, and how many fall into the 80 % interval, whose width is set on other folds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hierarchy
import numpy as np
from boards import fit_mixture
from classes import core_classes
from guess import Guess, noise_floor
from hierarchy import Array, Hierarchy
from rows import Table, data_hash
from tasks import TASKS, Task, command_line, log_times, named

from edgec.profiles.latency.constants import CoreClass, Fit, Hull
from edgec.profiles.latency.predict import Anchor, Constants, calibrate
from edgec.profiles.latency.similar import Similar

ANCHORS = 5
FOLDS = 8
FEWEST_BOARDS = 10
"""Configurations that a number of threads needs for a row of its own."""
MANY = 100
"""Networks from which on the unexplained rest is learned from similar ones."""


def unseen_networks(
    task: Task, table: Table, groups: Sequence[Sequence[int]], features: Sequence[str] | None = None
) -> Guess:
    """Networks that no board ran, on boards calibrated by the other networks."""
    work, times = task.work(table), log_times(table)
    names: Sequence[str] = task.features
    if features is not None:  # a baseline with fewer work terms
        work, names = features_of(table, features), features
    guess = Guess.empty(times)
    for number, group in enumerate(groups):
        train = times.copy()
        train[:, group] = np.nan
        keep = np.isfinite(train).sum(1) > 0
        processor = task.processor if features is None else "cpu"
        here = work[keep]
        found = hierarchy.fit(here, train[keep], names, shrink=task.shrink, processor=processor)
        mean, deviation = _posterior(found, here)
        if features is None and len(table.networks) > MANY:
            rest = np.isfinite(train).any(0)
            similar = Similar.fit(work[0][rest], found.residual[rest], np.exp(found.mean))
            mean = mean + similar.correction(work[0])
        cells = np.ix_(np.flatnonzero(keep), group)
        guess.put(cells, mean[:, group], deviation[:, group], number)
    return guess


def features_of(table: Table, kinds: Sequence[str]) -> Array:
    """Baselines: all MACs as one term, activations and kernels as others; shape (B, M, K)."""
    rows = []
    for name in table.networks:
        layers = table.layers[name]
        amounts = {
            "pointwise": sum(layer.macs for layer in layers),
            "memory": sum(layer.in_elems + layer.out_elems for layer in layers),
            "kernels": len(layers),
            "weights": sum(layer.weights for layer in layers),
        }
        rows.append([amounts[kind] / 1e6 for kind in kinds])
    return np.repeat(np.array(rows)[None], len(table.boards), axis=0)


def unseen_boards(task: Task, table: Table, *, networks_too: bool) -> Guess:
    """Boards with chips that were not fitted, known by their core's class only."""
    work, times = task.work(table), log_times(table)
    guess = Guess.empty(times)
    groups = [[m] for m in range(len(table.networks))] if networks_too else [[]]
    for fold, test in enumerate(chip_folds(table)):
        for group in groups:
            train = np.delete(times, test, axis=0)
            train[:, group] = np.nan
            boards = [b for i, b in enumerate(table.boards) if i not in set(test)]
            found = hierarchy.fit(
                np.delete(work, test, axis=0),
                train,
                task.features,
                shrink=task.shrink,
                processor=task.processor,
                rounds=8,
            )
            classes = {
                (core, threads): constants
                for core, threads, constants, _ in core_classes(found, boards)
            }
            for b in test:
                board = table.boards[b]
                known = classes.get((board.core or "", board.threads))
                if known is None:
                    continue  # predicted from the population alone: another table
                mean, deviation = _moments(work[b], *known, found)
                columns = group if networks_too else list(range(len(table.networks)))
                shift = 0.0 if networks_too else found.residual[columns]
                guess.put((b, columns), mean[columns] + shift, deviation[columns], fold)
    return guess


def with_anchors(task: Task, table: Table, *, transfer: bool) -> Guess:
    """Boards with unseen chips after five measurements; networks that other boards ran."""
    work, times = task.work(table), log_times(table)
    guess = Guess.empty(times)
    for fold, test in enumerate(chip_folds(table)):
        train = np.delete(times, test, axis=0)
        mixture = fit_mixture(table.networks, train)
        found = None
        if not transfer:
            found = hierarchy.fit(
                np.delete(work, test, axis=0),
                train,
                task.features,
                shrink=task.shrink,
                processor=task.processor,
            )
        for b in test:
            ran = [n for n, t in zip(table.networks, times[b], strict=True) if np.isfinite(t)]
            anchors = mixture.best_anchors(ANCHORS, ran)
            rest = [i for i, n in enumerate(table.networks) if n in ran and n not in anchors]
            measured = {n: float(np.exp(times[b, table.networks.index(n)])) for n in anchors}
            if found is None:
                answer = mixture.predict(measured)
                mean = np.array([answer[table.networks[i]][0] for i in rest])
                deviation = np.array([answer[table.networks[i]][1] for i in rest])
            else:
                mean, deviation = _calibrated(task, table, found, work[b], measured)
                mean, deviation = mean[rest], deviation[rest]
            guess.put((b, rest), mean, deviation, fold)
    return guess


def _calibrated(
    task: Task, table: Table, found: Hierarchy, work: Array, measured: dict[str, float]
) -> tuple[Array, Array]:
    fit = as_fit(task, table, found)
    anchors = [Anchor(n, work[table.networks.index(n)][None], ms) for n, ms in measured.items()]
    constants = calibrate(fit, Constants(found.mean, found.covariance), anchors)
    mean, _ = _moments(work, constants.mean, constants.covariance, found)
    jacobian = _shares(work, constants.mean)
    variance = np.einsum("mk,kl,ml->m", jacobian, constants.covariance, jacobian)
    return mean + found.residual, np.sqrt(variance + found.sigma**2)


def as_fit(task: Task, table: Table, found: Hierarchy) -> Fit:
    """A fit as the product reads it."""
    population = CoreClass("", 0, 1000.0, found.mean, found.covariance, 0)
    residuals = dict(zip(table.networks, map(float, found.residual), strict=True))
    return Fit(
        id=task.id,
        runtime=task.runtime,
        precision=task.precision,
        threads=task.threads,
        features=task.features,
        merge=task.merge,
        classes=(),
        population=population,
        tau=found.tau,
        sigma=found.sigma,
        scale=1.0,
        calibrated_scale=1.0,
        hull=Hull({}, (0.0, 0.0)),
        residuals=residuals,
        networks={},
        provenance={},
    )


def chip_folds(table: Table) -> list[list[int]]:
    """Boards in folds that keep one chip together."""
    chips = sorted({board.chip for board in table.boards})
    folds = min(FOLDS, len(chips))
    return [
        [i for i, board in enumerate(table.boards) if chips.index(board.chip) % folds == fold]
        for fold in range(folds)
    ]


def halves(count: int, seeds: int = 3) -> list[list[list[int]]]:
    """Random halves of the networks, each tested on the other."""
    found = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(count)
        found.append([list(map(int, order[: count // 2])), list(map(int, order[count // 2 :]))])
    return found


def known_elsewhere(table: Table) -> Guess:
    """Boards with unseen chips, half of their networks measured; the others ran elsewhere."""
    times = log_times(table)
    guess = Guess.empty(times)
    rng = np.random.default_rng(0)
    for fold, test in enumerate(chip_folds(table)):
        mixture = fit_mixture(table.networks, np.delete(times, test, axis=0))
        for b in test:
            ran = np.flatnonzero(np.isfinite(times[b]))
            order = rng.permutation(ran)
            half, rest = order[: len(ran) // 2], order[len(ran) // 2 :]
            answer = mixture.predict({table.networks[i]: float(np.exp(times[b, i])) for i in half})
            found = [answer[table.networks[i]] for i in rest]
            means, deviations = np.array(found).T
            guess.put((b, list(rest)), means, deviations, fold)
    return guess


def validate(task: Task, table: Table) -> tuple[dict[str, Any], tuple[float, float, float]]:
    """All scores of a set, and the widths of its intervals in standard deviations: with the core
    known only, with constants of the board, and of transfer by anchors."""
    count = len(table.networks)
    alike = [table.alike.get(name, name) for name in table.networks]
    singles: list[list[int]] = [
        [m for m in range(count) if alike[m] == one] for one in sorted(set(alike))
    ]
    families = sorted(set(table.family.values()))
    if count > MANY:  # whole families leave together, in folds
        by = [families.index(table.family[n]) % 10 for n in table.networks]
        singles = [[m for m in range(count) if by[m] == fold] for fold in range(10)]
    scores: dict[str, Any] = {}
    floor = noise_floor(table)
    if floor is not None:
        scores["noise of the rows: one chip measured twice"] = floor
    calibrated = unseen_networks(task, table, singles)
    scores["unseen network"] = calibrated.score()
    counts = sorted({board.threads for board in table.boards})
    for threads in counts if len(counts) > 1 else ():
        some = [i for i, board in enumerate(table.boards) if board.threads == threads]
        if len(some) >= FEWEST_BOARDS:
            part = calibrated.of_boards(some).score()
            scores[f"unseen network, {threads} threads"] = part
    known = [
        [m for m, n in enumerate(table.networks) if table.family.get(n, n) == group]
        for group in sorted({table.family.get(n, n) for n in table.networks})
    ]
    kind = "family" if table.family else "network"
    scores[f"unseen network, bias of its {kind} given"] = calibrated.without_bias(known).score()
    for name, terms in (
        ("MACs only", ["pointwise"]),
        ("MACs, activations, kernels", ["pointwise", "memory", "kernels"]),
    ):
        scores[f"unseen network, baseline {name}"] = unseen_networks(
            task, table, singles, terms
        ).score()
    wide = calibrated.scale()
    if table.family and count <= MANY:
        grouped = [
            [m for m, n in enumerate(table.networks) if table.family[n] == f] for f in families
        ]
        scores["unseen family"] = unseen_networks(task, table, grouped).score()
    if len(table.boards) > 20:
        parts = [unseen_networks(task, table, split).score() for split in halves(count)]
        scores["half of the networks unseen"] = _average(parts)
        scores["half unseen on this board only"] = known_elsewhere(table).score()
        anchored = with_anchors(task, table, transfer=True)
        scores["unseen board, 5 anchors"] = anchored.score()
        scores["unseen board, 5 anchors, work terms"] = with_anchors(
            task, table, transfer=False
        ).score()
        by_class = unseen_boards(task, table, networks_too=False)
        scores["unseen board, core known"] = by_class.score()
        both = unseen_boards(task, table, networks_too=True)
        scores["unseen board and network, core known"] = both.score()
        return scores, (both.scale(), wide, anchored.scale())
    return scores, (wide, wide, wide)


def _average(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        key: round(float(np.mean([part[key] for part in parts])), 3)
        if key != "n"
        else parts[0]["n"]
        for key in parts[0]
    }


def _posterior(found: Hierarchy, work: Array) -> tuple[Array, Array]:
    """Log time and its deviation, shape (B, M), on the boards that were fitted."""
    means, deviations = [], []
    for amounts, board, covariance in zip(work, found.boards, found.board_covariance, strict=True):
        mean, deviation = _moments(amounts, found.mean + board, covariance, found)
        means.append(mean)
        deviations.append(deviation)
    return np.array(means), np.array(deviations)


def _moments(work: Array, mean: Array, covariance: Array, found: Hierarchy) -> tuple[Array, Array]:
    """Log time and its deviation for networks that no residual is known of."""
    jacobian = _shares(work, mean)
    variance = np.einsum("mk,kl,ml->m", jacobian, covariance, jacobian)
    total = np.log((work + 1e-9) @ np.exp(mean))
    return total, np.sqrt(variance + found.sigma**2 + found.tau**2)


def _shares(work: Array, mean: Array) -> Array:
    parts = (work + 1e-9) * np.exp(mean)
    return np.asarray(parts / parts.sum(1, keepdims=True))


COLUMNS = ("n", "within_10", "within_20", "median_error", "mape", "kendall_tau", "coverage_80")


def main() -> None:
    """Score every set, or those named by ``--only``, print the table, write the JSON."""
    parser = command_line(__doc__ or "")
    parser.add_argument("results", nargs="?", type=Path, help="file that the scores are written to")
    arguments = parser.parse_args()
    only, out = named(arguments.only), arguments.results
    rows: list[dict[str, Any]] = []
    boards = {}
    if only and out is not None and out.is_file():
        before = json.loads(out.read_text("utf-8"))
        rows = [row for row in before["rows"] if row["set"] not in only]
        boards = {key: text for key, text in before["facts"].items() if key not in only}
    print(f"{'':54}" + "".join(f"{column:>14}" for column in COLUMNS))
    for task in TASKS:
        if only and task.id not in only:
            continue
        table = task.table()
        if not len(table.boards):
            print(f"{task.id}: no rows")
            continue
        chips = len({board.chip for board in table.boards})
        size = f"{len(table.networks)} networks, {len(table.boards)} configurations, {chips} chips"
        boards[task.id] = f"{size}, data {data_hash()[:12]}"
        print(f"{task.id}: {size}")
        scores, _ = validate(task, table)
        for test, score in scores.items():
            rows.append({"set": task.id, "test": test, **score})
            cells = "".join(f"{_shown(score.get(column)):>14}" for column in COLUMNS)
            print(f"  {test:<52}{cells}", flush=True)
    record = {
        "schema": "edgec.latency_validation/1",
        "facts": boards,
        "rows": rows,
        "notes": NOTES,
    }
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


NOTES = [
    "unseen network: no board of the folds fitted to ran it; each board is calibrated by its other "
    "networks. half of the networks unseen: the same with half of them left out at once.",
    "half unseen on this board only: the other networks ran on other chips.",
    "unseen board: no configuration of its chip was fitted to. Anchors are those that leave least "
    "uncertainty; work terms: the anchors calibrate constants, which predict any network, instead "
    "of the networks that other boards ran.",
    "coverage 80: share inside the 80 % interval, whose width is set on the other folds.",
    "ncnn: configurations of up to eight threads, one thread and several apart. Its work terms "
    "were chosen by these scores among some sixty sets of terms, each a guess at what the kernels "
    "do; what was taken gains with one thread and with several.",
    "noise of the rows: two runs on one chip with as many threads, one factor between them taken "
    "away, over √2: what a perfect predictor would score.",
    "bias given: the median error of the unseen network (or family) over all boards is taken away, "
    "which no predictor knows; what is left is how boards differ in it.",
    "hexagon is TensorFlow Lite with Qualcomm's QNN delegate on the NPUs of phones and boards (AI "
    "Hub), float16 and 8 bits; its networks as timm defines them.",
    "cube is X-CUBE-AI on Cortex-M7; torch-x86 is torch.compile of two PyTorch versions on one "
    "Intel i9-10940X, families of networks left out together; the work terms of torch-x86 "
    "were chosen by these scores among some sixty sets of terms. torch-x86-i7 are the same terms "
    "on an Intel i7-12700H, whose rows (timm_rows.py) nothing was chosen on; no constants of it "
    "ship.",
    "neural-art is ST Edge AI Core 2.0 and 3.0 on the NPU of an STM32N6570-DK; an architecture of "
    "one width leaves with all its inputs and classifiers, as one network. Its work terms, and the "
    "1 MiB from which on activations count as far, were chosen by these scores.",
]


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value}"


if __name__ == "__main__":
    main()
