"""Writes a graph as a self-contained ONNX file with reproducible bytes."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.errors import UnsupportedError

PROTOBUF_LIMIT = (1 << 31) - 1


def serialize(model: ir.Model, producer: str) -> bytes:
    """Serialize `model`; equal graphs give equal bytes.

    Args:
        model: left as it is except for the producer name.
        producer: name and version for the file's ``producer_name``.

    Raises:
        UnsupportedError: larger than protobuf's 2 GiB.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size >= PROTOBUF_LIMIT:
        raise UnsupportedError(
            "EC386",
            f"the network holds {size / 2**30:.1f} GiB of parameters",
            why="one ONNX file can hold 2 GiB",
            fix="edgec is for networks of edge devices; reduce or split the network",
        )
    model.producer_name = producer
    model.producer_version = None
    model.doc_string = None
    proto = ir.to_proto(model)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
