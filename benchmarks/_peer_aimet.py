"""Quantize an ONNX file with AIMET; runs in an environment of its own.

    python _peer_aimet.py float.onnx feeds.npz int8.onnx [cle]

`feeds.npz` holds one array per input, samples on the first axis.
"""

from __future__ import annotations

import sys


def main() -> None:
    import numpy as np
    import onnx
    from aimet_onnx.cross_layer_equalization import equalize_model
    from aimet_onnx.quantsim import QuantizationSimModel

    source, feeds, target, *options = sys.argv[1:]
    with np.load(feeds) as arrays:
        stacks = {name: arrays[name] for name in arrays.files}
    count = len(next(iter(stacks.values())))
    model = onnx.load(source)
    if "cle" in options:
        equalize_model(model)
    simulation = QuantizationSimModel(model, param_type="int8", activation_type="int8")
    simulation.compute_encodings(
        {name: stack[i] for name, stack in stacks.items()} for i in range(count)
    )
    onnx.save(simulation.to_onnx_qdq(), target)


if __name__ == "__main__":
    main()
