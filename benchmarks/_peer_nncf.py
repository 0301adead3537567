"""Quantize an ONNX file with NNCF; runs in an environment of its own, which has no edgec.

    python _peer_nncf.py float.onnx feeds.npz int8.onnx [transformer]

`feeds.npz` holds one array per input, samples on the first axis.
"""

from __future__ import annotations

import sys


def main() -> None:
    import nncf
    import numpy as np
    import onnx

    source, feeds, target = sys.argv[1:4]
    with np.load(feeds) as arrays:
        stacks = {name: arrays[name] for name in arrays.files}
    count = len(next(iter(stacks.values())))
    items = [{name: stack[i] for name, stack in stacks.items()} for i in range(count)]
    options = {}
    if "transformer" in sys.argv[4:]:
        options = {
            "model_type": nncf.ModelType.TRANSFORMER,
            "preset": nncf.QuantizationPreset.MIXED,
        }
    quantized = nncf.quantize(onnx.load(source), nncf.Dataset(items), subset_size=count, **options)
    onnx.save(quantized, target)


if __name__ == "__main__":
    main()
