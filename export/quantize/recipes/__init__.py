"""Quantization recipes: which methods, in which order, for which network."""
