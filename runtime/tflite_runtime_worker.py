"""The other end of tflite_runtime_runner: runs with another Python, so it imports nothing of edgec.

Arguments: folder for the exchange, number of threads. Reads ``start`` and ``run`` from standard
input, answers each with a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_MAX_REASON = 500


def main() -> None:
    """Answer requests until standard input ends."""
    folder, threads = sys.argv[1], int(sys.argv[2])
    # what libraries print to standard output must not be taken for an answer
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    interpreter = None
    for line in sys.stdin:
        try:
            if line.strip() == "start":
                answer: dict[str, Any] = {}
                interpreter = load(os.path.join(folder, "model.tflite"), threads, answer)
            else:
                run(interpreter, folder)
                answer = {"done": True}
        except Exception as error:  # whatever it is, the other side reports it
            text = str(error).strip() or type(error).__name__
            answer = {"error": text.splitlines()[0][:_MAX_REASON]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def load(path: str, threads: int, answer: dict[str, Any]) -> Any:
    """An interpreter with its tensors allocated, or None and the reason in `answer`."""
    try:
        import numpy
        import tflite_runtime
        from tflite_runtime.interpreter import Interpreter
    except ImportError as error:
        answer["missing"] = str(error)
        return None
    if int(numpy.__version__.split(".")[0]) >= 2:
        answer["missing"] = "tflite-runtime 2.14 crashes with numpy " + numpy.__version__
        return None
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    answer["runtime"] = tflite_runtime.__version__
    return interpreter


def run(interpreter: Any, folder: str) -> None:
    """One inference on the files input0.npy, …; its results are output0.npy, …"""
    import numpy

    for position, detail in enumerate(interpreter.get_input_details()):
        array = numpy.load(os.path.join(folder, f"input{position}.npy"), allow_pickle=False)
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    for position, detail in enumerate(interpreter.get_output_details()):
        array = interpreter.get_tensor(detail["index"])
        numpy.save(os.path.join(folder, f"output{position}.npy"), array, allow_pickle=False)


if __name__ == "__main__":
    main()
