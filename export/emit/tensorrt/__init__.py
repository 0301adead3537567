"""TensorRT: what is needed to build an engine on the device, where alone it can be built."""
