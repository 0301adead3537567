"""A STAND-IN for NVIDIA's trtexec: takes the options that edgec's scripts use, builds nothing real.

What it calls an engine is the ONNX file; running it is ONNX Runtime. STANDIN_TRTEXEC_NUMBER is the
version as the banner of the real one writes it (8201, 100300); STANDIN_TRTEXEC_LOG names a file for
its arguments; STANDIN_TRTEXEC_FAIL = nan | killed | silent.
"""

import json
import os
import sys
from pathlib import Path

FAIL = os.environ.get("STANDIN_TRTEXEC_FAIL", "")
NUMBERS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def numbers(array):
    """As C++ streams print them."""
    return ", ".join("nan" if FAIL == "nan" else "%g" % value for value in array.ravel())


def main():
    print(
        "&&&& RUNNING TensorRT.trtexec [TensorRT v%s] # trtexec"
        % os.environ["STANDIN_TRTEXEC_NUMBER"]
    )
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if "STANDIN_TRTEXEC_LOG" in os.environ and len(options) > 1:
        Path(os.environ["STANDIN_TRTEXEC_LOG"]).write_text(json.dumps(sys.argv[1:]))
    if "--saveEngine" in options:
        if FAIL == "killed":
            os.kill(os.getpid(), 9)
        Path(options["--saveEngine"]).write_bytes(Path(options["--onnx"]).read_bytes())
        Path(options["--exportLayerInfo"]).write_text('{"Layers": ["a"], "Bindings": []}')
    elif "--loadEngine" in options and FAIL != "silent":
        run(options)


def run(options):
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(options["--loadEngine"])
    files = dict(part.rpartition(":")[::2] for part in options["--loadInputs"].split(","))
    feeds = {
        i.name: np.fromfile(files.pop(i.name), NUMBERS[i.type]).reshape(i.shape)
        for i in session.get_inputs()
    }
    assert not files, "inputs that the engine does not have"
    outputs = session.run(None, feeds)
    warm = {"startEnqMs": 0.0, "computeMs": 9.0, "latencyMs": 9.5}
    runs = [{**warm, "computeMs": 1.0 + i / 1000} for i in range(int(options["--iterations"]) + 2)]
    Path(options["--exportTimes"]).write_text(json.dumps(runs))
    layer = {"name": "a", "timeMs": 5.0, "averageMs": 0.5, "medianMs": 0.4, "percentage": 100.0}
    Path(options["--exportProfile"]).write_text(json.dumps([{"count": 10}, layer]))
    rows = [
        '{ "name" : "%s"\n  , "dimensions" : "%s"\n  , "values" : [ %s ]\n  }'
        % (o.name, "x".join(map(str, array.shape)), numbers(array))
        for o, array in zip(session.get_outputs(), outputs)
    ]
    Path(options["--exportOutput"]).write_text("[\n" + "\n, ".join(rows) + "\n]\n")


main()
