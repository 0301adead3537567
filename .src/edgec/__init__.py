"""edgec: an edge-deployment compiler for vision networks.

The whole public face::

    bundle = edgec.compile("emov2_5m", target="jetson")   # the pipeline, as `edgec export`
    bundle = edgec.load("build/…")                        # an existing bundle
    edgec.models.create_model("emov2_5m")                 # a torch.nn.Module of the zoo
    edgec.models.list_models()
    edgec.targets.get_target("jetson")
    edgec.EdgecError                                      # root of every error raised on purpose

Importing this package loads neither torch nor onnx; they come with the first call that needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec import models, targets
from edgec.export.errors import (
    AccuracyGateError,
    BudgetError,
    EdgecError,
    InputError,
    InternalError,
    InterruptedByUser,
    MissingToolError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from edgec.export.bundle import Bundle

__version__ = "0.1.0.dev0"

__all__ = [
    "AccuracyGateError",
    "BudgetError",
    "EdgecError",
    "InputError",
    "InternalError",
    "InterruptedByUser",
    "MissingToolError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "compile",
    "load",
    "models",
    "targets",
]


def compile(model: Any, *, target: str, **options: Any) -> Bundle:
    """Compile a network for a target and return the written bundle.

    Args:
        model: what `edgec export --model` takes (zoo name, path of .onnx or .pt2,
            ``file.py:factory``), or a `torch.nn.Module` in eval mode, with
            ``input_shape=(C, H, W)``.
        target: target name or alias, e.g. ``"jetson"``.
        **options: fields of `edgec.export.options.ExportOptions`, e.g. ``calib="images/"``,
            ``precision="int8"``, ``out="build/mynet"``.

    Raises:
        EdgecError: one of its subclasses; each carries the exit code of the command line.
    """
    from edgec.export.pipeline import compile_model

    return compile_model(model, target=target, **options)


def load(path: str | Path) -> Bundle:
    """Open a bundle folder: its manifest is read and checked, no artifact is loaded yet."""
    from edgec.export.bundle import Bundle

    return Bundle.open(Path(path))
