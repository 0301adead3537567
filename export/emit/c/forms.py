"""Forms of a network that compute the same from less memory, and the first that a device holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.export.emit.c.call import Table
from edgec.export.emit.c.lower import Lowered
from edgec.export.emit.c.stream import joined, widest
from edgec.export.emit.c.text import Constants, value
from edgec.profiles.memory.plan import Plan, plan
from edgec.profiles.memory.regions import ANY_RAM, Region


@dataclass(frozen=True)
class Fitted:
    """A form of a network in the memories of a device.

    Attributes:
        lowered: the form.
        plan: of its program; fits, if any form does.
        streamed: names of the steps that compute wide tensors row by row.
    """

    lowered: Lowered
    plan: Plan
    streamed: tuple[str, ...]


class Forms:
    """A network as it is, and with ever more of its wide tensors computed row by row.

    Forms and their plans are kept: many devices can be asked about.
    """

    def __init__(self, lowered: Lowered) -> None:
        self._forms = [lowered]
        self._streamed: list[str] = []
        self._plans: dict[tuple[int, Region], Plan] = {}

    def fitted(self, rams: Sequence[Region], limit: int | None = None) -> Fitted:
        """The first form whose arena the largest of `rams` holds, or all of them together.

        Args:
            rams: memories of the device, the preferred ones first; none for any memory.
            limit: bytes that all arenas together may take, below what the memories have.

        Returns:
            The form with the shortest code that fits: wide tensors are computed row by row, the
            largest first, where the arena does not fit otherwise; where that is not enough, the
            last form goes to several memories, or, too large, to one.
        """
        region = max(
            rams, key=lambda r: float("inf") if r.bytes is None else r.bytes, default=ANY_RAM
        )
        sizes = [size for size in (region.bytes, limit) if size is not None]
        number = 0
        planned = self._plan(number, region)
        while sizes and planned.peak > min(sizes) and self._has(number + 1):
            number += 1
            planned = self._plan(number, region)
        if sizes and planned.peak > min(sizes) and len(rams) > 1:
            spread = plan(self._forms[number].program, rams)
            if spread.fits and (limit is None or spread.peak <= limit):
                planned = spread
        return Fitted(self._forms[number], planned, tuple(self._streamed[:number]))

    def _plan(self, number: int, region: Region) -> Plan:
        if (number, region) not in self._plans:
            self._plans[number, region] = plan(self._forms[number].program, [region])
        return self._plans[number, region]

    def _has(self, number: int) -> bool:
        """Whether there is such a form; makes the one after the last."""
        if number == len(self._forms):
            last = self._forms[-1]
            chain = widest(last)
            if chain is not None:
                self._streamed.append(last.calls[chain.calls[-1]].name)
                self._forms.append(joined(last, chain))
        return number < len(self._forms)


def constant_bytes(lowered: Lowered) -> int:
    """Bytes of all constant arrays that the source of `lowered` would hold."""
    constants = Constants()
    for call in lowered.calls:
        for name, parameter in call.parameters.items():
            value(parameter, name, constants)
        for operand in call.inputs:
            if isinstance(operand, Table) and operand.data is not None:
                constants.name(operand.data, "operand")
    return constants.bytes
