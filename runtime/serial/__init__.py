"""Boards behind a serial port."""
