"""Range and scale search for hybrid vision transformers (Q-HyViT, arXiv 2303.12557)."""
