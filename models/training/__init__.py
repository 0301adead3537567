"""Training of the small CIFAR-10 checkpoints that ship with edgec."""
