"""Class names of a classifier."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgec.export.errors import InputError


def shipped_labels(name: str) -> tuple[str, ...]:
    """The class names of a data set (``imagenet-1k``, ``cifar-10``) in index order."""
    file = resources.files("edgec.models").joinpath(f"labels/{name}.txt")
    return tuple(file.read_text("utf-8").splitlines())


def read_labels(path: Path) -> tuple[str, ...]:
    """One class name per line; blank lines at the end are ignored.

    Raises:
        InputError: not readable as UTF-8 text, or empty.
    """
    try:
        lines = path.read_text("utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "EC795",
            "cannot read the class names",
            where=str(path),
            why=str(error),
            fix="give a UTF-8 text file with one name per line",
        ) from error
    if not lines:
        raise InputError(
            "EC795",
            "the file of class names is empty",
            where=str(path),
            fix="write one name per line",
        )
    return tuple(line.strip() for line in lines)
