"""A STAND-IN for NVIDIA's tensorrt module: checks how its API is used, builds nothing real.

What it calls an engine holds the ONNX file; executing it is ONNX Runtime on "device" memory that a
stand-in for CUDA's runtime library (cudart.c beside this file) hands out.

STANDIN_TRT_VERSION chooses the version it imitates (8.2, 10.3, 11.4); what a version does not have
is not defined, so a wrong call fails like on the device.
STANDIN_TRT_FAIL = parse | build | killed | load | run | slow.
"""

import base64
import ctypes
import enum
import hashlib
import json
import os
import time

__version__ = os.environ.get("STANDIN_TRT_VERSION", "10.3.0.30")
_MAJOR, _MINOR = (int(p) for p in __version__.split(".")[:2])
_FAIL = os.environ.get("STANDIN_TRT_FAIL", "")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    if _MAJOR < 10:
        EXPLICIT_BATCH = 0
    if _MAJOR == 10:
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    if _MAJOR < 11:
        FP16 = 0
        INT8 = 1
        OBEY_PRECISION_CONSTRAINTS = 9
    TF32 = 7


class ProfilingVerbosity(enum.IntEnum):
    DETAILED = 2


if (_MAJOR, _MINOR) >= (8, 4):

    class MemoryPoolType(enum.IntEnum):
        WORKSPACE = 0


class Logger:
    WARNING = 1

    def __init__(self, severity):
        assert severity == self.WARNING


class _Tensor:
    def __init__(self, name):
        self.name = name


class _Layer:
    """Strongly typed networks refuse both settings, so there they are not to be made."""

    num_outputs = 1

    def __init__(self, name, dtype):
        self.name = name
        self.precision = None
        self.types = {}
        self.dtype = dtype

    def get_output(self, index):
        assert index == 0
        return self

    def set_output_type(self, index, dtype):
        assert index == 0
        assert self.dtype is float32
        self.types[index] = dtype


class _Network:
    def __init__(self, flags):
        self.flags = flags
        self.inputs = []

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class OnnxParser:
    def __init__(self, network, logger):
        assert isinstance(network, _Network)
        assert isinstance(logger, Logger)
        self.network = network
        self.num_errors = 0

    def parse(self, data):
        import onnx

        if _FAIL == "parse":
            self.num_errors = 1
            return False
        model = onnx.load_model_from_string(data)
        self.network.inputs = [_Tensor(i.name) for i in model.graph.input]
        shapes = {"Shape", "Size", "ArgMax"}
        self.network.layers = [
            _Layer(n.name, int32 if n.op_type in shapes else float32) for n in model.graph.node
        ]
        self.network.model = data
        self.network.digest = hashlib.sha256(data).hexdigest()
        return True

    def get_error(self, index):
        return "In node 3 with name: x and operator: Frobnicate: UNSUPPORTED_NODE"


class _TimingCache:
    def __init__(self, data):
        self.data = bytes(data)

    def serialize(self):
        return self.data + b"+"


class _Config:
    def __init__(self):
        self.flags = []
        self.cache = None
        self.pools = {}

    if (_MAJOR, _MINOR) >= (8, 4):

        def set_memory_pool_limit(self, pool, size):
            assert size > 0
            self.pools[pool] = size

    if _MAJOR < 11:

        def set_flag(self, flag):
            self.flags.append(BuilderFlag(flag).name)

    def create_timing_cache(self, data):
        return _TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class Builder:
    def __init__(self, logger):
        assert isinstance(logger, Logger)

    def create_network(self, flags):
        return _Network(flags)

    def create_builder_config(self):
        return _Config()

    def build_serialized_network(self, network, config):
        if _FAIL == "build":
            return None
        if _FAIL == "killed":
            os.kill(os.getpid(), 9)
        if _FAIL == "slow":
            for step in range(20):
                print("[TRT] tactic %d of 20" % step, flush=True)
                time.sleep(0.1)
        pinned = [la.name for la in network.layers if la.precision is float32 is la.types.get(0)]
        assert not pinned or "OBEY_PRECISION_CONSTRAINTS" in config.flags
        for name in pinned:
            print("[TRT] float32: " + name)
        workspace = getattr(config, "max_workspace_size", None) or config.pools[0]
        return (
            "STAND-IN %s flags=%d precision=%s workspace=%d onnx=%s\n"
            % (__version__, network.flags, "+".join(config.flags), workspace, network.digest)
        ).encode() + base64.b64encode(network.model)


class _Type(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT32 = "int32"


float32, float16, int32 = _Type.FLOAT, _Type.HALF, _Type.INT32


class LayerInformationFormat(enum.IntEnum):
    JSON = 1


class IProfiler:
    def __init__(self):
        self.ready = True


class _Inspector:
    def __init__(self, layers):
        self.layers = layers

    def get_engine_information(self, format):
        assert format is LayerInformationFormat.JSON
        key = "I/O Tensors" if _MAJOR >= 11 else "Bindings"
        return json.dumps(
            {"Layers": [{"Name": n, "LayerType": t} for n, t in self.layers], key: []}
        )


class _Context:
    def __init__(self, engine):
        self.engine = engine
        self.addresses = {}
        self.profiler = None

    if (_MAJOR, _MINOR) >= (8, 5):

        def set_tensor_address(self, name, address):
            assert any(name == t[0] for t in self.engine.tensors)
            self.addresses[name] = address

        def execute_async_v3(self, stream):
            return self._run(stream)

    if _MAJOR < 10:

        def execute_async_v2(self, bindings, stream):
            assert len(bindings) == len(self.engine.tensors)
            self.addresses = {t[0]: b for t, b in zip(self.engine.tensors, bindings)}
            return self._run(stream)

    def _run(self, stream):
        import numpy as np

        assert stream
        if _FAIL == "run":
            return False
        feeds = {}
        for name, is_input, shape, kind in self.engine.tensors:
            if is_input:
                size = int(np.prod(shape)) * np.dtype(kind.value).itemsize
                data = ctypes.string_at(self.addresses[name], size)
                feeds[name] = np.frombuffer(data, kind.value).reshape(shape)
        outputs = self.engine.session.run(None, feeds)
        for info, array in zip(self.engine.session.get_outputs(), outputs):
            data = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(self.addresses[info.name], data, len(data))
        if self.profiler is not None:
            assert self.profiler.ready, "IProfiler.__init__ was not called"
            for index, (name, _) in enumerate(self.engine.layers):
                self.profiler.report_layer_time(name, 0.25 * (index + 1))
        return True


class _Engine:
    def __init__(self, model):
        import onnx
        import onnxruntime

        self.session = onnxruntime.InferenceSession(model)
        types = {"tensor(float)": float32, "tensor(float16)": float16, "tensor(int32)": int32}
        self.tensors = [(i.name, True, i.shape, types[i.type]) for i in self.session.get_inputs()]
        self.tensors += [
            (o.name, False, o.shape, types[o.type]) for o in self.session.get_outputs()
        ]
        nodes = onnx.load_model_from_string(model).graph.node
        self.layers = [(n.name or n.output[0], n.op_type) for n in nodes]

    def create_execution_context(self):
        return _Context(self)

    def create_engine_inspector(self):
        return _Inspector(self.layers)

    if (_MAJOR, _MINOR) >= (8, 5):

        @property
        def num_io_tensors(self):
            return len(self.tensors)

        def get_tensor_name(self, index):
            return self.tensors[index][0]

        def _named(self, name):
            return next(t for t in self.tensors if t[0] == name)

        def get_tensor_mode(self, name):
            return TensorIOMode.INPUT if self._named(name)[1] else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name):
            return tuple(self._named(name)[2])

        def get_tensor_dtype(self, name):
            return self._named(name)[3]

    if _MAJOR < 10:

        @property
        def num_bindings(self):
            return len(self.tensors)

        def get_binding_name(self, index):
            return self.tensors[index][0]

        def binding_is_input(self, index):
            return self.tensors[index][1]

        def get_binding_shape(self, index):
            return tuple(self.tensors[index][2])

        def get_binding_dtype(self, index):
            return self.tensors[index][3]


if (_MAJOR, _MINOR) >= (8, 5):

    class TensorIOMode(enum.Enum):
        INPUT = 1
        OUTPUT = 2


class Runtime:
    def __init__(self, logger):
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, plan):
        head, _, model = bytes(plan).partition(b"\n")
        if _FAIL == "load" or __version__.encode() not in head:
            return None
        return _Engine(base64.b64decode(model))
