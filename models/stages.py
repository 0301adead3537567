"""Stages of a backbone: what necks of detection and segmentation networks take as input.

A stage is the part of a network between two changes of resolution; its output is the map behind its
last block, before any norm or convolution that belongs to the classifier. Which stages a network of
the zoo has is kept in its family's TOML; `edgec.models.features` builds the network that returns
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgec.export.errors import UsageError

ALL = "all"


@dataclass(frozen=True)
class Stage:
    """One stage of a backbone.

    Attributes:
        number: place in the network, from 1.
        stride: input pixels per pixel of its output, along each axis.
        channels: of its output.
    """

    number: int
    stride: int
    channels: int

    @property
    def name(self) -> str:
        """Name of the network output: ``"stage1"``."""
        return f"stage{self.number}"

    def to_json(self) -> dict[str, Any]:
        """All fields and the name, JSON-ready."""
        return {"name": self.name, **asdict(self)}

    def __str__(self) -> str:
        return f"{self.number} (stride {self.stride}, {self.channels} channels)"


def make_stages(facts: Sequence[Sequence[int]]) -> tuple[Stage, ...]:
    """Stages of (stride, channels) pairs in the order of the network."""
    return tuple(Stage(i, stride, channels) for i, (stride, channels) in enumerate(facts, 1))


def check_wanted(wanted: Sequence[str]) -> None:
    """Refuse what `select_stages` could not read.

    Raises:
        ValueError: an entry is neither ``all`` nor a number nor a slash and a number.
    """
    if not wanted:
        raise ValueError("write all, stage numbers such as 2,3,4, or strides such as /8,/16,/32")
    for entry in wanted:
        digits = entry.removeprefix("/")
        if entry != ALL and not (digits.isascii() and digits.isdigit() and int(digits) > 0):
            raise ValueError(
                f"{entry!r} is neither {ALL} nor a stage such as 3 nor a stride such as /16"
            )


def select_stages(
    stages: Sequence[Stage], wanted: Sequence[str], *, network: str
) -> tuple[Stage, ...]:
    """The stages that ``--features`` asks for, in the order of the network, each once.

    Args:
        stages: what the network has.
        wanted: entries such as ``"3"`` (the third stage), ``"/16"`` (the last stage of stride 16)
            or ``"all"``.
        network: its name, for the message.

    Raises:
        UsageError: the network has no such stage (EC227).
    """
    chosen: set[Stage] = set()
    for entry in wanted:
        if entry == ALL:
            found = list(stages)
        elif entry.startswith("/"):
            found = [s for s in stages if s.stride == int(entry[1:])][-1:]
        else:
            found = [s for s in stages if s.number == int(entry)]
        if not found:
            raise UsageError(
                "EC227",
                f"{network} has no stage {entry!r}",
                fix="stages: " + ", ".join(map(str, stages)) if stages else "it has no stages",
            )
        chosen.update(found)
    return tuple(stage for stage in stages if stage in chosen)
