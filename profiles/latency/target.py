"""Which constants predict for a target, and how the user's own measurements calibrate them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from edgec.profiles.latency.constants import Fit, shipped_fits
from edgec.profiles.latency.predict import (
    Anchor,
    Prediction,
    any_board,
    calibrate,
    class_constants,
    predict,
)
from edgec.profiles.layers import Layer
from edgec.targets.schema import Target

FEWEST_ANCHORS, MOST_ANCHORS = 3, 10


@dataclass(frozen=True)
class Anchors:
    """Measurements of a board of the user's own.

    Attributes:
        device, runtime: as the user names them.
        threads: of the runtime.
        measured: `FEWEST_ANCHORS` to `MOST_ANCHORS` of them.
    """

    device: str
    runtime: str
    threads: int
    measured: tuple[Anchor, ...]


def core_of(target: Target) -> tuple[str | None, float | None]:
    """Core and its clock in MHz, as far as the target's facts tell; the first of several cores."""
    words = str(target.fact("core") or target.fact("cpu") or "")
    match = re.search(r"Cortex-[A-Z]\d+", words)
    clock = target.fact("cpu_mhz") or target.fact("cpu_clock_mhz")
    return (match[0] if match else None), (None if clock is None else float(clock))


def fit_for(target: Target, precision: str) -> Fit | None:
    """The constants whose runtime resembles the target's most; None where there are none."""
    wanted = {"mcu": "X-CUBE-AI", "cpu": "ncnn"}.get(target.kind)
    if target.kind == "cpu" and core_of(target)[0] is None:
        wanted = "PyTorch (torch.compile)"
    for fit in shipped_fits():
        if fit.runtime == wanted and fit.precision == precision:
            return fit
    return None


def predict_for(
    layers: Sequence[Layer],
    stored: str,
    target: Target,
    *,
    threads: int = 1,
    anchors: Anchors | None = None,
) -> Prediction:
    """Latency of a network on a target, or why there is none.

    Args:
        layers: of the network.
        stored: precision of its activations, e.g. ``"int8"``.
        target: whose core and clock decide which constants apply.
        threads: of the runtime.
        anchors: measurements of the user's own board.
    """
    precision = "int8" if stored == "int8" else "fp32"
    fit = fit_for(target, precision)
    if fit is None:
        basis = f"{target.name}, {stored}"
        return Prediction(basis, refused=_nothing_fitted(target, precision))
    if anchors is not None:
        basis = (
            f"calibrated by {len(anchors.measured)} measurements on {anchors.device}, "
            f"{anchors.runtime}, {_threads(anchors.threads)}; constants of {fit.runtime} "
            f"{fit.precision} on {_boards(fit)} before"
        )
        constants = calibrate(fit, any_board(fit), anchors.measured)
        return predict(fit, constants, layers, basis, scale=fit.calibrated_scale)
    core, clock = core_of(target)
    basis = f"{fit.runtime} {fit.precision}, {_threads(threads)}"
    if core is None or clock is None:
        return Prediction(basis, refused="the target's facts name no core with a clock")
    known = class_constants(fit, core, threads, clock)
    found = fit.core_class(core, threads)
    if known is None or found is None:
        have = sorted({f"{c.core} ({_threads(c.threads)})" for c in fit.classes if c.core == core})
        why = f"no {core} with {_threads(threads)} was measured"
        return Prediction(basis, refused=why + (f"; there are {', '.join(have)}" if have else ""))
    basis = (
        f"{fit.runtime} {fit.precision} on {core} at {clock:.0f} MHz, {_threads(threads)}; "
        f"constants of {found.boards} {'chips' if found.boards > 1 else 'chip'} with this core, "
        f"{len(fit.networks)} networks"
    )
    if target.runtime.name.lower() != fit.runtime.lower():
        basis += f"; {target.runtime.name} was not measured"
    return predict(fit, known, layers, basis)


def anchor_fit(target: Target, precision: str) -> Fit | None:
    """The constants that anchors calibrate, for their work terms and known networks."""
    return fit_for(target, "int8" if precision == "int8" else "fp32")


def transfer(fit: Fit, anchors: Sequence[Anchor]) -> dict[str, Prediction]:
    """The public networks that other boards ran, predicted for the board of the anchors.

    Empty where no mixture was fitted, or where too few anchors are such networks.
    """
    mixture = fit.mixture
    if mixture is None:
        return {}
    known = {a.name: a.latency_ms for a in anchors if a.name in mixture.networks}
    if len(known) < FEWEST_ANCHORS:
        return {}
    basis = f"ran on {_boards(fit)}; {len(known)} networks measured on yours"
    wide = mixture.scale
    return {
        name: Prediction(basis, exp(mean), exp(mean - wide * spread), exp(mean + wide * spread))
        for name, (mean, spread) in mixture.predict(known).items()
        if name not in known
    }


def _nothing_fitted(target: Target, precision: str) -> str:
    if target.kind in ("gpu", "npu"):
        return f"no constants are fitted for {target.kind} targets: measure with edgec bench"
    return f"no constants are fitted for {precision} on {target.kind} targets"


def _boards(fit: Fit) -> str:
    return f"{fit.provenance['boards']} chips"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
