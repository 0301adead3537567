"""Equivalent transforms: float graphs that compute the same and are easier to quantize."""
