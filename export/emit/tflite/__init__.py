"""Writer of .tflite files: an ONNX graph, float or Q/DQ, becomes TFLite operators.

Two steps, kept apart: `lower.lower` makes an in-memory `edgec.export.tflite.model.Model`, which
other backends read as well; `write.convert` adds precision and metadata and encodes it.
"""
