"""What CMSIS-NN needs beside a convolution's own constants: its form of bias and shifts.

They are written for builds that use it (``EDGEC_CMSIS_NN``) and cost nothing in others.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Scales, Table

KERNELS: Final = frozenset({"edgec_conv_s8", "edgec_depthwise_s8"})
SOURCES: Final = (
    "ConvolutionFunctions/arm_convolve_get_buffer_sizes_s8.c",
    "ConvolutionFunctions/arm_convolve_s8.c",
    "ConvolutionFunctions/arm_depthwise_conv_3x3_s8.c",
    "ConvolutionFunctions/arm_nn_mat_mult_kernel_row_offset_s8_s16.c",
    "ConvolutionFunctions/arm_nn_mat_mult_kernel_s8_s16.c",
    "NNSupportFunctions/arm_nn_mat_mult_nt_t_s8.c",
    "NNSupportFunctions/arm_q7_to_q15_with_offset.c",
    "NNSupportFunctions/arm_s8_to_s16_unordered_with_offset.c",
)
"""Files of CMSIS-NN's ``Source`` that ``edgec_cmsis_nn.h`` calls, directly or not."""


def constants(call: Call) -> dict[str, NDArray[np.int32]]:
    """Further fields of a call's parameters; none where CMSIS-NN cannot do it.

    Sums that exceed what its fast requantization takes stay with the own kernels.
    """
    p = call.parameters
    if call.kernel not in KERNELS or p["wide"]:
        return {}
    weights, bias, scales, zero = p["weights"], p["bias"], p["scales"], p["in_zero"]
    assert isinstance(weights, Table)
    assert isinstance(bias, Table)
    assert isinstance(scales, Scales)
    assert isinstance(zero, int)
    assert weights.data is not None
    assert bias.data is not None
    axis = 0 if call.kernel == "edgec_conv_s8" else -1
    by_output = np.moveaxis(weights.data, axis, 0).reshape(len(bias.data), -1)
    plain = bias.data.astype(np.int64) + zero * by_output.astype(np.int64).sum(axis=1)
    if np.abs(plain).max(initial=0) >= 1 << 31:
        return {}
    return {"plain_bias": plain.astype(np.int32), "shift": scales.exponent.astype(np.int32)}
