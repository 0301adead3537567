"""Joint fine-tuning of what post-training quantization may choose, by distillation."""
