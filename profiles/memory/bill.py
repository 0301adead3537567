"""What a plan costs, in words: the table of ``edgec plan`` and the bill of the budget gate."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.export.errors import BudgetError
from edgec.profiles.memory.plan import Plan
from edgec.profiles.memory.regions import Region

SHOWN = 12
_FIXES = {
    "ram": "choose a smaller --input-size or network, --order best, or a device with more memory",
    "flash": "choose a smaller network or a device with more flash; flash outside of the chip "
    "(QSPI) is a [[memory]] in a copy of the target file",
}


def kib(count: int) -> str:
    """Bytes with their KiB."""
    return f"{count:,} bytes ({count / 1024:,.1f} KiB)"


def text(plan: Plan, target: str | None = None) -> str:
    """The whole report of a plan."""
    steps = [step for step, _ in plan.program.steps()]
    lines = [
        f"{plan.program.name}: {len(plan.buffers)} buffers, {len(steps)} steps"
        + (f", for {target}" if target else ""),
        f"  peak         {kib(plan.peak)}",
        f"  lower bound  {kib(plan.lower_bound)}",
        f"  gap          {100 * plan.gap:.2f} %, " + ("proved" if plan.proved else "not proved"),
        f"  solver       {plan.solver}, {plan.seconds:.2f} s",
    ]
    for region in plan.regions:
        if region.capacity is None:
            continue
        verdict = "fits" if region.fits else f"{kib(region.peak - region.capacity)} too much"
        lines.append(
            f"  {region.kind} {region.name:<8} {kib(region.peak)} of {region.capacity:,}: {verdict}"
        )
    lines += ["", *peak_lines(plan)]
    return "\n".join(lines)


def peak_lines(plan: Plan) -> list[str]:
    """The step with most live bytes and what is live there."""
    worst = plan.peak_step()
    steps = [step for step, _ in plan.program.steps()]
    if worst >= len(steps):
        return []
    step = steps[worst]
    title = " ".join(part for part in (step.kernel, step.name) if part)
    where = f" in {step.module}" if step.module else ""
    lines = [f"peak at step {worst}: {title}{where}"]
    live = plan.live(worst)
    for b in live[:SHOWN]:
        origin = b.module or b.kind
        lines.append(f"  {b.size:>12,}  {b.region} +{b.offset:<10,} {b.id}  ({origin})")
    if len(live) > SHOWN:
        rest = sum(b.size for b in live[SHOWN:])
        lines.append(f"  {rest:>12,}  {len(live) - SHOWN} more")
    return lines


def peak_text(plan: Plan) -> str:
    """The same, the largest of what is live, in one line."""
    return "; ".join(" ".join(line.split()) for line in peak_lines(plan)[:6])


def check_budget(
    plan: Plan, target: str, memories: Sequence[Region] = (), besides: str = ""
) -> None:
    """Raise unless every memory holds what was planned for it.

    Args:
        memories: RAM of the target over which a plan was sought too, if there is more than one.
        besides: further lines of the bill.

    Raises:
        BudgetError: with the bill and the step that causes the peak.
    """
    over = [r for r in plan.regions if not r.fits]
    if not over:
        return
    region = over[0]
    assert region.capacity is not None
    proof = "no plan for this order of steps needs less" if plan.proved else "not proved minimal"
    bill = "; ".join(
        f"{r.kind} {r.name}: {r.peak:,} of {r.capacity:,}"
        for r in plan.regions
        if r.capacity is not None
    )
    if region.kind == "ram" and len(memories) > 1:
        room = sum(memory.bytes or 0 for memory in memories)
        names = " and ".join(memory.name for memory in memories)
        bill += f"; nor do {names} hold it together, which have {room:,}"
    if besides:
        bill += f"; {besides}"
    raise BudgetError(
        "EC550",
        f"{plan.program.name} needs {kib(region.peak)} of {region.kind} {region.name!r}, which has "
        f"{kib(region.capacity)}",
        where=f"target {target}",
        why=f"{bill} ({proof}); {peak_text(plan)}",
        fix=_FIXES[region.kind],
    )
