"""Which recipe a network gets when none is asked for, and what the options change in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import onnx_ir as ir

from edgec.export.quantize.recipes.features import GraphFeatures, graph_features
from edgec.export.quantize.recipes.recipe import Recipe, get_recipe
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_U8, QuantScheme

AUTO = "auto"
SPREAD = 2.0
"""Quotient of channel ranges, in the median layer, from which compensation pays: one bit."""


def choose_recipe(
    asked: str | None, family: str | None, scheme: QuantScheme, model: ir.Model
) -> tuple[Recipe, str]:
    """The recipe, and where the choice came from, in one line.

    Args:
        asked: name or ``.toml`` file; None leaves the choice to what was measured on the family,
            and ``auto``, or a family on which nothing was, to the graph.
        family: of the zoo; None for other networks.
        scheme: of the target.
        model: the float graph, rewritten.

    Raises:
        UsageError, InputError: as `get_recipe`.
    """
    if asked is not None and asked != AUTO:
        return get_recipe(asked), "asked for"
    measured = family_recipes().get(family or "")
    # measured on eight bits and one scale per channel: other grids have other troubles
    if asked is None and measured is not None and scheme.per_channel and not scheme.few_bits:
        return get_recipe(measured), f"measured on the family {family}"
    return automatic_recipe(graph_features(model), scheme)


def automatic_recipe(features: GraphFeatures, scheme: QuantScheme) -> tuple[Recipe, str]:
    """A recipe from what the graph looks like, and why, in one line.

    Args:
        features: of the float graph.
        scheme: says which grids the weights get.
    """
    recipe = Recipe(AUTO, "from the features of the graph")
    reasons = []
    if not scheme.per_channel and features.spread >= SPREAD:
        reasons.append(
            f"channels of {features.worst} weights differ up to {features.worst_spread:.0f}x and "
            "share one scale"
        )
    if scheme.few_bits:
        reasons.append("fewer than 8 bits: rounding decides")
    if reasons:
        return replace(recipe, compensation=True), f"compensation: {'; '.join(reasons)}"
    # eight bits with a scale per channel agree with the float network about as often without
    fits = f"8 bits, and channels of {features.layers} layers fit their scales"
    return recipe, f"bias correction: {fits}"


def family_recipes() -> dict[str, str]:
    """Recipe by family, for the families on whose trained networks one was measured to be best."""
    text = resources.files(__package__).joinpath("recipes.toml").read_text("utf-8")
    families: dict[str, str] = tomllib.loads(text).get("families", {})
    return families


def scheme_for(recipe: Recipe, scheme: QuantScheme) -> QuantScheme:
    """The scheme of a target as the recipe wants it."""
    return ORT_X86_U8 if recipe.wide_weights and scheme == ORT_X86 else scheme


def with_options(recipe: Recipe, options: Mapping[str, tuple[Any, str]]) -> Recipe:
    """The recipe with what the user set explicitly.

    Args:
        recipe: from `choose_recipe`.
        options: ``calib_method``, ``bias_correction`` and ``keep_float``, each with value and
            origin; defaults change nothing, and ``keep_float`` adds to the recipe's.
    """
    for name, (value, origin) in options.items():
        if origin == "default":
            continue
        if name == "keep_float":
            value = tuple(dict.fromkeys((*recipe.keep_float, *value)))
        recipe = replace(recipe, **{name: value})
        if name == "bias_correction":
            recipe = replace(recipe, compensation=recipe.compensation and value)
    return recipe
