"""Recipes as data: names, files, and what the options change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgec.export.errors import InputError, UsageError
from edgec.export.quantize.recipes.choose import (
    automatic_recipe,
    choose_recipe,
    family_recipes,
    scheme_for,
    with_options,
)
from edgec.export.quantize.recipes.features import GraphFeatures
from edgec.export.quantize.recipes.recipe import Recipe, builtin_recipes, get_recipe
from edgec.export.quantize.scheme import ORT_ARM, ORT_X86, ORT_X86_U8
from edgec.models import get_spec, list_models


def test_builtin_recipes_are_whole() -> None:
    known = builtin_recipes()
    assert {"plain", "default", "equalized", "qhyvit", "smooth", "rounding", "tuned"} <= set(known)
    assert all(recipe.title for recipe in known.values())
    assert known["default"] == Recipe("default", known["default"].title)


def test_families_have_recipes_that_exist() -> None:
    families = {get_spec(name).family for name in list_models()}
    for family, name in family_recipes().items():
        assert family in families
        assert get_recipe(name)


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'transforms = ["equalize", "repq"]\nrounding = "flexround"\nkeep_float = ["head"]'
    )
    found = get_recipe(str(file))
    assert found.name == "mine"
    assert found.transforms == ("equalize", "repq")
    assert (found.rounding, found.keep_float, found.calib_method) == ("flexround", ("head",), "mse")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("transforms = ['equalise']", "transforms is 'equalise'"),
        ("transforms = 'equalize'", "list of strings"),
        ("search = 'all'", "search is 'all'"),
        ("rounding = 4", "rounding is 4"),
        ("bias_correction = 'no'", "true or false"),
        ("wide_weights = 1", "true or false"),
        ("finetune = true", "finetune is a whole number"),
        ("steps = 3", "unknown field 'steps'"),
        ("iterations = -1", "whole number"),
        ("iterations = true", "whole number"),
        ("= 3", "Invalid"),
    ],
)
def test_bad_files_say_why(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        get_recipe(str(file))
    assert caught.value.code == "EC766"
    assert why in (caught.value.why or "")


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe"):
        get_recipe("best")
    with pytest.raises(InputError):
        get_recipe(str(tmp_path / "none.toml"))


def test_the_choice_and_its_origin(hybrid) -> None:
    assert choose_recipe("plain", "emov2", ORT_X86, hybrid) == (get_recipe("plain"), "asked for")
    recipe, origin = choose_recipe(None, None, ORT_X86, hybrid)
    assert recipe == replace(Recipe("auto"), title=recipe.title)
    assert origin.startswith("bias correction: 8 bits, and channels of 6 layers")


def test_wide_weights_are_a_matter_of_x86() -> None:
    wide = get_recipe("wide")
    assert scheme_for(wide, ORT_X86) == ORT_X86_U8
    assert scheme_for(wide, ORT_ARM) == ORT_ARM
    assert scheme_for(get_recipe("default"), ORT_X86) == ORT_X86


def test_what_was_measured_on_a_family_holds_for_its_grids_only(hybrid) -> None:
    family, name = next(iter(family_recipes().items()))
    assert choose_recipe(None, family, ORT_X86, hybrid)[0].name == name
    assert choose_recipe("auto", family, ORT_X86, hybrid)[0].name == "auto"
    assert choose_recipe(None, family, ORT_X86.with_bits(4, 8), hybrid)[0].name == "auto"


SPREAD = GraphFeatures(
    layers=50,
    spread=6.0,
    worst_spread=41.0,
    worst="depthwise",
)


def test_the_automatic_recipe_says_what_it_saw() -> None:
    coarse = replace(ORT_X86, per_channel=False)
    recipe, why = automatic_recipe(SPREAD, coarse)
    assert recipe.compensation
    assert "channels of depthwise weights differ up to 41x" in why
    even, _ = automatic_recipe(replace(SPREAD, spread=1.2), coarse)
    assert not even.compensation
    per_channel, _ = automatic_recipe(SPREAD, ORT_X86)
    assert not per_channel.compensation


@pytest.mark.parametrize("bits", [(4, 8), (6, 6)])
def test_few_bits_are_compensated(bits: tuple[int, int]) -> None:
    recipe, why = automatic_recipe(SPREAD, ORT_X86.with_bits(*bits))
    assert recipe.compensation
    assert why == "compensation: fewer than 8 bits: rounding decides"


def test_without_bias_correction_nothing_is_compensated() -> None:
    recipe = get_recipe("compensated")
    assert with_options(recipe, {"bias_correction": (True, "command line")}).compensation
    assert not with_options(recipe, {"bias_correction": (False, "command line")}).compensation
