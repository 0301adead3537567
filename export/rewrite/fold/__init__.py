"""Arithmetic that can be done now instead of on the device."""
