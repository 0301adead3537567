"""Builds zoo networks (the part of the registry that needs torch)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from edgec.models.registry import get_spec


def build(name: str, **overrides: Any) -> nn.Module:
    """Build the network `name` in eval mode, untrained. See `edgec.models.create_model`."""
    spec = get_spec(name)
    module = import_module(f"edgec.models.{spec.family}")
    network: nn.Module = getattr(module, spec.factory)(**{**spec.arguments, **overrides})
    return network.eval()
