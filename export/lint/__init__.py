"""Static checks of an ONNX graph against what a target's runtime executes."""
