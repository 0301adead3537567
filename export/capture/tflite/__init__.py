"""From a .tflite file to the master graph.

`from_tflite` in `reader`; `operators` has the one table of what is translated.
"""
