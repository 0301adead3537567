"""An engine with its buffers, run through TensorRT's Python module and CUDA's runtime library.

Standard library only beside tensorrt, Python 3.6 syntax: JetPack 4.6 has nothing newer, and numpy
need not be there.
"""

import array
import ast
import ctypes
import struct
import zipfile

from edgec_device import Failure, load_cudart

# numpy's letters, bytes per element, array typecode; half floats are unpacked by struct
TYPES = {
    "float32": ("<f4", 4, "f"),
    "float16": ("<f2", 2, None),
    "int32": ("<i4", 4, "i"),
    "int64": ("<i8", 8, "q"),
    "int8": ("|i1", 1, "b"),
    "uint8": ("|u1", 1, "B"),
    "bool": ("|b1", 1, "B"),
}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


def read_npz(path):
    """Arrays of an .npz as (type, shape, bytes), without numpy (NPY format, version 1 and 2)."""
    found = {}
    letters = dict((v[0], k) for k, v in TYPES.items())
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                data = archive.read(member)
                if data[:6] != b"\x93NUMPY":
                    raise ValueError("%s is no NPY array" % member)
                width = 2 if data[6] == 1 else 4
                (size,) = struct.unpack("<H" if width == 2 else "<I", data[8 : 8 + width])
                start = 8 + width + size
                header = ast.literal_eval(data[8 + width : start].decode("latin-1"))
                if header["fortran_order"] or header["descr"] not in letters:
                    raise ValueError("%s has a layout not written by edgec" % member)
                name = member[: -len(".npy")] if member.endswith(".npy") else member
                found[name] = (letters[header["descr"]], header["shape"], data[start:])
    except (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
        raise Failure(7, "cannot read %s: %s" % (path, error), "copy the bundle again")
    return found


def numbers(kind, data):
    """Elements of a buffer as Python numbers."""
    size, code = TYPES[kind][1:]
    if code is None:
        return struct.unpack("<%de" % (len(data) // size), data)
    values = array.array(code)
    values.frombytes(data)
    return values


class Cuda:
    """The few calls of CUDA's runtime that are needed, checked."""

    def __init__(self):
        self.library = load_cudart()
        if self.library is None:
            raise Failure(6, "libcudart is not found", "install CUDA, or set EDGEC_CUDART to it")
        self.library.cudaGetErrorString.restype = ctypes.c_char_p
        self.pointers = []

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            text = self.library.cudaGetErrorString(status)
            raise Failure(
                3,
                "%s: %s" % (name, (text or b"?").decode("utf-8", "replace")),
                "is the GPU free and the engine built on this device?",
            )

    def allocate(self, size):
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self.pointers.append(pointer)
        return pointer.value

    def upload(self, pointer, data):
        self.call(
            "cudaMemcpy", ctypes.c_void_p(pointer), data, ctypes.c_size_t(len(data)), HOST_TO_DEVICE
        )

    def download(self, pointer, size):
        buffer = ctypes.create_string_buffer(size)
        self.call(
            "cudaMemcpy",
            buffer,
            ctypes.c_void_p(pointer),
            ctypes.c_size_t(size),
            DEVICE_TO_HOST,
        )
        return buffer.raw

    def stream(self):
        stream = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(stream))
        self.queue = stream
        return stream.value

    def wait(self):
        self.call("cudaStreamSynchronize", self.queue)

    def close(self):
        for pointer in self.pointers:
            self.library.cudaFree(pointer)


class Session:
    """An engine with buffers for its tensors; the API differs before TensorRT 8.5."""

    def __init__(self, trt, data, cuda):
        self.logger = trt.Logger(trt.Logger.WARNING)
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise Failure(
                3,
                "TensorRT %s cannot read the engine" % trt.__version__,
                "build it on this device: python3 build_engine.py --rebuild",
            )
        self.context = self.engine.create_execution_context()
        self.cuda = cuda
        self.stream = cuda.stream()
        self.named = hasattr(self.engine, "num_io_tensors")
        self.tensors = {}
        self.bindings = []
        kinds = dict(
            (getattr(trt, upper), lower)
            for upper, lower in (
                ("float32", "float32"),
                ("float16", "float16"),
                ("int32", "int32"),
                ("int64", "int64"),
                ("int8", "int8"),
                ("uint8", "uint8"),
                ("bool", "bool"),
            )
            if hasattr(trt, upper)
        )
        count = self.engine.num_io_tensors if self.named else self.engine.num_bindings
        for index in range(count):
            if self.named:
                name = self.engine.get_tensor_name(index)
                is_input = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
                shape, kind = self.engine.get_tensor_shape(name), self.engine.get_tensor_dtype(name)
            else:
                name = self.engine.get_binding_name(index)
                is_input = self.engine.binding_is_input(index)
                shape, kind = (
                    self.engine.get_binding_shape(index),
                    self.engine.get_binding_dtype(index),
                )
            size = TYPES[kinds[kind]][1]
            for dimension in shape:
                size *= dimension
            pointer = cuda.allocate(size)
            self.tensors[name] = (is_input, kinds[kind], size, pointer)
            self.bindings.append(pointer)
            if self.named:
                self.context.set_tensor_address(name, pointer)

    def feed(self, reference):
        for name, (is_input, kind, size, pointer) in self.tensors.items():
            if is_input:
                found = reference.get(name)
                if found is None or found[0] != kind or len(found[2]) != size:
                    raise Failure(7, "golden data does not fit input %r" % name, "export again")
                self.cuda.upload(pointer, found[2])

    def outputs(self):
        """Elements of every output by name, as the last run left them."""
        return dict(
            (name, numbers(kind, self.cuda.download(pointer, size)))
            for name, (is_input, kind, size, pointer) in self.tensors.items()
            if not is_input
        )

    def run(self):
        if self.named:
            done = self.context.execute_async_v3(self.stream)
        else:
            done = self.context.execute_async_v2(self.bindings, self.stream)
        if not done:
            raise Failure(3, "TensorRT could not execute the engine", "see its messages above")
        self.cuda.wait()


def layer_times(trt, session, runs):
    """Mean milliseconds by layer, from runs of their own: asking for them costs time."""
    order, totals = [], {}

    class Profiler(trt.IProfiler):
        def __init__(self):
            trt.IProfiler.__init__(self)

        def report_layer_time(self, name, milliseconds):
            if name not in totals:
                order.append(name)
                totals[name] = 0.0
            totals[name] += milliseconds

    session.context.profiler = Profiler()
    for _ in range(runs):
        session.run()
    return [{"name": name, "ms": round(totals[name] / runs, 6)} for name in order]
