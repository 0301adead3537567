"""Carry a recipe out: transform, calibrate, search, correct, round, insert Q/DQ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.recipes.recipe import Recipe, Transform
from edgec.export.quantize.scheme import QuantScheme

Feeds = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
"""Calibration samples, anew at each call."""
Notes = list[dict[str, Any]]


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
    model: ir.Model, recipe: Recipe, feeds: Feeds, scheme: QuantScheme
) -> tuple[ir.Model, Notes]:
    """The float graph after the recipe's equivalent transforms; it computes the same.

    Args:
        model: float32 graph; not modified.
        recipe: whose `transforms` are applied in order.
        feeds: calibration samples.
        scheme: the grids that the transforms make room for.

    Returns:
        The graph, to be calibrated anew, and what was done.
    """
    notes: Notes = []
    for name in recipe.transforms:
        result = _TRANSFORMS[name](model, feeds, scheme)
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
        on_progress: called with (parts done, parts in all) of the slow steps.

    Raises:
        UsageError, InputError, UnsupportedError: as the steps do; EC366 where a step needs
            gradients and the graph has no replay.
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
        learned, note = _rounded(recipe, model, calibration, feeds, scheme, left, on_progress)
        notes.append(note)
    graph = model
    if recipe.bias_correction:
        graph = correct_biases(model, feeds(), scheme, exclude=left, learned=learned)
    return Quantized(quantize(graph, calibration, scheme, exclude=left, learned=learned), notes)


def _rounded(
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
    from edgec.export.quantize.rounding.reconstruct import learn_rounding

    result = learn_rounding(
        model,
        calibration,
        scheme,
        feeds(),
        method=AdaRound() if recipe.rounding == "adaround" else FlexRound(),
        exclude=exclude,
        on_progress=None
        if on_progress is None
        else lambda done, total, _: on_progress(done, total),
    )
    kept = sum(block.kept for block in result.blocks)
    note = {"step": recipe.rounding, "blocks": len(result.blocks), "better_than_nearest": kept}
    return result.learned, note


def _equalize(model: ir.Model, feeds: Feeds, scheme: QuantScheme) -> Transformed:
    from edgec.export.quantize.equivalent.equalize import equalize

    return equalize(model)


def _absorb(model: ir.Model, feeds: Feeds, scheme: QuantScheme) -> Transformed:
    from edgec.export.quantize.equivalent.absorb import absorb_high_biases

    return absorb_high_biases(model, feeds())


def _channelwise(model: ir.Model, feeds: Feeds, scheme: QuantScheme) -> Transformed:
    from edgec.export.quantize.equivalent.channelwise import channelwise

    return channelwise(model, feeds())


def _repq(model: ir.Model, feeds: Feeds, scheme: QuantScheme) -> Transformed:
    from edgec.export.quantize.equivalent.repq import reparameterize_norms

    # a shift of the zero point means nothing where zero points are zero
    return reparameterize_norms(model, feeds(), shift=not scheme.symmetric)


def _smooth(model: ir.Model, feeds: Feeds, scheme: QuantScheme) -> Transformed:
    from edgec.export.quantize.equivalent.smoothquant import smooth

    return smooth(model, feeds(), scheme)


_TRANSFORMS: Mapping[Transform, Callable[[ir.Model, Feeds, QuantScheme], Transformed]] = {
    "equalize": _equalize,
    "absorb": _absorb,
    "channelwise": _channelwise,
    "repq": _repq,
    "smooth": _smooth,
}
