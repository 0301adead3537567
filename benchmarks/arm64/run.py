"""The simulated side of `_arm64.py`: runs a network and marks where each inference begins and ends.

python3 run.py NETWORK.(tflite|onnx) INPUTS.npz OUTPUTS.npz INFERENCES
"""

import os
import sys

import numpy as np


def tflite(path, inputs):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    outputs = interpreter.get_output_details()
    return interpreter.invoke, lambda: {
        d["name"]: interpreter.get_tensor(d["index"]) for d in outputs
    }


def onnx(path, inputs):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {one.name: inputs[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    return (
        lambda: session.run(None, feeds),
        lambda: dict(zip(names, session.run(None, feeds), strict=True)),
    )


def main():
    path, inputs, outputs, inferences = sys.argv[1:]
    with np.load(inputs) as arrays:
        feeds = dict(arrays)
    infer, results = (tflite if path.endswith(".tflite") else onnx)(path, feeds)
    infer()
    for _ in range(int(inferences)):
        os.getppid()
        infer()
        os.getppid()
    np.savez(outputs, **results())


main()
