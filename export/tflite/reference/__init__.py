"""Runs an integer TFLite model in numpy, step for step as LiteRT's reference kernels do.

`run` in `executor`. Slow and plain: what an operator of a file means, to the last bit, for checking
generated code and other runtimes without the interpreter. Source of the arithmetic: the TFLite
8-bit quantization specification and the fixed-point functions of gemmlowp (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, arXiv:1712.05877).
"""
