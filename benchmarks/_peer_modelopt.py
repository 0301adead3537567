"""Quantize an ONNX file with NVIDIA ModelOpt; runs in an environment of its own.

    python _peer_modelopt.py float.onnx feeds.npz int8.onnx [max|entropy]

`feeds.npz` holds one array per input, samples on the first axis.
"""

from __future__ import annotations

import sys


def main() -> None:
    import numpy as np
    from modelopt.onnx.quantization import quantize

    source, feeds, target, *method = sys.argv[1:]
    with np.load(feeds) as arrays:
        # its reader splits the first axis into samples of the graph's batch
        stacks = {name: arrays[name].reshape(-1, *arrays[name].shape[2:]) for name in arrays.files}
    quantize(
        source,
        quantize_mode="int8",
        calibration_data=stacks,
        calibration_method=method[0] if method else "entropy",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=target,
    )


if __name__ == "__main__":
    main()
