"""A recipe as data: built-in ones by name, own ones from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from edgec.export.errors import InputError, UsageError
from edgec.export.options import CALIBRATION_METHODS, CalibrationMethod

Transform = Literal["equalize", "absorb", "channelwise", "repq", "smooth", "shift"]
Search = Literal["none", "qhyvit"]
Rounding = Literal["nearest", "adaround", "flexround"]


@dataclass(frozen=True)
class Recipe:
    """How a float graph becomes a Q/DQ graph.

    Attributes:
        name: as given to ``--recipe``.
        title: one line: what it is for.
        calib_method: rule for activation ranges.
        transforms: equivalent transforms of the float graph, in this order.
        search: search of ranges and weight scales after calibration.
        rounding: how weights are rounded.
        iterations: training steps per block of learned rounding; 0 for its own default.
        bias_correction: correct biases for the mean error of the weights.
        compensation: instead, round layer after layer so that each weight makes up for the errors
            before it, biases included.
        finetune: steps of joint fine-tuning behind everything else; 0 for none.
        wide_weights: on x86 without VNNI, keep all eight bits of the weights by slower kernels
            instead of the seven that cannot saturate; nothing elsewhere.
        keep_float: module paths, nodes or operator types left in float.
    """

    name: str
    title: str = ""
    calib_method: CalibrationMethod = "mse"
    transforms: tuple[Transform, ...] = ()
    search: Search = "none"
    rounding: Rounding = "nearest"
    iterations: int = 0
    bias_correction: bool = True
    compensation: bool = False
    finetune: int = 0
    wide_weights: bool = False
    keep_float: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "transforms": list(self.transforms)}

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> Recipe:
        """A recipe from the fields of a TOML table.

        Raises:
            ValueError: an unknown field or value.
        """
        known = {field.name for field in fields(cls)} - {"name"}
        for key in table:
            if key not in known:
                raise ValueError(f"unknown field {key!r}; known are {', '.join(sorted(known))}")
        values = dict(table)
        _one_of(values, "calib_method", CALIBRATION_METHODS)
        _one_of(values, "search", get_args(Search))
        _one_of(values, "rounding", get_args(Rounding))
        for key in ("transforms", "keep_float"):
            items = values.get(key, [])
            if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
                raise ValueError(f"{key} is a list of strings")
            values[key] = tuple(items)
        for item in values["transforms"]:
            _one_of({"transforms": item}, "transforms", get_args(Transform))
        for key in ("bias_correction", "wide_weights", "compensation"):
            if not isinstance(values.get(key, True), bool):
                raise ValueError(f"{key} is true or false")
        learns = values.get("rounding", "nearest") != "nearest" or values.get("search") == "qhyvit"
        if values.get("compensation") and learns:
            raise ValueError(
                "compensation, rounding and search exclude each other: each chooses the integers"
            )
        for key in ("iterations", "finetune"):
            count = values.get(key, 0)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"{key} is a whole number, 0 or more")
        if not isinstance(values.get("title", ""), str):
            raise ValueError("title is a string")
        return cls(name, **values)


def _one_of(values: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    if key in values and values[key] not in allowed:
        raise ValueError(f"{key} is {values[key]!r}; one of {', '.join(allowed)}")


def builtin_recipes() -> dict[str, Recipe]:
    """The recipes that come with edgec, by name."""
    text = resources.files(__package__).joinpath("recipes.toml").read_text("utf-8")
    tables = tomllib.loads(text)["recipes"]
    return {name: Recipe.from_table(name, table) for name, table in tables.items()}


def get_recipe(name: str) -> Recipe:
    """A built-in recipe, or one from a ``.toml`` file with the fields at its top level.

    Raises:
        UsageError: EC270, no recipe of that name.
        InputError: EC766, the file cannot be read or holds no recipe.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            return Recipe.from_table(path.stem, tomllib.loads(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise InputError(
                "EC766",
                "the recipe cannot be used",
                where=name,
                why=str(error),
                fix="see `edgec explain EC766` for an example",
            ) from error
    known = builtin_recipes()
    if name not in known:
        raise UsageError(
            "EC270",
            f"unknown recipe {name!r}",
            fix=f"auto, one of {', '.join(known)}, or a .toml file",
        )
    return known[name]
