"""Carry a recipe out: transform, calibrate, search, round, correct, fine-tune, insert Q/DQ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.compensate import compensate
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.recipes.recipe import Recipe, Transform
from edgec.export.quantize.scheme import QuantScheme

if TYPE_CHECKING:
    from edgec.export.quantize.finetune.distil import FineTuned
    from edgec.export.quantize.mixed.choice import Precision
    from edgec.export.quantize.mixed.price import Price
    from edgec.export.quantize.mixed.result import MixedPlan

Feeds = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
"""Calibration samples, anew at each call."""
Labelled = tuple[Mapping[str, NDArray[Any]], int | None]
Notes = list[dict[str, Any]]


SEARCH_SAMPLES = 128
"""Calibration samples on which blocks are measured for mixed precision."""


@dataclass(frozen=True)
class Budget:
    """What a mixed precision may lose, weigh or take; one of the three is given.

    Attributes:
        samples: calibration samples with label or None, anew at each call.
        holdout: such samples that calibration has not seen.
        max_drop: points of top-1 or agreement.
        max_bytes: of weights and scales.
        max_latency: in milliseconds, by `price`.
        precisions: what the target executes.
        executes: whether it executes a Q/DQ graph, see
            `edgec.export.quantize.mixed.search.search_mixed`.
    """

    samples: Callable[[], Iterable[Labelled]]
    holdout: Callable[[], Iterable[Labelled]]
    max_drop: float | None
    max_bytes: int | None
    max_latency: float | None = None
    price: Price | None = None
    precisions: tuple[Precision, ...] = ("float", "int8")
    executes: Callable[[ir.Model], bool] | None = None


@dataclass(frozen=True)
class Quantized:
    """What a recipe made.

    Attributes:
        graph: Q/DQ.
        notes: what each step did, for the report: ``{"step": …, …}``.
    """

    graph: ir.Model
    notes: Notes


def transform(
    model: ir.Model,
    recipe: Recipe,
    feeds: Feeds,
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
) -> tuple[ir.Model, Notes]:
    """The float graph after the recipe's equivalent transforms; it computes the same.

    Args:
        model: float32 graph; not modified.
        recipe: whose `transforms` are applied in order.
        feeds: calibration samples.
        scheme: the grids that the transforms make room for.
        exclude: left float besides the recipe's `keep_float`.

    Returns:
        The graph, to be calibrated anew, and what was done.
    """
    notes: Notes = []
    left = tuple(dict.fromkeys((*recipe.keep_float, *exclude)))
    for name in recipe.transforms:
        result = _TRANSFORMS[name](model, feeds, scheme, left)
        model = result.model
        refused = sorted({found.reason for found in result.refused})
        notes.append({"step": name, "changed": len(result.changes), "refused": refused})
    return model, notes


def quantize_by(
    recipe: Recipe,
    model: ir.Model,
    calibration: Calibration,
    feeds: Feeds,
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    budget: Budget | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Quantized:
    """The recipe's steps behind calibration.

    Args:
        recipe: `search`, `rounding`, `bias_correction` and `keep_float` are used.
        model: float32 graph, transformed already; not modified.
        calibration: statistics of `model` by the recipe's method.
        feeds: calibration samples.
        scheme: rules of the target runtime.
        exclude: left float besides the recipe's `keep_float`.
        budget: choose a precision per block that keeps it.
        on_progress: called with (parts done, parts in all) of the slow steps.

    Raises:
        EdgecError: as the steps do; EC366 where a step needs gradients and the graph has no replay,
            EC582 where a budget cannot be met.
    """
    left = tuple(dict.fromkeys((*recipe.keep_float, *exclude)))
    learned: Learned = {}
    notes: Notes = []
    if recipe.search == "qhyvit":
        from edgec.export.quantize.qhyvit.search import search

        found = search(model, calibration, scheme, feeds(), exclude=left, on_progress=on_progress)
        calibration, learned = found.calibration, found.learned
        notes.append(
            {
                "step": "qhyvit",
                "bridges": len(found.bridges),
                "scales": len(learned),
                "divergence": {k: float(f"{v:.4g}") for k, v in found.divergence.items()},
            }
        )
    if recipe.rounding != "nearest":
        learned, note = _learned_rounding(
            recipe, model, calibration, feeds, scheme, left, on_progress
        )
        notes.append(note)
    if budget is not None:
        plan = _mixed(budget, model, calibration, scheme, left, learned, on_progress)
        left, scheme, learned = plan.exclude, plan.scheme, plan.learned
        notes.append({"step": "mixed", **plan.to_json()})
    graph = model
    if recipe.compensation:
        graph, learned = compensate(
            model, calibration, feeds(), scheme, exclude=left, on_progress=on_progress
        )
        notes.append({"step": "compensation", "weights": len(learned)})
    elif recipe.bias_correction:
        graph = correct_biases(model, feeds(), scheme, exclude=left, learned=learned)
    if recipe.finetune:
        tuned = _finetuned(
            recipe, model, graph, calibration, feeds, scheme, left, learned, on_progress
        )
        graph, calibration, learned = tuned.model, tuned.calibration, tuned.learned
        notes.append(
            {
                "step": "finetune",
                "samples": tuned.samples,
                "kept": tuned.kept,
                "divergence": {
                    "before": float(f"{tuned.before:.4g}"),
                    "after": None if tuned.after is None else float(f"{tuned.after:.4g}"),
                },
            }
        )
    return Quantized(quantize(graph, calibration, scheme, exclude=left, learned=learned), notes)


def _mixed(
    budget: Budget,
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    exclude: tuple[str, ...],
    learned: Learned,
    on_progress: Callable[[int, int], None] | None,
) -> MixedPlan:
    from edgec.export.quantize.mixed.search import search_mixed

    seen, held = list(islice(budget.samples(), SEARCH_SAMPLES)), list(budget.holdout())
    return search_mixed(
        model,
        calibration,
        scheme,
        [feed for feed, _ in seen],
        [feed for feed, _ in held],
        max_drop=budget.max_drop,
        max_bytes=budget.max_bytes,
        max_latency=budget.max_latency,
        price=budget.price,
        labels=_labels(seen),
        holdout_labels=_labels(held),
        precisions=budget.precisions,
        executes=budget.executes,
        exclude=exclude,
        learned=learned,
        on_progress=None
        if on_progress is None
        else lambda _, done, total: on_progress(done, total),
    )


def _labels(samples: Sequence[Labelled]) -> list[int] | None:
    """The labels, if all samples have one."""
    found = [label for _, label in samples if label is not None]
    return found if len(found) == len(samples) else None


def _learned_rounding(
    recipe: Recipe,
    model: ir.Model,
    calibration: Calibration,
    feeds: Feeds,
    scheme: QuantScheme,
    exclude: Collection[str],
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Learned, dict[str, Any]]:
    from edgec.export.quantize.rounding.adaround import AdaRound
    from edgec.export.quantize.rounding.flexround import FlexRound
    from edgec.export.quantize.rounding.reconstruct import Reconstruction, learn_rounding

    result = learn_rounding(
        model,
        calibration,
        scheme,
        feeds(),
        method=AdaRound() if recipe.rounding == "adaround" else FlexRound(),
        options=Reconstruction(iterations=recipe.iterations) if recipe.iterations else None,
        exclude=exclude,
        on_progress=None
        if on_progress is None
        else lambda done, total, _: on_progress(done, total),
    )
    kept = sum(block.kept for block in result.blocks)
    note = {"step": recipe.rounding, "blocks": len(result.blocks), "better_than_nearest": kept}
    return result.learned, note


def _finetuned(
    recipe: Recipe,
    model: ir.Model,
    start: ir.Model,
    calibration: Calibration,
    feeds: Feeds,
    scheme: QuantScheme,
    exclude: Collection[str],
    learned: Learned,
    on_progress: Callable[[int, int], None] | None,
) -> FineTuned:
    from edgec.export.quantize.finetune.distil import Training, finetune

    return finetune(
        model,
        start,
        calibration,
        scheme,
        feeds(),
        exclude=exclude,
        learned=learned,
        options=Training(iterations=recipe.finetune),
        on_progress=on_progress,
    )


def _equalize(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.equalize import equalize

    return equalize(model)


def _absorb(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.absorb import absorb_high_biases

    return absorb_high_biases(model, feeds())


def _channelwise(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.channelwise import channelwise

    return channelwise(model, feeds())


def _repq(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.repq import reparameterize_norms

    # a shift of the zero point means nothing where zero points are zero
    return reparameterize_norms(model, feeds(), shift=not scheme.symmetric)


def _smooth(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.smoothquant import smooth

    return smooth(model, feeds(), scheme)


def _shift(
    model: ir.Model, feeds: Feeds, scheme: QuantScheme, exclude: Collection[str]
) -> Transformed:
    from edgec.export.quantize.equivalent.shift import shift

    return shift(model, feeds, scheme, exclude=exclude)


_Apply = Callable[[ir.Model, Feeds, QuantScheme, Collection[str]], Transformed]
_TRANSFORMS: Mapping[Transform, _Apply] = {
    "equalize": _equalize,
    "absorb": _absorb,
    "channelwise": _channelwise,
    "repq": _repq,
    "smooth": _smooth,
    "shift": _shift,
}
