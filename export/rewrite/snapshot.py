"""A graph at one moment: to run it and to write it down without copying its weights.

The numeric check runs the graph after every pass. Serializing all weights each time would cost more
than running it, so a snapshot keeps the large ones as arrays, which it shares with the graph, and
only the rest as protobuf. Passes replace constants and never write into them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgec.export.rewrite import numerics
from edgec.export.rewrite.numerics import Array

_SMALL = 1024
"""Initializers up to this many bytes stay in the protobuf, where shape inference can see them."""

_SHARED = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT32,
        ir.DataType.INT64,
    }
)
"""Types that numpy and ONNX Runtime store alike."""


@dataclass(frozen=True)
class Snapshot:
    """A graph at one moment.

    Attributes:
        proto: the model, deterministic protobuf; the weights in `weights` are external data.
        weights: large initializers of the main graph by name.
        unread: names of those that no node reads; ONNX Runtime forgets them when it loads a model.
    """

    proto: bytes
    weights: Mapping[str, Array]
    unread: frozenset[str]

    @classmethod
    def of(cls, model: ir.Model) -> Snapshot:
        """`model` as it is now."""
        with weights_apart(model) as weights:
            initializers = model.graph.initializers
            unread = frozenset(name for name in weights if not initializers[name].uses())
            return cls(numerics.onnx_bytes(ir.to_proto(model)), weights, unread)

    def run(self, feeds: Sequence[Mapping[str, Array]], *, optimize: bool = False) -> list[Array]:
        """All outputs for each of `feeds`, in one flat list; as `numerics.run`."""
        runner = self.session(optimize=optimize)
        return [array for feed in feeds for array in runner.run(None, dict(feed))]

    def session(self, *, optimize: bool = False) -> ort.InferenceSession:
        """As `numerics.session`."""
        options = numerics.session_options(optimize=optimize)
        names = [name for name in self.weights if name not in self.unread]
        values = [ort.OrtValue.ortvalue_from_numpy(self.weights[name]) for name in names]
        options.add_external_initializers(names, values)
        return ort.InferenceSession(self.proto, options, providers=["CPUExecutionProvider"])

    def to_bytes(self) -> bytes:
        """The whole model in one piece."""
        proto = onnx.load_model_from_string(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = self.weights[tensor.name].tobytes()
        return numerics.onnx_bytes(proto)


@contextlib.contextmanager
def weights_apart(model: ir.Model) -> Iterator[dict[str, Array]]:
    """Within the context, the large initializers of `model` are references to external data.

    Yields their arrays by name. Initializers that the caller of the model could replace (graph
    inputs too), and those that are graph outputs, stay.
    """
    tensors: dict[ir.Value, ir.TensorProtocol] = {}
    weights: dict[str, Array] = {}
    offset = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output():
            continue
        if tensor.nbytes > _SMALL and tensor.dtype in _SHARED:
            tensors[value], weights[name] = tensor, np.ascontiguousarray(tensor.numpy())
    try:
        for value, tensor in tensors.items():
            value.const_value = ir.ExternalTensor(
                "weights",
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(weights[value.name or ""].shape),
                name=value.name or "",
            )
            offset += tensor.nbytes
        yield weights
    finally:
        for value, tensor in tensors.items():
            value.const_value = tensor


def hold_weights(model: ir.Model) -> None:
    """Keep large initializers as arrays rather than as protobuf, which copies at each access."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if (
            isinstance(tensor, ir.serde.TensorProtoTensor)
            and tensor.nbytes > _SMALL
            and tensor.dtype in _SHARED
        ):
            value.const_value = ir.Tensor(
                tensor.numpy(),
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
