"""Find the operators that exporters spelled out, before anything else touches them."""
