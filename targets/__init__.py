"""Deployment targets: devices and boards as data (TOML), with a source for every number."""

from edgec.targets.registry import get_target, list_targets
from edgec.targets.schema import Fact, Target

__all__ = ["Fact", "Target", "get_target", "list_targets"]
