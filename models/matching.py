"""Fits a state dict to a network, strictly, and explains why it does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from edgec.export.errors import InputError
from edgec.models.factory import build
from edgec.models.registry import ModelSpec, get_spec, list_models

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from a network's."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        parts = [
            f"{len(keys)} {what}: {some(keys)}"
            for what, keys in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.misshaped),
            )
            if keys
        ]
        return "; ".join(parts)


@runtime_checkable
class Adapting(Protocol):
    """A network that can use weights of another architecture, such as its supernet."""

    def adapt_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Its own state dict from `state`, and notes on what was done; or `state` unchanged."""
        ...


def compare(expected: Shapes, given: Shapes) -> Mismatch:
    """Compare two state dicts by key and shape; misshaped keys are listed with both shapes."""
    return Mismatch(
        missing=tuple(key for key in expected if key not in given),
        unexpected=tuple(key for key in given if key not in expected),
        misshaped=tuple(
            f"{key} {_text(given[key])} instead of {_text(shape)}"
            for key, shape in expected.items()
            if key in given and given[key] != shape
        ),
    )


def load_strict(
    network: nn.Module, spec: ModelSpec, tensors: Mapping[str, Tensor], where: str
) -> tuple[str, ...]:
    """Copy `tensors` into `network`, in place; returns notes on what was converted.

    Keys of other known formats of the family are renamed. A BatchNorm's ``num_batches_tracked``
    may be absent, because it has no part in inference and older files lack it.

    Raises:
        InputError: keys or shapes differ (EC723), values are not finite (EC724), or the weights
            are a supernet's that does not hold the network (EC729). The network is unchanged then.
    """
    adapted, notes = _adapt(spec.family, tensors)
    if isinstance(network, Adapting):
        adapted, more = network.adapt_state(adapted)
        notes = (*notes, *more)
    own = network.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked") and key not in adapted:
            adapted[key] = torch.zeros_like(value)
    mismatch = compare(shapes(own), shapes(adapted))
    if mismatch:
        raise InputError(
            "EC723",
            f"the weights do not fit {spec.name}",
            where=where,
            why=str(mismatch),
            fix=_advice(spec, shapes(tensors)),
        )
    bad = [key for key, value in adapted.items() if not _finite(value)]
    if bad:
        raise InputError(
            "EC724",
            f"{len(bad)} of {len(adapted)} weight tensors hold NaN or infinity",
            where=where,
            why=some(bad),
            fix="the training diverged or the file was damaged; use an earlier checkpoint",
        )
    types = sorted(
        {str(v.dtype).removeprefix("torch.") for k, v in adapted.items() if v.dtype != own[k].dtype}
    )
    if types:
        notes = (*notes, f"converted from {', '.join(types)}")
    network.load_state_dict(adapted, strict=True)
    return notes


def shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first names of a list, and how many there are beyond them."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _adapt(family: str, state: Mapping[str, T]) -> tuple[dict[str, T], tuple[str, ...]]:
    """Rename keys of a foreign format, if the family's module knows it."""
    adapt = getattr(import_module(f"edgec.models.{family}"), "adapt_keys", None)
    adapted: tuple[dict[str, T], tuple[str, ...]] = adapt(state) if adapt else (dict(state), ())
    return adapted


def _advice(spec: ModelSpec, given: Shapes) -> str:
    """What to do about weights that do not fit `spec`: the network they belong to, if any."""
    best, best_score, best_mismatch = spec, -1.0, Mismatch((), (), ())
    seen: set[tuple[str, str, str]] = set()
    foreign: set[str] = set()  # families whose first network has hardly a key in common
    for name in [spec.name, *list_models()]:
        candidate = get_spec(name)
        if candidate.family in foreign:
            continue
        # names that differ in the input size alone hold the same weights
        options = {k: v for k, v in candidate.arguments.items() if k != "window"}
        identity = (candidate.family, candidate.factory, repr(options))
        if identity in seen:
            continue
        seen.add(identity)
        with torch.device("meta"):
            expected = shapes(build(name).state_dict())
        renamed = _adapt(candidate.family, given)[0]
        # counters of training steps say nothing about the architecture, and may be left out
        expected, renamed = (
            {k: v for k, v in found.items() if not k.endswith("num_batches_tracked")}
            for found in (expected, renamed)
        )
        if len(expected.keys() & renamed.keys()) < 0.1 * len(renamed):
            foreign.add(candidate.family)
        fitting = sum(expected.get(key) == shape for key, shape in renamed.items())
        score = fitting / len(expected.keys() | renamed.keys())
        if score > best_score:
            best, best_score, best_mismatch = candidate, score, compare(expected, renamed)
    if best_score == 1:
        return f"these are weights of {best.name}: use --model {best.name}"
    keys = [text.split(" ")[0] for text in best_mismatch.misshaped]
    untouched = not best_mismatch.missing and not best_mismatch.unexpected
    if untouched and keys and all(key.startswith("head.") for key in keys):
        classes = given[keys[0]][0]
        return (
            f"these look like weights of {best.name} with {classes} classes instead of "
            f"{best.num_classes}: build it with num_classes={classes}, as file.py:factory"
        )
    if best_score > 0.9:
        return (
            f"the nearest network of the zoo is {best.name} ({best_score:.0%} of the tensors fit)"
        )
    return "no network of the zoo fits; give your own as file.py:factory"


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
