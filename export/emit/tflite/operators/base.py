"""What the table says about an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node
from edgec.export.emit.tflite.layouts import Rule


def _none(node: Node) -> str:
    return ""


@dataclass(frozen=True)
class Lowering:
    """One operator.

    Attributes:
        rule: orders of axes in which it can compute.
        emit: writes it; `obstacle` found nothing.
        obstacle: why this form of it cannot be written, empty if it can.
    """

    rule: Rule
    emit: Callable[[Emitter, Node], None]
    obstacle: Callable[[Node], str] = _none
