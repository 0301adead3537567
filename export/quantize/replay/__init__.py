"""ONNX graphs executed by torch, with gradients: what learned quantization needs of any network."""
