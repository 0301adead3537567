"""Which recipe a network gets when none is asked for, and what the options change in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from edgec.export.quantize.recipes.recipe import Recipe, get_recipe
from edgec.export.quantize.scheme import QuantScheme

DEFAULT = "default"
PER_TENSOR = "equalized"


def choose_recipe(asked: str | None, family: str | None, scheme: QuantScheme) -> tuple[Recipe, str]:
    """The recipe, and where the choice came from.

    Args:
        asked: name or ``.toml`` file; None leaves the choice to what was measured on the family,
            else to the scheme.
        family: of the zoo; None for other networks.
        scheme: weights with one scale per tensor need their channels equalized first.

    Raises:
        UsageError, InputError: as `get_recipe`.
    """
    if asked is not None:
        return get_recipe(asked), "asked for"
    if not scheme.per_channel:
        return get_recipe(PER_TENSOR), f"weights of {scheme.name} have one scale per tensor"
    measured = family_recipes().get(family or "")
    if measured is not None:
        return get_recipe(measured), f"measured on the family {family}"
    return get_recipe(DEFAULT), "default"


def family_recipes() -> dict[str, str]:
    """Recipe by family, for the families on whose trained networks one was measured to be best."""
    text = resources.files(__package__).joinpath("recipes.toml").read_text("utf-8")
    families: dict[str, str] = tomllib.loads(text).get("families", {})
    return families


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
    return recipe
