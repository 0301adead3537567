"""The int8 part of an export: its recipe, carried out on the data of the export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import onnx_ir as ir

from edgec.export.data import CalibrationData
from edgec.export.emit.tensorrt.placement import best, note, try_placements
from edgec.export.emit.tensorrt.proxy import proxy_python, stand_in
from edgec.export.errors import InternalError
from edgec.export.options import AUTO_PLACEMENT, MIXED
from edgec.export.plan import Job
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.mixed.choice import Precision, executable_precisions
from edgec.export.quantize.mixed.price import predicted_on
from edgec.export.quantize.placement import placed
from edgec.export.quantize.recipes.apply import Budget, Notes, quantize_by, transform
from edgec.export.quantize.recipes.choose import choose_recipe, scheme_for, with_options
from edgec.export.quantize.recipes.recipe import Recipe
from edgec.export.quantize.scheme import QuantScheme, get_scheme
from edgec.export.rewrite import numerics
from edgec.export.source import Captured
from edgec.export.tflite_cut import Split
from edgec.targets.operators.table import select_table

DEFAULT_MIXED_DROP = 0.5
"""Points that ``--precision mixed`` may lose when no budget is given."""


@dataclass
class Quantization:
    """A recipe for one export, and what its steps reported.

    Attributes:
        job: the export.
        recipe: with its options.
        chosen: where the recipe came from.
        scheme: of the target.
        notes: what the steps did; grows as they run.
        executes: of a format whose files mix activations of 8 and 16 bits (the scheme has `wide`
            rules): whether it can be written for the target from a Q/DQ graph.
    """

    job: Job
    recipe: Recipe
    chosen: str
    scheme: QuantScheme
    notes: Notes = field(default_factory=list)
    executes: Callable[[ir.Model], bool] | None = None

    def prepare(self, master: ir.Model, data: CalibrationData) -> ir.Model:
        """The float graph after the recipe's equivalent transforms, checked to compute the same.

        Raises:
            InternalError: EC181, it does not.
        """
        if not self.recipe.transforms:
            return master
        graph, notes = transform(master, self.recipe, data.fit_feeds, self.scheme)
        self.notes += notes
        # on samples, not on noise: some transforms are exact only for values like theirs
        feeds = [dict(feed) for feed in islice(data.fit_feeds(), 2)]
        names = [str(v.name) for _ in feeds for v in master.graph.outputs]
        before, after = (numerics.run(numerics.serialize(g), feeds) for g in (master, graph))
        difference = numerics.compare(names, before, after)
        if difference is not None:
            raise InternalError(
                "EC181",
                "an equivalent transform changed what the network computes",
                where=f"recipe {self.recipe.name}: {', '.join(self.recipe.transforms)}",
                why=str(difference),
                fix="choose another --recipe, and please report this with the model",
            )
        return graph

    def quantize(
        self,
        master: ir.Model,
        calibration: Calibration,
        data: CalibrationData,
        tick: Callable[[int, int], None],
    ) -> ir.Model:
        """The Q/DQ graph of the prepared float graph."""
        made = quantize_by(
            self.recipe,
            master,
            calibration,
            data.fit_feeds,
            self.scheme,
            budget=self.budget(master, data),
            on_progress=tick,
        )
        self.notes += made.notes
        return made.graph

    def place(
        self,
        master: ir.Model,
        calibration: Calibration,
        data: CalibrationData,
        tick: Callable[[int, int], None],
    ) -> None:
        """Settle which operators of a TensorRT graph get Q/DQ (``--placement``)."""
        wanted, target = self.job.options.placement, self.job.target
        if target.runtime.name != "tensorrt":
            return
        if wanted != AUTO_PLACEMENT:
            self.scheme = placed(self.scheme, wanted)
            return
        python = proxy_python()
        if python is None or self.job.options.precision == MIXED:
            return
        sm = target.fact("gpu_sm")
        found = try_placements(
            master,
            calibration,
            self.scheme,
            lambda: (feed for feed, _ in data.holdout_feeds()),
            python,
            stand_in(sm if isinstance(sm, int) else None)[0],
            exclude=self.recipe.keep_float,
            tick=tick,
        )
        chosen = best(found)
        self.scheme = placed(self.scheme, chosen.name)
        self.notes.append(note(found, chosen))

    def budget(self, master: ir.Model, data: CalibrationData) -> Budget | None:
        """What ``--precision mixed`` has to keep; None for plain int8."""
        options = self.job.options
        if options.precision != MIXED:
            return None
        max_drop = options.max_drop
        if max_drop is None and options.max_bytes is None and options.max_latency is None:
            max_drop = DEFAULT_MIXED_DROP
        return Budget(
            data.fit_samples,
            data.holdout_feeds,
            max_drop,
            options.max_bytes,
            options.max_latency,
            None if options.max_latency is None else predicted_on(self.job.target),
            self._precisions(master),
            self.executes,
        )

    def _precisions(self, master: ir.Model) -> tuple[Precision, ...]:
        if self.scheme.wide is not None:
            return ("float", "int16x8", "int8")
        runtime = self.job.target.runtime
        try:
            table = select_table(runtime.name, runtime.version).table
        except KeyError:
            return ("float", "int8")
        row = table.find("", "DequantizeLinear")
        types = frozenset() if row is None else row.types_at(runtime.opset)
        return executable_precisions(master, types)

    def in_format(
        self, scheme: QuantScheme, wide: QuantScheme | None, executes: Callable[[ir.Model], bool]
    ) -> Quantization:
        """The same for another format, whose mixed precisions may have 16-bit activations.

        Args:
            scheme: of the format.
            wide: its rules with 16-bit activations, where the target has kernels for them.
            executes: see `executes`.
        """
        if self.job.options.precision == MIXED:
            scheme = replace(scheme, wide=wide)
        return replace(self, scheme=scheme, notes=[], executes=executes)

    def divided(self, split: Split) -> Quantization:
        """The same with more nodes in float, and some on integers behind them."""
        keep = tuple(dict.fromkeys((*self.recipe.keep_float, *split.keep_float)))
        recipe = replace(self.recipe, keep_float=keep)
        return replace(self, recipe=recipe, scheme=split.rules(self.scheme), notes=[])

    def mixed(self) -> dict[str, Any]:
        """What the search for a mixed precision found, for an artifact's checks; empty without."""
        found = [note for note in self.notes if note["step"] == "mixed"]
        return {"mixed": found[-1]} if found else {}

    def to_json(self) -> dict[str, Any]:
        """Recipe, where it came from, and what its steps did."""
        return {"recipe": self.recipe.to_json(), "chosen": self.chosen, "steps": self.notes}


def choose_quantization(job: Job, captured: Captured, master: ir.Model) -> Quantization:
    """The recipe of an export with calibration data; `master` is the rewritten float graph."""
    assert job.target.int8_scheme is not None  # `prepare` refused the job otherwise
    scheme = get_scheme(job.target.int8_scheme)
    family = None if captured.spec is None else captured.spec.family
    recipe, chosen = choose_recipe(job.options.recipe, family, scheme, master)
    explicit = {
        name: (getattr(job.options, name), job.resolved.origin[name])
        for name in ("calib_method", "bias_correction", "keep_float")
    }
    recipe = with_options(recipe, explicit)
    return Quantization(job, recipe, chosen, scheme_for(recipe, scheme))
