"""Newton's iteration on numbers is the one on arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from edgec.export.tflite.reference.fixed_point import doubling_high_product
from edgec.export.tflite.reference.rsqrt import _product, root_mantissa

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)


@given(INT32, INT32)
@example(1 << 15, 1 << 15)
@example(-(1 << 15), 1 << 15)
@example(1, -(1 << 30))
def test_products(a: int, b: int) -> None:
    assert _product(a, b) == doubling_high_product(np.int64(a), np.int64(b))


@given(st.integers(1, (1 << 31) - 1))
@example(1)
@example(1 << 29)
def test_the_root_is_near(value: int) -> None:
    mantissa, exponent = root_mantissa(value)
    assert abs(mantissa * 2.0 ** (-31 - exponent) * np.sqrt(float(value)) - 1) < 2.0**-19
