"""Fixtures shared by the tests of the export pipeline."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


@pytest.fixture(scope="session")
def backend_cases() -> list[Any]:
    """The node tests that ship with the onnx package; they take long to build, so only once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite overflows on purpose while it is built
        from onnx.backend.test.loader import load_model_tests

        return [case for case in load_model_tests(kind="node") if case.data_sets]
