"""TFLite files: a plain model, a writer of its bytes and a reader that trusts no offset.

Only numpy and flatbuffers are needed.

- `load`, `save`: between a file and `Model`
- `decode`, `encode`: between bytes and `Model`
- `Model`, `Subgraph`, `Tensor`, `Quantization`, `Operator`, `Signature`: the plain data
"""

from edgec.export.tflite.decode import decode, load
from edgec.export.tflite.encode import encode, save
from edgec.export.tflite.model import (
    ABSENT,
    Model,
    Operator,
    Quantization,
    Signature,
    Subgraph,
    Tensor,
)

__all__ = [
    "ABSENT",
    "Model",
    "Operator",
    "Quantization",
    "Signature",
    "Subgraph",
    "Tensor",
    "decode",
    "encode",
    "load",
    "save",
]
