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
NPUS = {r"Hexagon HTP v\d+": "TFLite (QNN delegate)", "Neural-ART": "ST Edge AI Core"}
"""NPUs that constants are kept for by name, and the runtime that was measured on them."""


@dataclass(frozen=True)
class Anchors:
    """Measurements of a board of the user's own.

    Attributes:
        device, runtime: as the user names them.
        threads: of the runtime.
        measured: `FEWEST_ANCHORS` to `MOST_ANCHORS` of them.
        fit: the constants that they calibrate.
    """

    fit: Fit
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


def cores_in(target: Target) -> int | None:
    """How many cores the target's facts count, of all kinds; None where they do not."""
    counts = re.findall(r"(\d+)x ", str(target.fact("cpu") or ""))
    return sum(map(int, counts)) or None


def npu_of(target: Target) -> tuple[str, str] | None:
    """The NPU that constants are kept for by name, e.g. ``"Hexagon HTP v75"``, and its runtime."""
    for pattern, runtime in NPUS.items():
        if match := re.search(pattern, str(target.fact("npu") or "")):
            return match[0], runtime
    return None


def fit_for(target: Target, stored: str, threads: int, runtime: str = "") -> Fit | None:
    """The constants whose runtime resembles the target's most; None where there are none.

    Args:
        target: its kind and core decide.
        stored: precision of activations, e.g. ``"int8"``.
        threads: of the runtime.
        runtime: that measured the anchors. PyTorch has constants of its own, of one processor with
            many threads; any other resembles ncnn more, which was measured on processors of all
            kinds.
    """
    precision = "int8" if stored == "int8" else "fp32"
    count = "one" if threads == 1 else "several"
    wanted = {"mcu": "X-CUBE-AI", "cpu": "ncnn"}.get(target.kind)
    npu = npu_of(target)
    core, clock = core_of(target)
    if npu is not None and (core is None or clock is None or not _ran_on(core)):
        wanted = npu[1]
    elif target.kind == "cpu" and core is None and "torch" in runtime.lower():
        wanted = "PyTorch (torch.compile)"
    for fit in shipped_fits():
        same = fit.runtime == wanted and fit.precision == precision
        if same and fit.threads in ("any", count):
            return fit
    return None


def _ran_on(core: str) -> bool:
    """Whether any constants are of this core."""
    return any(entry.core == core for fit in shipped_fits() for entry in fit.classes)


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
    if anchors is not None:
        return _calibrated(layers, anchors)
    fit = fit_for(target, stored, threads)
    if fit is None:
        return Prediction(f"{target.name}, {stored}", refused=_nothing_fitted(target, stored))
    if fit.runtime in NPUS.values():
        return _on_npu(layers, target, fit)
    core, clock = core_of(target)
    basis = f"{fit.runtime} {fit.precision}, {_threads(threads)}"
    if core is None or clock is None:
        return Prediction(basis, refused="the target's facts name no core with a clock")
    cores = cores_in(target)
    if cores is not None and threads > cores:
        return Prediction(basis, refused=f"{target.name} has {cores} cores")
    known = fit.core_class(core, threads)
    if known is None:
        have = _measured(fit, core)
        why = f"no {core} with {_threads(threads)} was measured"
        return Prediction(basis, refused=why + (f"; there are {', '.join(have)}" if have else ""))
    basis = (
        f"{fit.runtime} {fit.precision} on {core} at {clock:.0f} MHz, {_threads(threads)}; "
        f"constants of {known.boards} {'chips' if known.boards > 1 else 'chip'} with this core, "
        f"{len(fit.known(threads))} networks{_unmeasured(target, fit)}"
    )
    return predict(fit, class_constants(known, clock), layers, basis)


def _on_npu(layers: Sequence[Layer], target: Target, fit: Fit) -> Prediction:
    """Latency on an NPU; its clock is no fact that anyone publishes."""
    npu, _ = npu_of(target) or ("", "")
    known = fit.core_class(npu, 1)
    numbers = "8 bits" if fit.precision == "int8" else "float16"
    basis = f"{fit.runtime}, {numbers} on {npu}"
    if known is None:
        have = ", ".join(entry.core for entry in fit.classes)
        return Prediction(basis, refused=f"no {npu} was measured; there are {have}")
    others = fit.provenance["boards"]
    basis += (
        f"; constants of {known.boards} {'chips' if known.boards > 1 else 'chip'} with it"
        f"{f', drawn to those of {others} chips' if others > 1 else ''}, {len(fit.known(1))} "
        f"networks{_unmeasured(target, fit, ' on the CPU')}"
    )
    return predict(fit, class_constants(known, known.clock_mhz), layers, basis)


def _calibrated(layers: Sequence[Layer], anchors: Anchors) -> Prediction:
    """Latency on the board of the anchors."""
    fit = anchors.fit
    basis = (
        f"calibrated by {len(anchors.measured)} measurements on {anchors.device}, "
        f"{anchors.runtime}, {_threads(anchors.threads)}; constants of {fit.runtime} "
        f"{fit.precision} on {_boards(fit)} before"
    )
    constants = calibrate(fit, any_board(fit, anchors.threads), anchors.measured)
    return predict(fit, constants, layers, basis, scale=fit.calibrated_scale)


def _unmeasured(target: Target, fit: Fit, where: str = "") -> str:
    """What the target runs artifacts with, and nobody measured for the constants."""
    names = [target.runtime.name] if target.runtime.name not in ("edgec-c", fit.runtime) else []
    names += ["edgec's C"] if "c" in target.formats else []
    verb = "were" if len(names) > 1 else "was"
    return f"; {' and '.join(names)}{where} {verb} not measured" if names else ""


def transfer(anchors: Anchors) -> dict[str, Prediction]:
    """The public networks that other boards ran, predicted for the board of the anchors.

    Empty where no mixture was fitted, or where too few anchors are such networks.
    """
    mixture = anchors.fit.mixture
    if mixture is None:
        return {}
    known = {a.name: a.latency_ms for a in anchors.measured if a.name in mixture.networks}
    if len(known) < FEWEST_ANCHORS:
        return {}
    basis = f"ran on {_boards(anchors.fit)}; {len(known)} networks measured on yours"
    wide = mixture.scale
    return {
        name: Prediction(basis, exp(mean), exp(mean - wide * spread), exp(mean + wide * spread))
        for name, (mean, spread) in mixture.predict(known).items()
        if name not in known
    }


def _measured(fit: Fit, core: str) -> list[str]:
    """Which numbers of threads of a core are known, in all sets of the runtime."""
    counts = {
        entry.threads
        for other in shipped_fits()
        if (other.runtime, other.precision) == (fit.runtime, fit.precision)
        for entry in other.classes
        if entry.core == core
    }
    return [f"{core} ({_threads(count)})" for count in sorted(counts)]


def _nothing_fitted(target: Target, precision: str) -> str:
    if target.kind in ("gpu", "npu"):
        return f"no constants are fitted for {target.kind} targets: measure with edgec bench"
    return f"no constants are fitted for {precision} on {target.kind} targets"


def _boards(fit: Fit) -> str:
    return f"{fit.provenance['boards']} chips"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
