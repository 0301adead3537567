"""How much the network's output depends on the precision of each block."""
