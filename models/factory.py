"""Builds zoo networks (the part of the registry that needs torch)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from edgec.models.mcuformer import MCUFormer
from edgec.models.mcuformer_config import load_config
from edgec.models.registry import get_spec


def build(name: str, **overrides: Any) -> nn.Module:
    """Build the network `name` in eval mode, untrained. See `edgec.models.create_model`."""
    spec = get_spec(name)
    module = import_module(f"edgec.models.{spec.family}")
    network: nn.Module = getattr(module, spec.factory)(**{**spec.arguments, **overrides})
    return network.eval()


def build_config(path: Path) -> nn.Module:
    """Build the MCUFormer subnet that a JSON file describes, in eval mode, untrained.

    Raises:
        InputError: the file cannot be read (EC727) or describes no subnet (EC728).
    """
    return MCUFormer(load_config(path)).eval()
