"""Finds targets: those shipped with edgec, and the user's own TOML files.

A file of the user's own is named by its path (``--target ./myboard.toml``), or by its name when it
lies in `user_folder`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path

import platformdirs

from edgec.export.errors import InputError, UsageError
from edgec.targets.schema import Target


def list_targets() -> list[str]:
    """Names of the shipped targets, sorted (aliases not included)."""
    return sorted(_shipped())


def user_folder() -> Path:
    """Where target files of the user's own are found by name.

    ``EDGEC_TARGETS_DIR``, or ``targets`` in edgec's configuration folder of the operating system.
    """
    folder = os.environ.get("EDGEC_TARGETS_DIR")
    return Path(folder) if folder else Path(platformdirs.user_config_dir("edgec")) / "targets"


def list_user_targets() -> list[str]:
    """Names of the targets in `user_folder`, sorted."""
    return sorted(path.stem for path in user_folder().glob("*.toml"))


def get_target(name: str) -> Target:
    """The target called `name`.

    A shipped name or alias, the path of a ``.toml`` file, or the name of one in `user_folder`;
    shipped names come first, so that a command means the same everywhere.

    Raises:
        UsageError: no such target; the message lists the nearest names.
        InputError: the target file is broken.
    """
    if name.endswith(".toml"):
        return load_target(Path(name))
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    aliases = {alias: target for target in shipped.values() for alias in target.aliases}
    if name in aliases:
        return aliases[name]
    own = list_user_targets()
    if name in own:
        return load_target(user_folder() / f"{name}.toml")
    near = difflib.get_close_matches(name, [*shipped, *aliases, *own], n=4, cutoff=0.4)
    raise UsageError(
        "EC201",
        f"unknown target {name!r}",
        fix=(f"did you mean {', '.join(near)}? " if near else "")
        + "`edgec targets list` shows all names; a file of your own ends in .toml",
    )


def load_target(path: Path) -> Target:
    """Read a target file of the user's own.

    Raises:
        InputError: not readable, not TOML, or not a valid target.
    """
    try:
        return Target.from_toml(path.stem, tomllib.loads(path.read_text("utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            "EC781",
            "cannot read the target file",
            where=str(path),
            why=str(error),
            fix="start from `edgec targets new NAME`",
        ) from error


def target_toml(name: str) -> str:
    """Source text of a shipped target, comments included: a template for one's own."""
    return _folder().joinpath(f"{get_target(name).name}.toml").read_text("utf-8")


@cache
def _shipped() -> dict[str, Target]:
    targets = {}
    for entry in sorted(_folder().iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            name = entry.name.removesuffix(".toml")
            targets[name] = Target.from_toml(
                name, tomllib.loads(entry.read_text("utf-8")), entry.name
            )
    return targets


def _folder() -> resources.abc.Traversable:
    return resources.files("edgec.targets")
