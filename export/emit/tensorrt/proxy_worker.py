"""Compile one ONNX file ahead of time with TensorRT for RTX, without a GPU; JSON on stdout.

    python proxy_worker.py MODEL.onnx SM86

Runs in a process of its own, with a Python that has NVIDIA's tensorrt-rtx wheels and nothing of
edgec: the library keeps its first logger for good, and what it does wrong ends only this process.
"""

import hashlib
import importlib
import json
import re
import sys
from typing import Any

LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[\w-]+), Inputs: ")
DATATYPE = re.compile(r"Datatype: (\w+)")
MEMORY = {
    "activation_bytes": re.compile(r"^Total Activation Memory: (\d+) bytes"),
    "weight_bytes": re.compile(r"^Total Weights Memory: (\d+) bytes"),
    "scratch_bytes": re.compile(r"^Max Scratch Memory: (\d+) bytes"),
}


def module() -> Any:
    """The bindings, under the name that this version's wheels use."""
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise SystemExit("tensorrt_rtx is not installed for " + sys.executable)


def compile_model(path: str, capability: str) -> dict[str, Any]:
    """Parse and build; what the compiler said of its kernels."""
    trt = module()
    messages: list[tuple[int, str]] = []

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.append((int(getattr(severity, "value", severity)), message))

    logger = Log()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    answer: dict[str, Any] = {"version": trt.__version__, "capability": capability}
    with open(path, "rb") as stream:
        parsed = parser.parse(stream.read())
    answer["parsed"] = bool(parsed)
    if not parsed:
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        return answer | {"built": False, "errors": errors}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        worst = [text for severity, text in messages if severity <= 1]
        return answer | {"built": False, "errors": worst[-5:]}
    data = bytes(engine)
    answer |= {"built": True, "errors": [], "engine_bytes": len(data)}
    answer["engine_sha256"] = hashlib.sha256(data).hexdigest()
    return answer | read_messages([text for _, text in messages])


def read_messages(messages: list[str]) -> dict[str, Any]:
    """Kernels (name, kind, output types) and memory from the compiler's messages."""
    kernels: list[dict[str, Any]] = []
    memory: dict[str, int] = {}
    for message in messages:
        for key, pattern in MEMORY.items():
            found = pattern.match(message)
            if found:
                memory[key] = int(found[1])
        if not message.startswith("Layers:\n"):
            continue
        for line in message.splitlines():
            found = LAYER.match(line)
            if found:
                after = line.partition("Outputs: [ ")[2].partition(" }]")[0]
                types = sorted(set(DATATYPE.findall(after)))
                kernels.append({"name": found["name"], "kind": found["kind"], "types": types})
    return {"kernels": kernels, **memory}


if __name__ == "__main__":
    print(json.dumps(compile_model(sys.argv[1], sys.argv[2])))
