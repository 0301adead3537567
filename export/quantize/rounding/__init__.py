"""Learned rounding: weights rounded so that blocks of the network keep their outputs."""
