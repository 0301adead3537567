"""Bytes that requirements and all that they require take on disk; runs in any environment.

python _installed.py litert-torch
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def installed(requirements: Iterable[str], without: Iterable[str] = ("torch",)) -> int:
    """Bytes of the `requirements` that are installed and of what they require.

    What is in `without`, and what those require, is not counted.
    """
    found = _closure(requirements)
    left_out = _closure(without)
    return sum(_bytes(one) for name, one in found.items() if name not in left_out)


def _closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    queue = list(requirements)
    while queue:
        # extras of requirements are not followed: none of the compared tools asks for one
        name = re.match(r"[\w.-]+", queue.pop().strip())
        key = re.sub(r"[-_.]+", "-", name[0]).lower() if name else ""
        if not key or key in found:
            continue
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:
            continue
        queue += [one for one in found[key].requires or () if "extra" not in one.partition(";")[2]]
    return found


def _bytes(found: Distribution) -> int:
    paths = (Path(str(found.locate_file(file))) for file in found.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    print(installed(sys.argv[1:]))
