"""C artifacts on this machine."""
