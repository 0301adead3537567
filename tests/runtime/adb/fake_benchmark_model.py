"""A stand-in for LiteRT's benchmark_model: it prints what the real one does, with made-up times.

Formats as in the documentation of tflite/tools/benchmark and in logs that others published. The
outputs are computed by LiteRT. FAKE_TOOL_MODE makes it old, or misbehave.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODE = os.environ.get("FAKE_TOOL_MODE", "")
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
if MODE == "hang":
    time.sleep(60)
if MODE == "fails":
    print("ERROR: Didn't find op for builtin opcode 'CONV_2D' version '99'", file=sys.stderr)
    sys.exit(1)
if MODE == "garbage":
    print("Segmentation fault? count=zwölf")
    sys.exit()
if MODE == "old" and "output_filepath" in flags:
    print("Unrecognized commandline flag: --output_filepath", file=sys.stderr)
    sys.exit(1)
if MODE == "no profiler" and "enable_op_profiling" in flags:
    print("Unknown flag: --enable_op_profiling", file=sys.stderr)
    sys.exit(1)
runs = int(flags["num_runs"])
tail = "" if MODE == "old" else " p5=4000 median=4400 p95=5000"
print("INFO: STARTING!\nINFO: Graph: [model.tflite]", file=sys.stderr)
print("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", file=sys.stderr)
print("INFO: Initialized session in 16.772ms.", file=sys.stderr)
print("INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds", file=sys.stderr)
print("INFO: count=67 first=8781 curr=7197 min=6335 max=9775 avg=7514.93 std=419", file=sys.stderr)
if runs == 1:
    print("INFO: count=1 curr=4500\n", file=sys.stderr)
else:
    print(
        f"INFO: count={runs} first=4100 curr=4500 min=4000 max=5200 avg=4500.5 std=120{tail}\n",
        file=sys.stderr,
    )
print(
    "INFO: Inference timings in us: Init: 16772, First inference: 8781, Warmup (avg): 7514.93, "
    "Inference (avg): 4500.5",
    file=sys.stderr,
)
if flags.get("report_peak_memory_footprint") == "true":
    print("INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5", file=sys.stderr)
if "profiling_output_csv_file" in flags and MODE != "no csv":
    head = "node type, first, avg_ms, %, cdf%, mem KB, times called, name"
    bar = "=" * 30
    Path(flags["profiling_output_csv_file"]).write_text(
        f"Profiling Info for Benchmark Initialization:\n{bar} Run Order {bar}\n{head}\n"
        "ModifyGraphWithDelegate, 14.842, 14.842, 99.3%, 99.3%, 3428, 1, "
        "ModifyGraphWithDelegate/0\nAllocateTensors, 0.1, 0.1, 0.7%, 100%, 0, 1, "
        "AllocateTensors/0\n\n"
        "Operator-wise Profiling Info for Regular Benchmark Runs:\n"
        f"{bar} Run Order {bar}\n{head}\n"
        "Convolution (NHWC, QC8) IGEMM, 2.9, 3.0, 66%, 66%, 0, 1, "
        "Delegate/Convolution (NHWC\t QC8) IGEMM:0\n"
        "Convolution (NHWC, QC8) DWConv, 0.9, 1.0, 22%, 88%, 0, 1, "
        "Delegate/Convolution (NHWC\t QC8) DWConv:1\n"
        "Add (ND, QS8), 0.09, 0.1, 2%, 90%, 0, 1, Delegate/Add (ND\t QS8):2\n"
        "MEAN, 0.2, 0.2, 4%, 94%, 0, 1, [mean:out]:3\n"
        "Fully Connected (NC, QS8, QC8W) GEMM, 0.1, 0.2, 6%, 100%, 0, 1, "
        "Delegate/Fully Connected (NC\t QS8\t QC8W) GEMM:4\n\n"
        f"{bar} Top by Computation Time {bar}\n{head}\n"
        "Convolution (NHWC, QC8) IGEMM, 2.9, 3.0, 66%, 66%, 0, 1, x:0\n\n"
        "Number of nodes executed: 5\n"
    )
if "output_filepath" in flags:
    model = Interpreter(model_path=flags["graph"])
    model.allocate_tensors()
    files = dict(part.split(":") for part in flags["input_layer_value_files"].split(","))
    for (_, file), wanted in zip(files.items(), model.get_input_details(), strict=True):
        data = np.fromfile(file, wanted["dtype"]).reshape(wanted["shape"])
        model.set_tensor(wanted["index"], data)
    model.invoke()
    with open(flags["output_filepath"], "wb") as stream:
        for output in model.get_output_details():
            stream.write(model.get_tensor(output["index"]).tobytes())
