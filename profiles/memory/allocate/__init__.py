"""Offsets for buffers: greedy orders, an own exact search, a time limit, and a proved bound."""
