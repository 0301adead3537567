"""Latency prediction: analytic work terms, fitted constants, intervals, calibration by anchors."""
