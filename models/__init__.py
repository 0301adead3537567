"""The model zoo: network definitions, registry, weights, preprocessing.

`list_models` and `get_spec` read facts only; torch is loaded by `create_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgec.models.registry import ModelSpec, get_spec, list_models

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSpec", "create_model", "get_spec", "list_models"]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a zoo network in eval mode with its initial (untrained) parameters.

    Args:
        name: registry name, e.g. ``"emov2_5m"``.
        **overrides: keyword arguments of the family's factory, e.g. ``num_classes=10``.

    Raises:
        UsageError: unknown name (the message lists the nearest ones).
    """
    from edgec.models.factory import build

    return build(name, **overrides)
