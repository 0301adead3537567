"""The budget gate: does it fit the memory it was promised?"""

from __future__ import annotations

from typing import Any

from edgec.export.bundle import Artifact
from edgec.export.errors import BudgetError
from edgec.export.options import INT16X8, MIXED, ExportOptions
from edgec.export.report import mib


def check_budgets(
    options: ExportOptions, artifacts: list[Artifact], graph: dict[str, Any], precision: str
) -> None:
    """Compare the artifact that will be deployed with ``--ram`` and ``--flash``.

    Of embedded C, which is what runs where it is written, RAM is the arena, and flash the constants
    and what their kernels take by the sizes of one compiler.
    Else RAM is the sum of parameters as stored and of the peak of live activations in that
    precision: what must be there at least; the runtime itself is not counted.

    Raises:
        BudgetError: with the bill.
    """
    stored = "int8" if precision == MIXED else precision
    embedded = (a for a in artifacts if a.format == "c" and a.status == "built")
    chosen = next(embedded, None) or next(a for a in artifacts if a.precision == stored)
    assert chosen.bytes is not None
    # of a mixed network the largest activation may be in a block that stayed float
    width = {"fp32": 4, "fp16": 2, "int8": 1, INT16X8: 2, MIXED: 4}[precision]
    activations = graph["activation_peak_bytes"] * width // 4
    if chosen.format == "c":
        ram = chosen.checks["arena_bytes"]
        why = f"{chosen.checks['bill']}; {chosen.checks['peak']}"
    else:
        ram = chosen.bytes + activations
        why = f"parameters {mib(chosen.bytes)} + live activations {mib(activations)}"
    flash = chosen.bytes + (chosen.checks["code_bytes"] if chosen.format == "c" else 0)
    if options.flash is not None and flash > options.flash:
        raise BudgetError(
            "EC580",
            f"{chosen.path} takes {mib(flash)}, the flash budget is {mib(options.flash)}",
            where=chosen.path,
            why=chosen.checks.get("bill") or f"{graph['parameters']:,} parameters in {precision}",
            fix="choose a smaller network or precision (int8 needs --calib), or raise --flash",
        )
    if options.ram is not None and ram > options.ram:
        raise BudgetError(
            "EC581",
            f"{chosen.path} needs {mib(ram)} at least, the RAM budget is {mib(options.ram)}",
            where=chosen.path,
            why=why,
            fix="choose a smaller network, --input-size or precision, or raise --ram",
        )
