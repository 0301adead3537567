"""Quantize an ONNX file with Qualcomm's AIMET; runs in an environment of its own.

    python _peer_aimet.py float.onnx feeds.npz int8.onnx

`feeds.npz` holds one array per input, samples on the first axis.
"""

from __future__ import annotations

import sys


def main() -> None:
    import numpy as np
    import onnx
    from aimet_onnx import QuantizationSimModel

    source, feeds, target = sys.argv[1:]
    with np.load(feeds) as arrays:
        stacks = {name: arrays[name] for name in arrays.files}
    count = len(next(iter(stacks.values())))
    items = [{name: stack[i] for name, stack in stacks.items()} for i in range(count)]
    simulation = QuantizationSimModel(
        onnx.load(source),
        param_type="int8",
        activation_type="int8",
        providers=["CPUExecutionProvider"],
    )
    simulation.compute_encodings(items)
    onnx.save(simulation.to_onnx_qdq(), target)


if __name__ == "__main__":
    main()
