"""Command line of edgec: one module per verb, each a thin function over the Python API.

Results go to stdout, progress and messages to stderr. Nothing here imports torch, onnx or
onnxruntime at the top, so that ``edgec --help`` starts at once.
"""

from edgec.export.cli.app import main

__all__ = ["main"]
