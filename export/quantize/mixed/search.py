"""Choose a precision per block for a budget of accuracy, of bytes or of time.

1. Every block is quantized alone, in every precision that the target executes, and the divergence
   of the output is measured (`edgec.export.quantize.sensitivity.measured`).
2. If damages added up, the best assignments for all budgets would be the Pareto front of a
   multiple-choice knapsack (`edgec.export.quantize.mixed.front`).
3. They do not quite, so points along the front are really quantized and measured.
4. The chosen point is measured again on held-out samples that had no part in the choice; if it
   fails there, the next more precise point is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.errors import UsageError
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.fisher import MIN_CLASSES
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.mixed.candidates import (
    Candidate,
    spread,
    within_bytes,
    within_time,
)
from edgec.export.quantize.mixed.choice import (
    Assignment,
    Precision,
    assigned_scheme,
    block_costs,
    exclusions,
    total_cost,
)
from edgec.export.quantize.mixed.front import pareto_front
from edgec.export.quantize.mixed.price import Price, Prices
from edgec.export.quantize.mixed.result import MixedPlan, MixedPoint
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.rounding.blocks import MAX_LAYERS, Block, find_blocks
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.sensitivity.measured import (
    Arrays,
    damage,
    measured_sensitivity,
    run,
)
from edgec.export.quantize.stream import no_samples

Samples = Iterable[Mapping[str, NDArray[Any]]]


def search_mixed(
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    feeds: Samples,
    holdout: Samples,
    *,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    max_latency: float | None = None,
    price: Price | None = None,
    labels: Sequence[int] | None = None,
    holdout_labels: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("float", "int8"),
    executes: Callable[[ir.Model], bool] | None = None,
    exclude: Collection[str] = (),
    learned: Learned | None = None,
    points: int = 12,
    max_layers: int = MAX_LAYERS,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> MixedPlan:
    """Search the cheapest assignment within `max_drop`, or the best within another budget.

    A drop is the loss of top-1 accuracy, in points (percent), where labels are given. Without them
    it is the share of samples whose largest class is not that of the float network, which is more:
    changed predictions include wrong ones that become right.

    Args:
        model: float32 graph; not modified.
        calibration: ranges of its activations.
        scheme: of the blocks that are not float.
        feeds: samples for the search, read once and held; calibration samples will do.
        holdout: samples for the verification, disjoint from them; read once and held.
        max_drop: in points, e.g. 0.5; the cost is bit operations.
        max_bytes: of weights and scales; the cost is bytes.
        max_latency: in milliseconds, as `price` predicts; the cost is time, and what it does not
            price is not offered. Give one of the three.
        price: what blocks cost on the device; with `max_latency` only.
        labels, holdout_labels: class of each sample of `feeds` and `holdout`.
        precisions: what the target executes, see
            `edgec.export.quantize.mixed.choice.executable_precisions`; int16x8 needs a scheme with
            `wide` rules and opset 21.
        executes: whether the target's backend has the kernels of a Q/DQ graph; blocks that it
            refuses with 16-bit activations are not offered them. By default it has all.
        exclude: node names, operator types or module paths that stay float in any case.
        learned: rounding learned for `scheme`; used in the blocks with 8-bit weights.
        points: most points of the front that are really measured.
        max_layers: most weights of a block, see `edgec.export.quantize.rounding.blocks`.
        on_progress: called with what is done ("sensitivity", "front"), a number and a count.

    Raises:
        UsageError: EC266, the budget is missing, double or not positive, labels do not match, or a
            drop is asked for a network without classes.
        BudgetError: EC582, no assignment has so few bytes or takes so little time.
        UnsupportedError: EC397, the device's latency cannot be predicted.
        InputError: EC760, no samples; EC761, a sample does not fit.
    """
    budgets = [b for b in (max_drop, max_bytes, max_latency) if b is not None]
    if len(budgets) != 1 or budgets[0] < 0 or (price is None) != (max_latency is None):
        raise _misuse("give one of max_drop, max_bytes, and max_latency with a price; none below 0")
    work = _Search(
        model, calibration, scheme, feeds, exclude, learned or {}, precisions, max_layers
    )
    work.labels = _checked(labels, work.reference)
    if executes is not None:
        work.restrict(executes)
    held = _Held(work, list(holdout), holdout_labels)
    if max_drop is not None and not work.has_classes():
        raise _misuse("the network has no class scores to lose points on: give max_bytes")
    if price is not None:
        work.price(price)
    sensitivity = work.sensitivity(on_progress)
    if max_bytes is not None:
        candidates = within_bytes(work.candidates("bytes", sensitivity), max_bytes)
    elif max_latency is not None:
        candidates = within_time(work.candidates("milliseconds", sensitivity), max_latency)
    else:
        candidates = work.candidates("bit_operations", sensitivity)
    measured = work.measure(spread(candidates, points), on_progress)
    order = list(range(len(measured)))
    if max_drop is not None:
        passing = [i for i in order if measured[i].drop <= max_drop]
        first = passing[0] if passing else order[-1]
        order = order[first:]
    else:
        # the budget holds for all of them: least divergence first
        order = [min(order, key=lambda i: measured[i].divergence)]
    chosen = order[-1]
    for i in order:
        measured[i] = replace(measured[i], held_out_drop=held.drop(work.assignment(measured[i])))
        if max_drop is None or _within(measured[i], max_drop):
            chosen = i
            break
    assignment = work.assignment(measured[chosen])
    return MixedPlan(
        front=tuple(measured),
        chosen=measured[chosen],
        exclude=work.left(assignment),
        scheme=assigned_scheme(scheme, work.blocks, assignment),
        learned=work.learned_of(assignment),
        sensitivity=sensitivity,
        met=max_drop is None or _within(measured[chosen], max_drop),
        latency_basis=None if work.prices is None else work.prices.basis,
    )


class _Search:
    def __init__(
        self,
        model: ir.Model,
        calibration: Calibration,
        scheme: QuantScheme,
        feeds: Samples,
        exclude: Collection[str],
        learned: Learned,
        precisions: Sequence[Precision],
        max_layers: int,
    ) -> None:
        self.model = prepared_copy(model)
        self.calibration, self.scheme = calibration, scheme
        self.exclude, self.learned = tuple(exclude), learned
        self.samples = [dict(feed) for feed in feeds]
        if not self.samples:
            raise no_samples()
        self.plan = plan_quantization(self.model, scheme, exclude)
        self.blocks: tuple[Block, ...] = find_blocks(self.model, self.plan, max_layers=max_layers)
        self.costs = block_costs(self.model, self.plan, self.blocks, precisions)
        self.options: list[tuple[Precision, ...]] = [tuple(precisions)] * len(self.blocks)
        self.reference: Arrays = run(self.model, self.samples)
        self.labels: NDArray[np.int64] | None = None
        self.prices: Prices | None = None

    def price(self, price: Price) -> None:
        """Give every block its time."""
        integer: Precision = "int8"
        integers = self.build((integer,) * len(self.blocks))
        self.prices = price(self.model, integers, self.blocks, self.precisions())
        known = [times.keys() for times in self.prices.blocks]
        self.options = [
            tuple(p for p in options if p in times)
            for options, times in zip(self.options, known, strict=True)
        ]
        self.costs = tuple(
            {p: replace(cost, milliseconds=times[p]) for p, cost in costs.items() if p in times}
            for costs, times in zip(self.costs, self.prices.blocks, strict=True)
        )

    def precisions(self) -> tuple[Precision, ...]:
        """What some block may have."""
        return tuple(dict.fromkeys(p for options in self.options for p in options))

    def restrict(self, executes: Callable[[ir.Model], bool]) -> None:
        """Leave out 16-bit activations where a backend has no kernels for them."""
        wide: Precision = "int16x8"
        whole: Assignment = (wide,) * len(self.blocks)
        if wide not in self.precisions() or executes(self.build(whole)):
            return
        for i in range(len(self.blocks)):
            alone: Assignment = tuple(wide if i == j else "int8" for j in range(len(self.blocks)))
            if not executes(self.build(alone)):
                self.options[i] = tuple(p for p in self.options[i] if p != wide)

    def has_classes(self) -> bool:
        return any(a.ndim in (2, 3) and a.shape[-1] >= MIN_CLASSES for a in self.reference)

    def sensitivity(
        self, on_progress: Callable[[str, int, int], None] | None
    ) -> dict[str, dict[Precision, float]]:
        found: dict[str, dict[Precision, float]] = {block.name: {} for block in self.blocks}
        for precision in self.precisions():
            offered = [b for b, o in zip(self.blocks, self.options, strict=True) if precision in o]
            if precision == "float":
                for name in found:
                    found[name][precision] = 0.0
                continue
            whole: Assignment = (precision,) * len(self.blocks)

            def progress(done: int, count: int) -> None:
                if on_progress is not None:
                    on_progress("sensitivity", done, count)

            damages = measured_sensitivity(
                self.model,
                self.calibration,
                assigned_scheme(self.scheme, self.blocks, whole),
                offered,
                self.samples,
                exclude=self.exclude,
                learned=self.learned_of(whole),
                on_progress=progress,
            )
            for name, value in damages.items():
                found[name][precision] = value.divergence
        return found

    def candidates(
        self,
        cost: Literal["bytes", "bit_operations", "milliseconds"],
        sensitivity: Mapping[str, Mapping[Precision, float]],
    ) -> list[Candidate]:
        """The predicted front."""
        front = pareto_front(
            [
                [getattr(costs[p], cost) for p in options]
                for costs, options in zip(self.costs, self.options, strict=True)
            ],
            [
                [sensitivity[block.name][p] for p in options]
                for block, options in zip(self.blocks, self.options, strict=True)
            ],
        )
        result = []
        for choice in front:
            assignment: Assignment = tuple(
                options[i] for options, i in zip(self.options, choice.options, strict=True)
            )
            result.append(Candidate(assignment, total_cost(self.costs, assignment), choice.loss))
        return result

    def measure(
        self,
        candidates: Sequence[Candidate],
        on_progress: Callable[[str, int, int], None] | None,
    ) -> list[MixedPoint]:
        result, prices = [], self.prices
        for done, candidate in enumerate(candidates):
            outputs = run(self.build(candidate.assignment), self.samples)
            found = damage(self.reference, outputs)
            names = [block.name for block in self.blocks]
            result.append(
                MixedPoint(
                    precisions=dict(zip(names, candidate.assignment, strict=True)),
                    bytes=candidate.cost.bytes,
                    bit_operations=candidate.cost.bit_operations,
                    activation_bytes=candidate.cost.activation_bytes,
                    predicted=candidate.predicted,
                    divergence=found.divergence,
                    drop=_drop(self.reference, outputs, self.labels),
                    latency_ms=None if prices is None else candidate.cost.milliseconds,
                    latency_interval_ms=None
                    if prices is None
                    else prices.interval(candidate.assignment),
                )
            )
            if on_progress is not None:
                on_progress("front", done + 1, len(candidates))
        return result

    def build(self, assignment: Assignment) -> ir.Model:
        return quantize(
            self.model,
            self.calibration,
            assigned_scheme(self.scheme, self.blocks, assignment),
            exclude=self.left(assignment),
            learned=self.learned_of(assignment),
        )

    def left(self, assignment: Assignment) -> tuple[str, ...]:
        """What stays float."""
        return (*self.exclude, *exclusions(self.plan, self.blocks, assignment))

    def learned_of(self, assignment: Assignment) -> Learned:
        eight = {
            key
            for block, precision in zip(self.blocks, assignment, strict=True)
            if precision in ("int8", "int16x8")
            for key in block.weights
        }
        return {key: value for key, value in self.learned.items() if key in eight}

    def assignment(self, point: MixedPoint) -> Assignment:
        return tuple(point.precisions[block.name] for block in self.blocks)


class _Held:
    """The held-out samples and what the float network makes of them."""

    def __init__(
        self,
        work: _Search,
        samples: list[Mapping[str, NDArray[Any]]],
        labels: Sequence[int] | None,
    ) -> None:
        if not samples:
            raise no_samples()
        self.work, self.samples = work, samples
        self.reference = run(work.model, samples)
        self.labels = _checked(labels, self.reference)

    def drop(self, assignment: Assignment) -> float:
        """Points lost against the float network."""
        found = run(self.work.build(assignment), self.samples)
        return _drop(self.reference, found, self.labels)


def _drop(reference: Arrays, found: Arrays, labels: NDArray[np.int64] | None) -> float:
    if labels is None:
        return 100.0 * (1.0 - damage(reference, found).agreement)
    before, after = ((_classes(arrays) == labels).mean() for arrays in (reference, found))
    return 100.0 * float(before - after)


def _classes(outputs: Arrays) -> NDArray[np.int64]:
    result: NDArray[np.int64] = outputs[0].argmax(axis=-1).reshape(-1)
    return result


def _checked(labels: Sequence[int] | None, reference: Arrays) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    count = _classes(reference).size
    if len(labels) != count:
        raise _misuse(f"{len(labels)} labels for {count} predictions")
    return np.asarray(labels, np.int64)


def _within(point: MixedPoint, max_drop: float) -> bool:
    return point.held_out_drop is not None and point.held_out_drop <= max_drop


def _misuse(what: str) -> UsageError:
    return UsageError("EC266", f"mixed precision cannot be searched: {what}")
