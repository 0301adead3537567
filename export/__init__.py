"""From a network to a checked deployment bundle: capture, rewrite, quantize, emit."""
