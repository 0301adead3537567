"""Embedded C: a network as kernel calls on one planned arena, without libraries."""
