"""What a target or an opset demands."""
