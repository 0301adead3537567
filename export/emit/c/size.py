"""RAM and flash of a network as C, without writing it."""

from __future__ import annotations

import sys

from edgec.export.emit.c.call import Table
from edgec.export.emit.c.lower import Lowered
from edgec.export.emit.c.stream import joined, widest
from edgec.export.emit.c.text import Constants, value
from edgec.profiles.memory.plan import plan


def constant_bytes(lowered: Lowered) -> int:
    """Bytes of all arrays that the source of `lowered` would hold."""
    constants = Constants()
    for call in lowered.calls:
        for name, parameter in call.parameters.items():
            value(parameter, name, constants)
        for operand in call.inputs:
            if isinstance(operand, Table) and operand.data is not None:
                constants.name(operand.data, "operand")
    return constants.bytes


class Arenas:
    """Arenas of a network with ever more of its wide tensors computed row by row.

    Attributes:
        constants: bytes of its constants.
    """

    def __init__(self, lowered: Lowered) -> None:
        self.constants = constant_bytes(lowered)
        self._next: Lowered | None = lowered
        self._peaks: list[int] = []

    def within(self, limit: int | None) -> int:
        """The first arena of at most `limit` bytes, or the smallest where there is none."""
        limit = sys.maxsize if limit is None else limit
        for peak in self._peaks:
            if peak <= limit:
                return peak
        while self._next is not None:
            lowered = self._next
            self._peaks.append(plan(lowered.program).peak)
            chain = widest(lowered)
            self._next = None if chain is None else joined(lowered, chain)
            if self._peaks[-1] <= limit:
                return self._peaks[-1]
        return min(self._peaks)
