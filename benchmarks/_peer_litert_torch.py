"""Convert a network by litert-torch and ai-edge-quantizer, in the environment that has them.

    PYTHONPATH=.src python _peer_litert_torch.py NETWORK VARIANT OUT.tflite FEEDS.npz

VARIANT is fp32, fp16, dyn8, int8 or int16x8. `FEEDS.npz` holds one array ``x``, samples on the
first axis, to calibrate integers on. Prints JSON: seconds of CPU and MiB above what the process
held with the network and after a first conversion of something tiny, which imports what is imported
late.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    import litert_torch
    import numpy as np
    import torch
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    from edgec import models
    from edgec.models.random_init import randomize

    name, variant, target, feeds = sys.argv[1:]
    module = models.create_model(name).eval()
    randomize(module, 0)
    shape = (1, *models.get_spec(name).input_shape[-3:])
    litert_torch.convert(torch.nn.Conv2d(3, 4, 1).eval(), (torch.zeros(1, 3, 8, 8),))
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux, man 5 proc)
    start = time.process_time()
    converted = litert_torch.convert(module, (torch.zeros(shape),))
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(folder) / "fp32.tflite")
        converted.export(source)
        if variant == "fp32":
            Path(target).write_bytes(Path(source).read_bytes())
        else:
            made = quantizer.Quantizer(source)
            results: Any = None
            if variant == "fp16":
                half = qtyping.OpQuantizationConfig(
                    weight_tensor_config=qtyping.TensorQuantizationConfig(
                        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                    ),
                    compute_precision=qtyping.ComputePrecision.FLOAT,
                    explicit_dequantize=True,
                )
                made.update_quantization_recipe(
                    regex=".*",
                    operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                    op_config=half,
                    algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
                )
            elif variant == "dyn8":
                made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            else:
                wide = variant == "int16x8"
                static = recipe.static_wi8_ai16() if wide else recipe.static_wi8_ai8()
                made.load_quantization_recipe(static)
                with np.load(feeds) as arrays:
                    samples = [{"args_0": x[None]} for x in arrays["x"]]
                results = made.calibrate({"serving_default": samples})
            made.quantize(results).export_model(target, overwrite=True)
    seconds = time.process_time() - start
    print(
        json.dumps(
            {
                "route_cpu_seconds": round(seconds, 1),
                "route_peak_mib": round(_memory("VmHWM") - before, 1),
            }
        )
    )


def _memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
