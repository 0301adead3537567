"""Which operators of a .tflite file a delegate takes over, and into how many parts that cuts it."""
