"""TensorRT engines of a bundle, built and measured on the device they are for."""
