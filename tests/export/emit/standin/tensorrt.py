"""A STAND-IN for NVIDIA's tensorrt module: checks how its API is used, builds nothing real.

STANDIN_TRT_VERSION chooses the version it imitates (8.2, 10.3, 11.4); what a version does not have
is not defined, so a wrong call fails like on the device. STANDIN_TRT_FAIL = parse | build.
"""

import enum
import hashlib
import os

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


class _Network:
    def __init__(self, flags):
        self.flags = flags
        self.inputs = []

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]


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
        workspace = getattr(config, "max_workspace_size", None) or config.pools[0]
        return (
            "STAND-IN %s flags=%d precision=%s workspace=%d onnx=%s"
            % (__version__, network.flags, "+".join(config.flags), workspace, network.digest)
        ).encode()
